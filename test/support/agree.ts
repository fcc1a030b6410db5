import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { elements } from '../../engine/backend.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import { backwardFrom } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { add } from '../../ops/index.ts';

/** Numbers in [−scale/2, scale/2) + shift from a fixed sequence. */
export function random(size: number, seed: number, scale = 2, shift = 0): Float32Array {
  let state = seed * 2654435761 + 12345;
  return Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * scale + shift;
  });
}

/** One input: its shape, and its values where random ones will not do. Integer data gets no gradient. */
export interface Input {
  readonly shape: readonly number[];
  readonly data?: HostArray;
}

type Body = (inputs: Tensor[]) => Tensor[];

/** Outputs of `body` and gradients of its inputs for fixed random gradients of the outputs. */
export async function evaluate(backend: Backend, inputs: readonly Input[], body: Body): Promise<HostArray[]> {
  const made = scope(() => {
    const tensors = inputs.map(({ shape, data }, i) => {
      const integers = data instanceof Int32Array;
      const tensor = fromData(backend, data ?? random(elements(shape), i + 1), shape, integers ? 'i32' : 'f32');
      tensor.requiresGrad = !integers;
      return tensor;
    });
    const outputs = body(tensors);
    const grads = outputs.map((o, i) => fromData(backend, random(o.size, i + 101), o.shape));
    backwardFrom(outputs, grads, add);
    return [...outputs.map((o) => o.detach()), ...tensors.flatMap((t) => (t.grad ? [t.grad.detach()] : []))];
  });
  const data = await Promise.all(made.map((t) => t.data()));
  for (const tensor of made) tensor.dispose();
  return data;
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
  return async (inputs: readonly Input[], body: Body, label: string, most = tolerance): Promise<void> => {
    const want = await evaluate(reference, inputs, body);
    for (const backend of others) {
      assertNear(await evaluate(backend, inputs, body), want, `${label} on ${backend.description}`, most);
    }
  };
}

const STEP = 1e-5;

/**
 * Fails unless the gradients of `body` are its central differences. For an f64 backend and few elements: each element
 * of each input is moved.
 */
export async function checkGradients(backend: Backend, inputs: readonly Input[], body: Body): Promise<void> {
  const host = inputs.map(({ shape, data }, i) => Float64Array.from(data ?? random(elements(shape), i + 1)));
  const results = () => evaluate(backend, inputs.map(({ shape }, i) => ({ shape, data: host[i] })), body);
  const first = await results();
  const outputs = first.length - inputs.length;
  const weights = first.slice(0, outputs).map((y, i) => random(y.length, i + 101));
  const value = async () => {
    const now = await results();
    let sum = 0;
    weights.forEach((w, i) => w.forEach((v, j) => (sum += v * now[i][j])));
    return sum;
  };
  for (const [i, data] of host.entries()) {
    const analytic = first[outputs + i];
    const scale = Math.max(1e-3, ...Array.from(analytic, Math.abs));
    for (let k = 0; k < data.length; k++) {
      const before = data[k];
      data[k] = before + STEP;
      const up = await value();
      data[k] = before - STEP;
      const numeric = (up - (await value())) / (2 * STEP);
      data[k] = before;
      const error = Math.abs(numeric - analytic[k]) / scale;
      assert.ok(error < 1e-6, `input ${i}[${k}]: ${analytic[k]} against ${numeric} by differences`);
    }
  }
}
