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
