import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { decode, type DType, type HostArray } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData } from '../../engine/tensor.ts';
import { backwardFrom } from '../../ops/index.ts';
import type { Run, Sizes } from '../cases/case.ts';
import { Inputs, random } from './inputs.ts';

export { random } from './inputs.ts';

/** A result on the host: numbers, whatever the format they are stored in. */
export interface Result {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: HostArray;
  /** Whether it is the gradient of a leaf. */
  readonly gradient: boolean;
}

/** What a call gives, then the gradients of its leaves that there are, for fixed gradients of what it gives. Frees all. */
export async function resultsOf(inputs: Inputs, run: Run, sizes: Sizes = {}): Promise<Result[]> {
  let count = 0;
  const made = scope(() => {
    const outputs = inputs.run(run, sizes);
    const roots = outputs.filter((y) => y.requiresGrad);
    backwardFrom(roots, roots.map((y, i) => inputs.gradientOf(y, i)));
    count = outputs.length;
    return [...outputs, ...inputs.leaves.flatMap(({ grad }) => grad ?? [])].map((t) => t.detach());
  });
  const data = await Promise.all(made.map((t) => t.data()));
  for (const tensor of [...made, inputs]) tensor.dispose();
  return made.map(({ dtype, shape, size }, i) => {
    return { dtype, shape, data: decode(dtype, data[i], size), gradient: i >= count };
  });
}

/** What a call gives, and the gradients of its leaves, as numbers. */
export async function evaluate(backend: Backend, run: Run): Promise<HostArray[]> {
  return (await resultsOf(new Inputs(backend), run)).map(({ data }) => data);
}

/** Fails unless each array is near the other: ‖x − y‖ ≤ most · ‖y‖ and every element finite. */
export function assertNear(got: readonly HostArray[], want: readonly HostArray[], label: string, most = 1e-5): void {
  assert.is(got.length, want.length, `${label}: number of results`);
  want.forEach((y, i) => {
    assert.is(got[i].length, y.length, `${label}: length of result ${i}`);
    let difference = 0;
    let norm = 0;
    y.forEach((v: number, j: number) => {
      difference += (got[i][j] - v) ** 2;
      norm += v * v;
    });
    const relative = Math.sqrt(difference) / Math.max(Math.sqrt(norm), 1e-20);
    assert.ok(relative <= most || difference === 0, `${label}: result ${i} is ${relative.toExponential(2)} off`);
  });
}

/**
 * A check that outputs and gradients are on each of `others` what they are on `reference`.
 * @param tolerance as `assertNear` has it, where a call gives none
 */
export function agreement(reference: Backend, others: readonly Backend[], tolerance: number) {
  return async (run: Run, label: string, most = tolerance): Promise<void> => {
    const want = await evaluate(reference, run);
    for (const backend of others) {
      assertNear(await evaluate(backend, run), want, `${label} on ${backend.description}`, most);
    }
  };
}

const STEP = 1e-5;

/**
 * Fails unless the gradients of a call are its central differences, on an f64 backend. Frees all.
 * @param most relative to the largest gradient of an input; differences leave about 1e-9
 * @param samples elements of each input that are moved; all where there are no more
 * @param grid step of what rounds to one: inputs must lie on it
 */
export async function checkDifferences(
  inputs: Inputs,
  run: Run,
  { sizes = {}, most = 1e-6, samples = Infinity, grid }: { sizes?: Sizes; most?: number; samples?: number; grid?: number },
): Promise<void> {
  const { backend, leaves } = inputs;
  const onGrid = (v: number) => (grid ? Math.round(v / grid) * grid : v);
  const call = () => inputs.run(run, sizes).filter((y) => y.dtype === 'f32');
  // So that every output has a gradient of its own.
  const weights = scope(() => {
    const outputs = call();
    const weights = outputs.map((y, i) => random(y.size, i + 101).map(onGrid));
    const grads = outputs.flatMap((y, i) => (y.requiresGrad ? [fromData(backend, weights[i], y.shape)] : []));
    backwardFrom(outputs.filter((y) => y.requiresGrad), grads);
    return weights;
  });
  const value = async () => {
    const outputs = scope(() => noGrad(call).map((y) => y.detach()));
    let sum = 0;
    for (const [i, y] of outputs.entries()) {
      const data = await y.data();
      weights[i].forEach((w, j) => (sum += w * data[j]));
      y.dispose();
    }
    return sum;
  };
  const step = grid ?? STEP;
  for (const [i, leaf] of leaves.entries()) {
    const data = Float64Array.from(await leaf.data());
    const analytic = leaf.grad ? await leaf.grad.data() : new Float64Array(leaf.size);
    const scale = Math.max(1e-3, ...Array.from(analytic, Math.abs));
    const stride = Math.max(1, Math.floor(data.length / samples));
    for (let k = 0; k < data.length; k += stride) {
      const before = data[k];
      const moved = (by: number) => {
        data[k] = before + by;
        backend.write([leaf.buffer], [data]);
        return value();
      };
      const numeric = ((await moved(step)) - (await moved(-step))) / (2 * step);
      data[k] = before;
      const error = Math.abs(numeric - analytic[k]) / scale;
      assert.ok(error < most, `input ${i}[${k}]: ${analytic[k]} against ${numeric} by differences`);
    }
    backend.write([leaf.buffer], [data]);
  }
  inputs.dispose();
}
