/** The element types of the safetensors format, with their sizes in bits. */
export const SAFE_BITS = {
  ...{ F64: 64, C64: 64, I64: 64, U64: 64 },
  ...{ F32: 32, I32: 32, U32: 32 },
  ...{ F16: 16, BF16: 16, I16: 16, U16: 16 },
  ...{ F8_E4M3: 8, F8_E4M3FNUZ: 8, F8_E5M2: 8, F8_E5M2FNUZ: 8, F8_E8M0: 8, I8: 8, U8: 8, BOOL: 8 },
  ...{ F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
} as const;

/** An element type as a safetensors header spells it. */
export type SafeDType = keyof typeof SAFE_BITS;

/** What holds elements on the host; f16 and bf16 as raw bits. Element types that are not here are bytes to us. */
export const SAFE_ARRAYS = {
  ...{ F64: Float64Array, F32: Float32Array, F16: Uint16Array, BF16: Uint16Array },
  ...{ I64: BigInt64Array, U64: BigUint64Array, I32: Int32Array, U32: Uint32Array },
  ...{ I16: Int16Array, U16: Uint16Array, I8: Int8Array, U8: Uint8Array, BOOL: Uint8Array },
} as const;

/** What a header says of one tensor: `begin` and `end` count from the first byte of data. */
export interface SafeEntry {
  readonly dtype: SafeDType;
  readonly shape: number[];
  readonly begin: number;
  readonly end: number;
}

/** The format's own bound on the header, in bytes. */
export const HEADER_LIMIT = 100_000_000;
export const TENSOR_LIMIT = 100_000;
export const RANK_LIMIT = 32;

export function isSafeDType(dtype: string): dtype is SafeDType {
  return Object.hasOwn(SAFE_BITS, dtype);
}

/** Bytes that a tensor takes; NaN when the product leaves the exact integers or is no whole number of bytes. */
export function spanOf(dtype: SafeDType, shape: readonly number[]): number {
  let count = 1;
  for (let i = 0; i < shape.length; i++) {
    count *= shape[i];
    if (!Number.isSafeInteger(count)) return NaN;
  }
  // Eighths of bits are exact, so that the product is too wherever it is a safe integer.
  const span = count * (SAFE_BITS[dtype] / 8);
  return Number.isSafeInteger(span) ? span : NaN;
}
