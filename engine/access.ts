import { KernelError } from './errors.ts';

/**
 * How WGSL reads and writes a storage format. `X` stands for the binding's name, `i` for the index of an element, or of
 * four or eight; `v` for what is written. A form without a store cannot be written so: its elements share words.
 */
export interface Access {
  /** Part of shaders' keys: equal for formats that are accessed alike. */
  readonly key: string;
  /** What kernels compute on. */
  readonly type: 'f32' | 'i32' | 'u32';
  readonly one: Form;
  readonly four: Form;
  /** As a `mat2x4<f32>`; where fewer do not fill 16 bytes, which is what a load should take. Only read. */
  readonly eight?: Form;
  /** Functions that the forms call. */
  readonly helpers?: readonly string[];
  readonly feature?: 'f16';
}

interface Form {
  /** The binding's element type. */
  readonly stored: string;
  readonly load: string;
  readonly store?: string;
}

/** Four-byte elements as they are. */
export function plain(type: Access['type']): Access {
  const form = (stored: string): Form => ({ stored, load: 'X[i]', store: 'X[i] = v' });
  return { key: type, type, one: form(type), four: form(`vec4<${type}>`) };
}

/** Conversions by the bits, of one number or two in a word: WGSL's own leave rounding and overflow to the driver. */
const HALVES = /* wgsl */ `
fn half_bits(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x47800000u) { return sign | 0x7c00u; }
  if (magnitude < 0x33000000u) { return sign; }
  if (magnitude < 0x38800000u) {
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - (magnitude >> 23u);
    let half = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    return sign | (half + select(0u, 1u, rest > middle || (rest == middle && (half & 1u) == 1u)));
  }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}
fn to_halves(v: vec2<f32>) -> u32 { return half_bits(v.x) | (half_bits(v.y) << 16u); }
fn from_half(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let exponent = (h >> 10u) & 0x1fu;
  let mantissa = h & 0x3ffu;
  if (exponent == 0u) { return bitcast<f32>(bitcast<u32>(f32(mantissa) * 5.9604644775390625e-8) | sign); }
  if (exponent == 31u) { return bitcast<f32>(sign | 0x7f800000u | (mantissa << 13u)); }
  return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (mantissa << 13u));
}
fn halves(w: u32) -> vec2<f32> { return vec2<f32>(from_half(w & 0xffffu), from_half(w >> 16u)); }
`;

/** f16 where the device has it. */
export const HALF: Access = {
  key: 'f16',
  type: 'f32',
  one: { stored: 'f16', load: 'f32(X[i])', store: 'X[i] = bitcast<vec2<f16>>(half_bits(v)).x' },
  four: {
    stored: 'vec4<f16>',
    load: 'vec4<f32>(X[i])',
    store: 'X[i] = vec4<f16>(bitcast<vec2<f16>>(to_halves(v.xy)), bitcast<vec2<f16>>(to_halves(v.zw)))',
  },
  eight: { stored: 'vec4<u32>', load: 'eight_halves(X[i])' },
  helpers: [HALVES, /* wgsl */ `
fn eight_halves(w: vec4<u32>) -> mat2x4<f32> {
  return mat2x4<f32>(vec4<f32>(bitcast<vec4<f16>>(w.xy)), vec4<f32>(bitcast<vec4<f16>>(w.zw)));
}
`],
  feature: 'f16',
};

/** Two of 16 bits in a word: `one` of them as f32, and functions that take two out of a word and put two into one. */
function inWords(key: string, one: string, from: string, to: string, helpers: string): Access {
  return {
    key,
    type: 'f32',
    one: { stored: 'u32', load: one },
    four: {
      stored: 'vec2<u32>',
      load: `vec4<f32>(${from}(X[i].x), ${from}(X[i].y))`,
      store: `X[i] = vec2<u32>(${to}(v.xy), ${to}(v.zw))`,
    },
    eight: { stored: 'vec4<u32>', load: `eight_${from}(X[i])` },
    helpers: [helpers, /* wgsl */ `
fn eight_${from}(w: vec4<u32>) -> mat2x4<f32> {
  return mat2x4<f32>(vec4<f32>(${from}(w.x), ${from}(w.y)), vec4<f32>(${from}(w.z), ${from}(w.w)));
}
`],
  };
}

const HALF_AT = 'from_half((X[i >> 1u] >> (16u * (i & 1u))) & 0xffffu)';
export const HALF_IN_WORDS = inWords('f16w', HALF_AT, 'halves', 'to_halves', HALVES);

const BFLOATS = /* wgsl */ `
fn bfloats(w: u32) -> vec2<f32> { return vec2<f32>(bitcast<f32>(w << 16u), bitcast<f32>(w & 0xffff0000u)); }
fn bfloat_bits(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn to_bfloats(v: vec2<f32>) -> u32 { return bfloat_bits(v.x) | (bfloat_bits(v.y) << 16u); }
`;
const BFLOAT_AT = 'bitcast<f32>((X[i >> 1u] >> (16u * (i & 1u))) << 16u)';
export const BFLOAT = inWords('bf16', BFLOAT_AT, 'bfloats', 'to_bfloats', BFLOATS);

/** The scale of the block of `words` words that four elements number i, or element number i, lie in. */
const scaleOf4 = (words: number) => /* wgsl */ `from_half((X[i / 16u * ${words}u] >> (2u * (i & 8u))) & 0xffffu)`;
const scaleOf1 = (words: number) => /* wgsl */ `from_half((X[i / 64u * ${words}u] >> ((i & 32u) >> 1u)) & 0xffffu)`;

/** Blocks of 64: a word of two scales, then 16 words of four bytes. */
export const BLOCK8: Access = {
  key: 'int8',
  type: 'f32',
  one: { stored: 'u32', load: `byte_at(X[i / 64u * 17u + 1u + (i % 64u) / 4u], i) * ${scaleOf1(17)}` },
  four: { stored: 'u32', load: `vec4<f32>(unpack4xI8(X[i / 16u * 17u + 1u + i % 16u])) * ${scaleOf4(17)}` },
  helpers: [
    HALVES,
    'fn byte_at(word: u32, i: u32) -> f32 { return f32(extractBits(bitcast<i32>(word), 8u * (i & 3u), 8u)); }',
  ],
};

/** Blocks of 64: a word of two scales, then 8 words of eight nibbles, each of them 8 more than it is worth. */
export const BLOCK4: Access = {
  key: 'int4',
  type: 'f32',
  one: { stored: 'u32', load: `nibble_at(X[i / 64u * 9u + 1u + (i % 64u) / 8u], i) * ${scaleOf1(9)}` },
  four: { stored: 'u32', load: `nibbles(X[i / 16u * 9u + 1u + (i % 16u) / 2u] >> (16u * (i & 1u))) * ${scaleOf4(9)}` },
  helpers: [HALVES, /* wgsl */ `
fn nibble_at(word: u32, i: u32) -> f32 { return f32((word >> (4u * (i & 7u))) & 15u) - 8.0; }
fn nibbles(word: u32) -> vec4<f32> {
  return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) - 8.0;
}
`],
};

/** What a shader needs to use a tensor of some format under a name. */
export interface Accessor {
  /** Part of the shader's key. */
  readonly key: string;
  /** The binding's element type. */
  readonly stored: string;
  readonly feature?: 'f16';
  readonly helpers?: readonly string[];
  /** WGSL of `load_NAME(i)` and, where it can be written, `store_NAME(i, v)`. */
  functions(name: string, writes: boolean): string;
}

/** How many elements are accessed at a time. */
export type AccessForm = 'one' | 'four' | 'eight';

/** @param form `i` counts these */
export function accessor(access: Access, form: AccessForm): Accessor {
  const { stored, load, store } = access[form]!;
  const type = { one: access.type, four: `vec4<${access.type}>`, eight: 'mat2x4<f32>' }[form];
  return {
    key: access.key + { one: '', four: 'v', eight: 'v8' }[form],
    ...{ stored, feature: access.feature, helpers: access.helpers },
    functions(name, writes) {
      const own = (code: string) => code.replaceAll('X', name);
      const reading = `fn load_${name}(i: u32) -> ${type} { return ${own(load)}; }\n`;
      if (!writes) return reading;
      if (!store) throw new KernelError(`${access.key} cannot be written by the form '${form}'`);
      return `${reading}fn store_${name}(i: u32, v: ${type}) { ${own(store)}; }\n`;
    },
  };
}
