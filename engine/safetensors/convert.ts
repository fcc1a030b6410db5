import { decode, type ElementDType, encode, hostArrayType, isFloat } from '../dtype.ts';
import { CheckpointError, DTypeError } from '../errors.ts';
import { SAFE_ARRAYS, SAFE_BITS } from './format.ts';
import type { SafeDType } from './format.ts';

/** What `readAs` returns for each kind; f16 and bf16 are raw bits, bool is words of 0 and 1. */
export interface ArrayOf {
  f32: Float32Array<ArrayBuffer>;
  f16: Uint16Array<ArrayBuffer>;
  bf16: Uint16Array<ArrayBuffer>;
  i32: Int32Array<ArrayBuffer>;
  u32: Uint32Array<ArrayBuffer>;
  bool: Uint32Array<ArrayBuffer>;
  u8: Uint8Array<ArrayBuffer>;
}
export type ReadKind = ElementDType | 'u8';

const FLOATS: readonly SafeDType[] = ['F32', 'F16', 'BF16', 'F64'];
const INTEGERS: readonly SafeDType[] = ['I32', 'U32', 'I64', 'U64', 'I16', 'U16', 'I8', 'U8', 'BOOL'];
const TAKES: Record<ReadKind, readonly SafeDType[]> = {
  f32: FLOATS,
  f16: FLOATS,
  bf16: FLOATS,
  i32: INTEGERS,
  u32: INTEGERS,
  bool: ['BOOL'],
  u8: ['U8', 'BOOL'],
};

/** Formats that a file and the engine store alike. */
const SAME: Partial<Record<SafeDType, ElementDType>> = { F32: 'f32', F16: 'f16', BF16: 'bf16', I32: 'i32', U32: 'u32' };

/**
 * Raw little-endian elements of `dtype` as `kind`. Floats become floats, integers integers; a value that does not
 * fit (an f64 or bf16 that would turn infinite, an i64 outside 32 bits, a BOOL that is neither 0 nor 1) is a
 * CheckpointError that calls the tensor `what` and names the element; a pair that does not convert is a DTypeError.
 */
export function convert<K extends ReadKind>(what: string, bytes: Uint8Array, dtype: SafeDType, kind: K): ArrayOf[K] {
  if (!TAKES[kind].includes(dtype)) {
    throw new DTypeError(`${what}: has dtype ${dtype}, expected ${TAKES[kind].join(', ')} to be read as ${kind}`);
  }
  const own = bytes.byteOffset % 8 ? bytes.slice() : bytes;
  const count = (8 * own.byteLength) / SAFE_BITS[dtype];
  const stored = new SAFE_ARRAYS[dtype as keyof typeof SAFE_ARRAYS](own.buffer as ArrayBuffer, own.byteOffset, count);
  const expectFit = (values: ArrayLike<number | bigint>, fits: (i: number) => boolean, into: string) => {
    for (let i = 0; i < count; i++) {
      if (!fits(i)) throw new CheckpointError(`${what}: element ${i} is ${values[i]}, which does not fit ${into}`);
    }
  };
  if (dtype === 'BOOL') expectFit(stored, (i) => stored[i] < 2, 'BOOL, which is 0 or 1');
  if (kind === 'u8' || SAME[dtype] === kind) return stored as ArrayOf[K];
  const half = dtype === 'F16' || dtype === 'BF16';
  const values = half ? decode(SAME[dtype]!, stored as Uint16Array, count) : stored;
  if (half && kind === 'f32') return values as ArrayOf[K];
  const numbers = typeof values[0] === 'bigint' ? Array.from(values, Number) : (values as ArrayLike<number>);
  const out = new (hostArrayType(kind))(count);
  encode(kind, numbers, out);
  // A float may lose digits, but not turn infinite; a whole number stays what it is.
  const worth = isFloat(kind) ? decode(kind, out, count) : out;
  const fits = isFloat(kind)
    ? (i: number) => Number.isFinite(worth[i]) || !Number.isFinite(numbers[i])
    : (i: number) => worth[i] === numbers[i];
  expectFit(values, fits, kind);
  return out as ArrayOf[K];
}
