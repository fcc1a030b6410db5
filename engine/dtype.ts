import { ArgumentError, DTypeError } from './errors.ts';

/**
 * Element types of tensors. f32 and i32 are what kernels compute on; f16 and bf16 are how tensors may be stored:
 * what computes on them goes through f32; bool is held as u32 words of 0 and 1, as WGSL has it.
 */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u32' | 'bool';

/** What a tensor's elements look like on the host. f16 and bf16 are raw 16-bit patterns. */
export type HostArray = Float32Array | Float64Array | Uint16Array | Int32Array | Uint32Array;

const BYTES: Record<DType, number> = { f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4, bool: 4 };

/** Bytes per element. */
export function bytesOf(dtype: DType): number {
  return BYTES[dtype];
}

/** Whether a value, perhaps of a caller without types, names a dtype. */
export function isDType(value: unknown): value is DType {
  return typeof value === 'string' && Object.hasOwn(BYTES, value);
}

export function isFloat(dtype: DType): boolean {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
}

/** Throws a DTypeError unless `dtype` is one of `allowed`. */
export function expectDType(op: string, arg: string, dtype: DType, ...allowed: DType[]): void {
  if (!allowed.includes(dtype)) {
    throw new DTypeError(`${op}: ${arg} has dtype ${dtype}, expected ${allowed.join(' or ')}; convert it with cast()`);
  }
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** f32 → IEEE half bits, round to nearest even, overflow to infinity. */
export function toHalf(value: number): number {
  f32[0] = value;
  const bits = u32[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    if (magnitude < 0x33000000) return sign;
    const exponent = magnitude >>> 23;
    const mantissa = (magnitude & 0x7fffff) | 0x800000;
    const shift = 126 - exponent;
    const half = mantissa >>> shift;
    const rest = mantissa & ((1 << shift) - 1);
    const middle = 1 << (shift - 1);
    return sign | (half + (rest > middle || (rest === middle && (half & 1)) ? 1 : 0));
  }
  const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
  return sign | (rounded >>> 13);
}

/** IEEE half bits → number. */
export function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** f32 → bfloat16 bits, round to nearest even. */
export function toBfloat(value: number): number {
  f32[0] = value;
  const bits = u32[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bfloat16 bits → number. */
export function fromBfloat(bits: number): number {
  u32[0] = bits << 16;
  return f32[0];
}

/** What a stored element of the dtype is worth as a number. */
export function decoder(dtype: DType): (stored: number) => number {
  if (dtype === 'f16') return fromHalf;
  return dtype === 'bf16' ? fromBfloat : (stored) => stored;
}

/** Least and largest number of the integer dtypes. */
const RANGES: { readonly [K in DType]?: readonly [least: number, most: number] } = {
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u32: [0, 2 ** 32 - 1],
};

/**
 * Whether a number from the host may become an element of the dtype: floats round every number, bool is "not 0",
 * integers hold whole numbers within their bounds.
 * @throws ArgumentError for anything else, numbers in strings included
 */
export function expectStorable(op: string, value: unknown, dtype: DType): void {
  if (typeof value !== 'number') {
    throw new ArgumentError(`${op}: ${typeof value === 'string' ? JSON.stringify(value) : value} is no number`);
  }
  const range = RANGES[dtype];
  if (!range || (Number.isInteger(value) && value >= range[0] && value <= range[1])) return;
  throw new ArgumentError(
    `${op}: ${dtype} cannot hold ${value}, expected whole numbers from ${range[0]} to ${range[1]}; round or clip first`,
  );
}

/**
 * How the dtype stores a number: floats round to nearest even, integers truncate toward zero and stop at their bounds,
 * bool is "not 0".
 */
export function encoder(dtype: DType): (value: number) => number {
  switch (dtype) {
    case 'f32':
      return (value) => value;
    case 'f16':
      return toHalf;
    case 'bf16':
      return toBfloat;
    case 'bool':
      return (value) => (value !== 0 ? 1 : 0);
    case 'i32':
    case 'u32': {
      const [least, most] = RANGES[dtype]!;
      return (value) => Math.max(least, Math.min(most, Math.trunc(value)));
    }
    default:
      return dtype satisfies never;
  }
}
