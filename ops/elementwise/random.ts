import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import type { Backend } from '../../engine/backend.ts';
import { type DType, expectDType, FLOATS } from '../../engine/dtype.ts';
import type { Op } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise } from './define.ts';
import { logWgsl } from './math.ts';
import { trigWgsl } from './trig.ts';

/** A bijection of 32-bit integers, given and taken as signed ones, that spreads every bit (Ellis, "lowbias32" family). */
export function mix(z: number): number {
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}

/** Two words that the seed (a whole number below 2⁵³) becomes. */
export function keysOf(seed: number): [number, number] {
  const first = mix((seed >>> 0) ^ mix(Math.floor(seed / 2 ** 32) + 0x9e3779b9)) >>> 0;
  return [first, mix(first + 0x9e3779b9) >>> 0];
}

/** 32 random bits that depend on the keys and the element's index alone, the same on every backend. */
export function bitsOf(i: number, key0: number, key1: number): number {
  return mix(mix(i + key0) ^ key1) >>> 0;
}

export const bitsWgsl = /* wgsl */ `
fn mix_(x: u32) -> u32 {
  var v = (x ^ (x >> 16u)) * 0x21f0aaadu;
  v = (v ^ (v >> 15u)) * 0x735a2d97u;
  return v ^ (v >> 15u);
}
fn bits_of(i: u32, key0: u32, key1: u32) -> u32 { return mix_(mix_(i + key0) ^ key1); }
`;

/** What WGSL calls the keys. */
export function keyParams(seed: number) {
  const [key0, key1] = keysOf(seed);
  return { key0: ['u32', key0], key1: ['u32', key1] } as const;
}

interface RandomAttrs {
  readonly shape: readonly number[];
  readonly seed: number;
  readonly dtype: DType;
}

/** Digits of floats' mantissas: so many random bits make no number that is rounded up to 1. */
const DIGITS: Readonly<Partial<Record<DType, number>>> = { f32: 24, f16: 11, bf16: 8 };

/** A number from 0 to 1 of two words of random bits, in JavaScript and WGSL; `digits` is that of the dtype. */
interface Row {
  readonly f: (bits: number, others: number, digits: number) => number;
  readonly wgsl: string;
  readonly helpers?: string;
}

const uniform: Row = {
  f: (bits, _, digits) => (bits >>> (32 - digits)) / 2 ** digits,
  wgsl: 'f32(bits >> (32u - params.digits)) / f32(1u << params.digits)',
};

/** Box and Muller's: the radius of a point in the plane from one word, its angle from the other. */
const normal: Row = {
  f: (bits, others) => {
    const u = Math.fround(Math.fround(bits) + 1) / 2 ** 32;
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * ((others >>> 8) / 2 ** 24));
  },
  wgsl: 'sqrt(-2.0 * log_((f32(bits) + 1.0) * 0x1p-32)) * cos_(6.2831855 * (f32(others >> 8u) * 0x1p-24))',
  helpers: `${logWgsl}${trigWgsl}`,
};

function randomOp(name: string, { f, wgsl, helpers = '' }: Row): Op<RandomAttrs, never, 'y'> {
  return defineElementwise<RandomAttrs, never>({
    name,
    inputs: [],
    result(_, { seed, dtype }) {
      expectWhole(name, 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
      expectDType(name, 'the result', dtype, ...FLOATS);
      return dtype;
    },
    shape: ({ shape }) => shape,
    f({ seed, dtype }) {
      const [key0, key1] = keysOf(seed);
      return (i) => f(bitsOf(i, key0, key1), bitsOf(i, key1, key0), DIGITS[dtype]!);
    },
    params: ({ seed, dtype }) => ({ ...keyParams(seed), digits: ['u32', DIGITS[dtype]!] }),
    wgsl: 'value_of(bits_of(i, params.key0, params.key1), bits_of(i, params.key1, params.key0))',
    helpers: `${bitsWgsl}${helpers}fn value_of(bits: u32, others: u32) -> f32 { return ${wgsl}; }`,
  });
}

const randOp = /* @__PURE__ */ randomOp('rand', uniform);
const randnOp = /* @__PURE__ */ randomOp('randn', normal);

/**
 * Uniform random numbers in [0, 1), which depend on the seed and the element's index alone and are the same on every
 * backend. f16 and bf16 have as many random bits as they have digits.
 * @param seed a whole number in [0, 2⁵³); take a new one for every call
 */
export function rand(backend: Backend, shape: readonly number[], seed: number, dtype: DType = 'f32'): Tensor {
  return apply(randOp, {}, { shape, seed, dtype }, backend).y;
}

/**
 * Normal random numbers of mean 0 and variance 1, which depend on the seed and the element's index alone and are the
 * same on every backend, but for the last digits of a logarithm and a cosine.
 * @param seed a whole number in [0, 2⁵³); take a new one for every call
 */
export function randn(backend: Backend, shape: readonly number[], seed: number, dtype: DType = 'f32'): Tensor {
  return apply(randnOp, {}, { shape, seed, dtype }, backend).y;
}
