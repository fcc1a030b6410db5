import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { Random } from '../engine/random.ts';
import { scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { add, backward, mul, sum } from '../ops/index.ts';
import { adapters, type OpCase, readOpCases } from './support/golden-ops.ts';
import { type HostTensor, readTensors } from './support/golden-types.ts';

/** Elements of each input that are moved. */
const SAMPLES = 10;
const STEP = 1e-5;
/** Largest relative error; central differences in f64 leave about 1e-9. */
const TOLERANCE = 2e-5;

const backend = new ReferenceBackend({ double: true });
const check = suite('gradients in f64 against central differences');
const folder = 'test/golden/ops';
const tensors = await readTensors(folder, 'tensors');

/** Σ outputs·weights of an op, so that every output has a gradient of its own. */
function project(op: OpCase, inputs: Tensor[], weights: Float64Array[]): Tensor {
  const outputs = [adapters[op.op](inputs, op.attrs)].flat();
  return outputs
    .filter((y) => y.dtype === 'f32')
    .map((y, i) => sum(mul(y, fromData(backend, weights[i].subarray(0, y.size), y.shape))))
    .reduce(add);
}

async function value(op: OpCase, host: HostTensor[], data: Float64Array[], weights: Float64Array[]): Promise<number> {
  const loss = scope(() => noGrad(() => project(op, upload(host, data), weights)));
  const result = await loss.item();
  loss.dispose();
  return result;
}

function upload(host: HostTensor[], data: Float64Array[]): Tensor[] {
  return host.map((h, i) => fromData(backend, h.dtype === 'f32' ? data[i] : h.data, h.shape, h.dtype));
}

for (const op of readOpCases(folder)) {
  // A loss without a gradient to its second input stops it on purpose: differences would see through.
  const stopped = /no gradient to the second input/.test(String(op.attrs.note ?? ''));
  const differentiable = op.in_grads.map((name, i) => name !== null && !(stopped && i === 1));
  if (!differentiable.includes(true)) continue;
  check(op.id, async () => {
    const random = new Random(7);
    const host = op.inputs.map((name) => tensors.get(name)!);
    const data = host.map((h) => Float64Array.from(h.data));
    const weights = op.outputs.map((name) => Float64Array.from(tensors.get(name)!.data, () => random.normal()));
    const grads = scope(() => {
      const inputs = upload(host, data);
      inputs.forEach((t, i) => (t.requiresGrad = differentiable[i]));
      backward(project(op, inputs, weights));
      return inputs.map((t) => t.grad?.detach() ?? null);
    });
    for (const [i, grad] of grads.entries()) {
      if (!differentiable[i]) continue;
      const analytic = grad ? await grad.data() : new Float64Array(data[i].length);
      const scale = Math.max(1e-3, ...Array.from(analytic, Math.abs));
      for (let k = 0; k < Math.min(SAMPLES, data[i].length); k++) {
        const at = random.integer(data[i].length);
        const before = data[i][at];
        data[i][at] = before + STEP;
        const up = await value(op, host, data, weights);
        data[i][at] = before - STEP;
        const down = await value(op, host, data, weights);
        data[i][at] = before;
        const numeric = (up - down) / (2 * STEP);
        const error = Math.abs(numeric - analytic[at]) / scale;
        assert.ok(error < TOLERANCE, `input ${i}[${at}]: ${analytic[at]} against ${numeric} by differences`);
      }
      grad?.dispose();
    }
    assert.is(backend.memory.live, 0, 'live bytes after the check');
  });
}

check.run();
