import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { definedOps } from '../engine/op.ts';
import { scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { add, backward, mul, sum } from '../ops/index.ts';
import { Random } from '../models/nn/random.ts';
import { adapters } from './support/adapters.ts';
import { readOpCases } from './support/golden-ops.ts';
import { type HostTensor, readTensors } from './support/golden-types.ts';
import { moreCases } from './support/more-cases.ts';
import { opNames } from './support/support-table.ts';

/** Elements of each input that are moved. */
const SAMPLES = 10;
const STEP = 1e-5;
/** Largest relative error; central differences in f64 leave about 1e-9. */
const TOLERANCE = 2e-5;

const backend = new ReferenceBackend({ double: true });
const check = suite('gradients in f64 against central differences');

interface Case {
  readonly id: string;
  readonly inputs: readonly HostTensor[];
  /** For each input, whether its gradient is checked. */
  readonly differentiable: readonly boolean[];
  /** Step of what rounds to a grid, where only whole steps show a slope. */
  readonly grid?: number;
  run(inputs: Tensor[]): Tensor[];
}

async function goldenCases(folder: string): Promise<Case[]> {
  const tensors = await readTensors(folder, 'tensors');
  return readOpCases(folder).map((op) => {
    // A loss without a gradient to its second input stops it on purpose: differences would see through.
    const stopped = /no gradient to the second input/.test(String(op.attrs.note ?? ''));
    return {
      id: op.id,
      inputs: op.inputs.map((name) => tensors.get(name)!),
      differentiable: op.in_grads.map((name, i) => name !== null && !(stopped && i === 1)),
      run: (inputs) => [adapters[op.op](inputs, op.attrs)].flat(),
    };
  });
}

/** Σ outputs·weights, so that every output has a gradient of its own. */
class Projection {
  private readonly weights: Float64Array[] = [];
  private readonly random = new Random(7);

  constructor(private readonly one: Case) {}

  of(inputs: Tensor[]): Tensor {
    const outputs = this.one.run(inputs).filter((y) => y.dtype === 'f32');
    return outputs.map((y, i) => sum(mul(y, fromData(backend, this.weight(i, y.size), y.shape)))).reduce(add);
  }

  /** The sum itself for these numbers. */
  async at(data: Float64Array[]): Promise<number> {
    const loss = scope(() => noGrad(() => this.of(upload(this.one.inputs, data))));
    const result = await loss.item();
    loss.dispose();
    return result;
  }

  private weight(i: number, size: number): Float64Array {
    const { grid } = this.one;
    const draw = () => (grid ? Math.round(this.random.normal() / grid) * grid : this.random.normal());
    return (this.weights[i] ??= Float64Array.from({ length: size }, draw));
  }
}

function upload(host: readonly HostTensor[], data: Float64Array[]): Tensor[] {
  return host.map((h, i) => fromData(backend, h.dtype === 'f32' ? data[i] : h.data, h.shape, h.dtype));
}

async function checkCase(one: Case): Promise<void> {
  const random = new Random(8);
  const data = one.inputs.map((h) => Float64Array.from(h.data));
  const projection = new Projection(one);
  const grads = scope(() => {
    const inputs = upload(one.inputs, data);
    inputs.forEach((t, i) => (t.requiresGrad = one.differentiable[i]));
    backward(projection.of(inputs));
    return inputs.map((t) => t.grad?.detach() ?? null);
  });
  const step = one.grid ?? STEP;
  for (const [i, grad] of grads.entries()) {
    if (!one.differentiable[i]) continue;
    const analytic = grad ? await grad.data() : new Float64Array(data[i].length);
    const scale = Math.max(1e-3, ...Array.from(analytic, Math.abs));
    for (let k = 0; k < Math.min(SAMPLES, data[i].length); k++) {
      const at = random.integer(data[i].length);
      const before = data[i][at];
      data[i][at] = before + step;
      const up = await projection.at(data);
      data[i][at] = before - step;
      const down = await projection.at(data);
      data[i][at] = before;
      const numeric = (up - down) / (2 * step);
      const error = Math.abs(numeric - analytic[at]) / scale;
      assert.ok(error < TOLERANCE, `input ${i}[${at}]: ${analytic[at]} against ${numeric} by differences`);
    }
    grad?.dispose();
  }
  assert.is(backend.memory.live, 0, 'live bytes after the check');
}

/** Names of the ops whose backward ran. */
const walked = new Set<string>();
for (const op of definedOps() as unknown as { name: string; backward?: (...args: unknown[]) => unknown }[]) {
  const own = op.backward;
  if (!own) continue;
  op.backward = (...args) => {
    walked.add(op.name);
    return own.apply(op, args);
  };
}

const more = moreCases.filter((one) => one.differentiable);
const cases: Case[] = [
  ...(await goldenCases('test/golden/ops')),
  ...more.map((one) => ({
    ...one,
    differentiable: one.inputs.map(() => true),
    run: (inputs: Tensor[]) => one.run(inputs, backend),
  })),
];
for (const one of cases) if (one.differentiable.includes(true)) check(one.id, () => checkCase(one));

check('every op with a backward has a case', () => {
  const names = new Set(definedOps().flatMap(({ name, backward }) => (backward ? [name] : [])));
  assert.ok(names.size > 50);
  const without = opNames().filter((name) => names.has(name) && !walked.has(name));
  assert.equal(without, [], 'add a case to support/more-cases.ts');
});

check.run();
