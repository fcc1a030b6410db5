import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectShape } from '../common/shapes.ts';
import { elementwise } from './kernel.ts';
import { bitsOf, bitsWgsl, keyParams, keysOf } from './random.ts';

interface DropoutAttrs {
  readonly p: number;
  readonly seed: number;
}

/** An element stays where its 32 random bits are not below this. */
const threshold = (p: number) => Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32));
const scaleOf = (p: number) => (p === 1 ? 0 : 1 / (1 - p));

const dropoutOp: Op<DropoutAttrs, 'x' | 'key?', 'y'> = /* @__PURE__ */ defineOp({
  name: 'dropout',
  inputs: ['x', 'key?'],
  outputs: ['y'],
  shape({ x, key }) {
    expectDType('dropout', 'x', x.dtype, ...FLOATS);
    if (key) {
      expectDType('dropout', 'key', key.dtype, 'u32');
      expectShape('dropout', 'key', key, []);
    }
    return { y: spec(x.shape, x.dtype) };
  },
  reference({ x, key }, { y }, { p, seed }: DropoutAttrs) {
    const [key0, key1] = keysOf(seed);
    const own = key ? key.data[0] : 0;
    for (let i = 0; i < y.size; i++) {
      y.data[i] = bitsOf(i, (key0 ^ own) >>> 0, key1 + own) >= threshold(p) ? x.data[i] * scaleOf(p) : 0;
    }
  },
  webgpu({ x, key }, { y }, { p, seed }, { caps }) {
    const bits = key ? 'bits_of(i, params.key0 ^ key, params.key1 + key)' : 'bits_of(i, params.key0, params.key1)';
    const values = { y: `select(0.0, x * params.scale, ${bits} >= params.below)` };
    const params = { ...keyParams(seed), below: ['u32', threshold(p)], scale: ['f32', scaleOf(p)] } as const;
    const [name, reads] = key ? ['dropout.key', { x, key }] : ['dropout', { x }];
    return [elementwise({ name, reads, writes: { y }, values, params, helpers: bitsWgsl }, caps)];
  },
  asStored: { webgpu: ['x', 'y'] },
  saves: ['key'],
  backward: ({ attrs, saved, grads }) => ({ x: apply(dropoutOp, { x: grads.y!, key: saved.key }, attrs).y }),
});

/**
 * Zeroes each element with probability p and scales the others by 1/(1 - p): floats of any shape → the same shape and
 * dtype. What is dropped depends on seed, key and the element's index alone, the same on every backend; backward draws
 * it again.
 * @param seed an integer in [0, 2⁵³); take a new one for every call
 * @param key u32 []: another one makes calls with the same seeds drop others, calls that are replayed too
 * @throws ArgumentError for a p outside [0, 1] or a seed that is no such integer
 */
export function dropout(x: Tensor, p: number, seed: number, key?: Tensor): Tensor {
  expectFinite('dropout', 'p', p, 0, 1);
  expectWhole('dropout', 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
  return p === 0 ? x : apply(dropoutOp, { x, key }, { p, seed }).y;
}
