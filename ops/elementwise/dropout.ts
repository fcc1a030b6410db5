import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';

interface DropoutAttrs {
  readonly p: number;
  readonly seed: number;
}

/** A bijection of 32-bit integers that spreads every bit (Ellis, "lowbias32"). */
function mix(v: number): number {
  v = Math.imul(v ^ (v >>> 16), 0x21f0aaad);
  v = Math.imul(v ^ (v >>> 15), 0x735a2d97);
  return (v ^ (v >>> 15)) >>> 0;
}

const MIX = /* wgsl */ `
fn mix_(x: u32) -> u32 {
  var v = (x ^ (x >> 16u)) * 0x21f0aaadu;
  v = (v ^ (v >> 15u)) * 0x735a2d97u;
  return v ^ (v >> 15u);
}
`;

/** Two words that the seed (an integer below 2⁵³) becomes. */
function keys(seed: number): [number, number] {
  const low = seed >>> 0;
  const first = mix(low ^ mix(Math.floor(seed / 2 ** 32) + 0x9e3779b9));
  return [first, mix((first + 0x9e3779b9) >>> 0)];
}

/** An element stays where its 32 random bits are not below this. */
const threshold = (p: number) => Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32));
const scaleOf = (p: number) => (p === 1 ? 0 : 1 / (1 - p));

const kernel = /* @__PURE__ */ new Elementwise({
  name: 'dropout',
  reads: { x: 'f32' },
  writes: { y: 'f32' },
  values: { y: 'select(0.0, x * params.scale, mix_(mix_(i + params.key0) ^ params.key1) >= params.below)' },
  params: { key0: 'u32', key1: 'u32', below: 'u32', scale: 'f32' },
  helpers: MIX,
});

export const dropoutOp: Op<DropoutAttrs> = /* @__PURE__ */ defineOp<DropoutAttrs>({
  name: 'dropout',
  shape([x]) {
    expectDType('dropout', 'x', x.dtype, 'f32');
    return [spec(x.shape)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { p, seed } }) {
    const [key0, key1] = keys(seed);
    for (let i = 0; i < y.size; i++) {
      const bits = mix((mix((i + key0) >>> 0) ^ key1) >>> 0);
      y.data[i] = bits >= threshold(p) ? x.data[i] * scaleOf(p) : 0;
    }
  },
  webgpu({ inputs, outputs, attrs: { p, seed } }) {
    return [kernel.launch(inputs, outputs, [...keys(seed), threshold(p), scaleOf(p)])];
  },
  backward: ({ attrs, grads }) => [apply1(dropoutOp, [grads[0]!], attrs)],
});

/**
 * Zeroes each element with probability p and scales the others by 1/(1 - p): f32 of any shape → the same shape. What
 * is dropped depends on the seed and the element's index alone, the same on every backend; backward draws it again.
 * @param seed an integer in [0, 2⁵³); take a new one for every call
 * @throws ArgumentError for a p outside [0, 1] or a seed that is no such integer
 */
export function dropout(x: Tensor, p: number, seed: number): Tensor {
  expectFinite('dropout', 'p', p, 0, 1);
  expectWhole('dropout', 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
  return p === 0 ? x : apply1(dropoutOp, [x], { p, seed });
}
