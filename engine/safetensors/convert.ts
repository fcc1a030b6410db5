import { fromHalf, toBfloat, toHalf } from '../half.ts';
import type { ElementDType } from '../dtype.ts';
import { CheckpointError, DTypeError } from '../errors.ts';
import { SAFE_BITS } from './format.ts';
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

const TAKES: Record<ReadKind, readonly SafeDType[]> = {
  f32: ['F32', 'F16', 'BF16', 'F64'],
  f16: ['F16', 'F32', 'BF16', 'F64'],
  bf16: ['BF16', 'F32', 'F16', 'F64'],
  i32: ['I32', 'I64', 'U8', 'BOOL', 'I8', 'I16', 'U16', 'U32', 'U64'],
  u32: ['U32', 'I64', 'U8', 'BOOL', 'I32', 'I8', 'I16', 'U16', 'U64'],
  bool: ['BOOL'],
  u8: ['U8', 'BOOL'],
};

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
  const data: Data = { what, dtype, buffer: own.buffer as ArrayBuffer, offset: own.byteOffset, size: own.byteLength };
  if (dtype === 'BOOL') checkBool(data);
  return CONVERT[kind](data) as ArrayOf[K];
}

interface Data {
  readonly what: string;
  readonly dtype: SafeDType;
  readonly buffer: ArrayBuffer;
  readonly offset: number;
  readonly size: number;
}

const count = (d: Data) => (d.size * 8) / SAFE_BITS[d.dtype];
const u8 = (d: Data) => new Uint8Array(d.buffer, d.offset, d.size);
const u16 = (d: Data) => new Uint16Array(d.buffer, d.offset, d.size / 2);
const i32 = (d: Data) => new Int32Array(d.buffer, d.offset, d.size / 4);
const u32 = (d: Data) => new Uint32Array(d.buffer, d.offset, d.size / 4);

const CONVERT: { [K in ReadKind]: (data: Data) => ArrayOf[K] } = {
  f32: toF32,
  f16: (data) => (data.dtype === 'F16' ? u16(data) : narrow(data, toHalf, 0x7c00, 'f16')),
  bf16: (data) => (data.dtype === 'BF16' ? u16(data) : narrow(data, toBfloat, 0x7f80, 'bf16')),
  i32: (data) => (data.dtype === 'I32' ? i32(data) : fill(data, new Int32Array(count(data)))),
  u32: (data) => (data.dtype === 'U32' ? u32(data) : fill(data, new Uint32Array(count(data)))),
  bool: (data) => Uint32Array.from(u8(data)),
  u8,
};

function toF32(data: Data): Float32Array<ArrayBuffer> {
  if (data.dtype === 'F32') return new Float32Array(data.buffer, data.offset, count(data));
  const out = new Float32Array(count(data));
  if (data.dtype === 'BF16') {
    const bits = new Uint32Array(out.buffer);
    const from = u16(data);
    for (let i = 0; i < from.length; i++) bits[i] = from[i] << 16;
  } else if (data.dtype === 'F16') {
    const table = halves();
    const from = u16(data);
    for (let i = 0; i < from.length; i++) out[i] = table[from[i]];
  } else {
    const from = new Float64Array(data.buffer, data.offset, count(data));
    for (let i = 0; i < from.length; i++) {
      out[i] = from[i];
      if (Number.isFinite(from[i]) && !Number.isFinite(out[i])) throw misfit(data, i, from[i], 'f32');
    }
  }
  return out;
}

/** Floats rounded to 16 bits; `infinity` is the bit pattern that a finite value must not become. */
function narrow(
  data: Data,
  round: (value: number) => number,
  infinity: number,
  kind: string,
): Uint16Array<ArrayBuffer> {
  const from = toF32(data);
  const out = new Uint16Array(from.length);
  for (let i = 0; i < from.length; i++) {
    out[i] = round(from[i]);
    if ((out[i] & 0x7fff) === infinity && Number.isFinite(from[i])) throw misfit(data, i, from[i], kind);
  }
  return out;
}

/** Integers of any width into 32 bits; a value that comes out changed did not fit. */
function fill<T extends Int32Array | Uint32Array>(data: Data, out: T): T {
  const kind = out instanceof Int32Array ? 'i32' : 'u32';
  if (data.dtype === 'I64' || data.dtype === 'U64') {
    const low = out instanceof Int32Array ? i32(data) : u32(data);
    const high = i32(data);
    for (let i = 0; i < out.length; i++) {
      out[i] = low[2 * i];
      const wide = data.dtype === 'I64' && out[i] < 0 ? -1 : 0;
      const fits = high[2 * i + 1] === wide && (data.dtype === 'I64' || out[i] >= 0);
      if (!fits) throw misfit(data, i, new DataView(data.buffer, data.offset).getBigInt64(8 * i, true), kind);
    }
    return out;
  }
  const from = narrowIntegers(data);
  for (let i = 0; i < out.length; i++) {
    out[i] = from[i];
    if (out[i] !== from[i]) throw misfit(data, i, from[i], kind);
  }
  return out;
}

function narrowIntegers(data: Data): ArrayLike<number> {
  switch (data.dtype) {
    case 'I8':
      return new Int8Array(data.buffer, data.offset, data.size);
    case 'I16':
      return new Int16Array(data.buffer, data.offset, count(data));
    case 'U16':
      return u16(data);
    case 'I32':
      return i32(data);
    case 'U32':
      return u32(data);
    default:
      return u8(data);
  }
}

function checkBool(data: Data): void {
  const at = u8(data).findIndex((byte) => byte > 1);
  if (at >= 0) throw misfit(data, at, u8(data)[at], 'BOOL, which is 0 or 1');
}

function misfit(data: Data, index: number, value: number | bigint, kind: string): CheckpointError {
  return new CheckpointError(`${data.what}: element ${index} is ${value}, which does not fit ${kind}`);
}

let halfTable: Float32Array | undefined;

/** All 65,536 halves as floats, made on first use. */
function halves(): Float32Array {
  halfTable ??= Float32Array.from({ length: 65536 }, (_, bits) => fromHalf(bits));
  return halfTable;
}
