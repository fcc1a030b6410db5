import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { FLOATS } from '../../engine/dtype.ts';
import type { Op } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise, promote } from './define.ts';
import { bitsOf, bitsWgsl, keyParams, keysOf } from './random.ts';

interface DropoutAttrs {
  readonly p: number;
  readonly seed: number;
}

/** An element stays where its 32 random bits are not below this. */
const threshold = (p: number) => Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32));
const scaleOf = (p: number) => (p === 1 ? 0 : 1 / (1 - p));

const dropoutOp: Op<DropoutAttrs, 'x', 'y'> = /* @__PURE__ */ defineElementwise<DropoutAttrs, 'x'>(
  {
    name: 'dropout',
    inputs: ['x'],
    result: (inputs) => promote('dropout', inputs, ...FLOATS),
    f({ p, seed }) {
      const [key0, key1] = keysOf(seed);
      return (x, i) => (bitsOf(i, key0, key1) >= threshold(p) ? x * scaleOf(p) : 0);
    },
    params: ({ p, seed }) => ({ ...keyParams(seed), below: ['u32', threshold(p)], scale: ['f32', scaleOf(p)] }),
    wgsl: 'select(0.0, x * params.scale, bits_of(i, params.key0, params.key1) >= params.below)',
    helpers: bitsWgsl,
  },
  { backward: ({ attrs, grads }) => ({ x: apply(dropoutOp, { x: grads.y! }, attrs).y }) },
);

/**
 * Zeroes each element with probability p and scales the others by 1/(1 - p): floats of any shape → the same shape and
 * dtype. What is dropped depends on the seed and the element's index alone, the same on every backend; backward draws it
 * again.
 * @param seed an integer in [0, 2⁵³); take a new one for every call
 * @throws ArgumentError for a p outside [0, 1] or a seed that is no such integer
 */
export function dropout(x: Tensor, p: number, seed: number): Tensor {
  expectFinite('dropout', 'p', p, 0, 1);
  expectWhole('dropout', 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
  return p === 0 ? x : apply(dropoutOp, { x }, { p, seed }).y;
}
