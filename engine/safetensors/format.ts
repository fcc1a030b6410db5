/** The element types of the safetensors format that are whole bytes, with their sizes. */
export const SAFE_BYTES = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** An element type as a safetensors header spells it. */
export type SafeDType = keyof typeof SAFE_BYTES;

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
  return Object.hasOwn(SAFE_BYTES, dtype);
}

/** Bytes that a tensor takes; NaN when the product leaves the exact integers. */
export function spanOf(dtype: SafeDType, shape: readonly number[]): number {
  let count = 1;
  for (let i = 0; i < shape.length; i++) {
    count *= shape[i];
    if (!Number.isSafeInteger(count)) return NaN;
  }
  const span = count * SAFE_BYTES[dtype];
  return Number.isSafeInteger(span) ? span : NaN;
}
