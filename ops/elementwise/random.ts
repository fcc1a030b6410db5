import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import type { Backend } from '../../engine/backend.ts';
import { type DType, expectDType, FLOATS } from '../../engine/dtype.ts';
import { type Op, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectAlike } from '../common/shapes.ts';
import { defineElementwise } from './define.ts';
import { zeros } from './fill.ts';
import helpers from './random.wgsl';

/** Attributes of an op that draws. */
interface Keys {
  readonly key0: number;
  readonly key1: number;
}

/** A bijection of 32-bit integers, given and taken as signed ones, that spreads every bit (Ellis, "lowbias32" family). */
export function mix(z: number): number {
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}

/** The two words that a seed becomes. @throws ArgumentError unless it is a whole number from 0 to below 2⁵³ */
function keysOf(op: string, seed: number): Keys {
  expectWhole(op, 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
  const key0 = mix((seed >>> 0) ^ mix(Math.floor(seed / 2 ** 32) + 0x9e3779b9)) >>> 0;
  return { key0, key1: mix(key0 + 0x9e3779b9) >>> 0 };
}

/** 32 random bits that depend on the keys and the element's index alone, the same on every backend. */
function bitsOf(i: number, key0: number, key1: number): number {
  return mix(mix(i + key0) ^ key1) >>> 0;
}

/** Digits of floats' mantissas: so many random bits make no number that is rounded up to 1. */
const DIGITS: Readonly<Partial<Record<DType, number>>> = { f32: 24, f16: 11, bf16: 8 };

interface DrawAttrs extends Keys {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** That of the dtype. */
  readonly digits: number;
}

/** Draws a number for every element. @param f of two words of random bits */
function drawing(
  name: string,
  f: (bits: number, others: number, digits: number) => number,
  wgsl: string,
): (backend: Backend, shape: readonly number[], seed: number, dtype?: DType) => Tensor {
  const op = defineElementwise<DrawAttrs, never>({
    name,
    inputs: [],
    result(_, { dtype }) {
      expectDType(name, 'the result', dtype, ...FLOATS);
      return dtype;
    },
    shape: ({ shape }) => shape,
    words: ['key0', 'key1', 'digits'],
    f: ({ key0, key1, digits }) => (i) => f(bitsOf(i, key0, key1), bitsOf(i, key1, key0), digits),
    wgsl,
    helpers,
  });
  return (backend, shape, seed, dtype = 'f32') =>
    apply(op, {}, { shape, dtype, digits: DIGITS[dtype] ?? 0, ...keysOf(name, seed) }, backend).y;
}

/**
 * Uniform random numbers in [0, 1), which depend on the seed and the element's index alone and are the same on every
 * backend. f16 and bf16 have as many random bits as they have digits.
 * @param seed a whole number in [0, 2⁵³); take a new one for every call
 */
export const rand = /* @__PURE__ */ drawing(
  'rand',
  (bits, _, digits) => (bits >>> (32 - digits)) / 2 ** digits,
  'f32(bits_of(i, params.key0, params.key1) >> (32u - params.digits)) / f32(1u << params.digits)',
);

/**
 * Normal random numbers of mean 0 and variance 1, which depend on the seed and the element's index alone and are the
 * same on every backend, but for the last digits of a logarithm and a cosine.
 * @param seed a whole number in [0, 2⁵³); take a new one for every call
 */
export const randn = /* @__PURE__ */ drawing(
  'randn',
  // Box and Muller's: the radius of a point in the plane from one word, its angle from the other.
  (bits, others) => {
    const u = Math.fround(Math.fround(bits) + 1) / 2 ** 32;
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * ((others >>> 8) / 2 ** 24));
  },
  'normal_of(bits_of(i, params.key0, params.key1), bits_of(i, params.key1, params.key0))',
);

interface DropoutAttrs extends Keys {
  /** An element stays where its 32 random bits are not below this; it is then scaled. */
  readonly below: number;
  readonly scale: number;
}

const dropoutOp: Op<DropoutAttrs, 'x' | 'key', 'y'> = /* @__PURE__ */ defineElementwise<DropoutAttrs, 'x' | 'key'>(
  {
    name: 'dropout',
    inputs: ['x', 'key'],
    result({ x, key }) {
      expectDType('dropout', 'x', x.dtype, ...FLOATS);
      expectAlike('dropout', 'key', key, spec([], 'u32'));
      return x.dtype;
    },
    params: ['scale'],
    words: ['key0', 'key1', 'below'],
    f: ({ key0, key1, below, scale }) => (x, key, i) =>
      bitsOf(i, (key0 ^ key) >>> 0, key1 + key) >= below ? x * scale : 0,
    wgsl: 'select(0.0, x * params.scale, bits_of(i, params.key0 ^ key, params.key1 + key) >= params.below)',
    helpers,
  },
  {
    saves: ['key'],
    backward: ({ attrs, saved, grads }) => ({ x: apply(dropoutOp, { x: grads.y!, key: saved.key }, attrs).y }),
  },
);

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
  const drawn = { below: Math.min(2 ** 32 - 1, Math.round(p * 2 ** 32)), scale: p === 1 ? 0 : 1 / (1 - p) };
  const attrs = { ...keysOf('dropout', seed), ...drawn };
  return p === 0 ? x : scope(() => apply(dropoutOp, { x, key: key ?? zeros(x.backend, [], 'u32') }, attrs).y);
}
