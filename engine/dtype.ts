import { type Access, BFLOAT, BLOCK4, BLOCK8, HALF, HALF_IN_WORDS, plain } from './access.ts';
import { shown } from './arguments.ts';
import type { Spec } from './backend.ts';
import { BLOCK, INT4, INT8 } from './blocks.ts';
import { ArgumentError, DTypeError, ShapeError } from './errors.ts';
import { fromBfloat, fromBfloats, fromHalf, fromHalves, toBfloat, toHalf } from './half.ts';

/**
 * How the elements of a tensor are stored. Kernels compute on f32, i32 and u32: f16 and bf16 are widened as they are
 * read and rounded as they are written; bool is held as u32 words of 0 and 1, as WGSL has it. int8 and int4 are weights
 * in groups of 32 along the last dimension, which 64 must divide, that share a scale (see blocks.ts); kernels only read
 * them.
 */
export type DType = ElementDType | 'int8' | 'int4';

/** Formats that store each element by itself. */
export type ElementDType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u32' | 'bool';

/** What a tensor's elements look like on the host: f16 and bf16 are raw 16-bit patterns, int8 and int4 raw words. */
export type HostArray = Float32Array | Float64Array | Uint16Array | Int32Array | Uint32Array;

type HostArrayType = Float32ArrayConstructor | Uint16ArrayConstructor | Int32ArrayConstructor | Uint32ArrayConstructor;

/** A storage format: everything the engine and its backends know of one. Adding a format is adding a row. */
interface Format {
  readonly float: boolean;
  /** What a number becomes, and is worth: absent where they are stored as they are. */
  readonly encode?: (value: number) => number;
  readonly decode?: (stored: number) => number;
  /** The same for a whole tensor: where elements are not stored by themselves, or it is faster so. */
  readonly pack?: (values: ArrayLike<number>, into: HostArray) => void;
  readonly unpack?: (stored: HostArray, into: Float32Array) => void;
  /** The host's array, and how many of its items a tensor of so many elements has. */
  readonly array: HostArrayType;
  readonly items?: (elements: number) => number;
  /** Least and largest whole number. */
  readonly range?: readonly [least: number, most: number];
  /** How WGSL reads and writes it: on devices with f16, and where it is another way, on those without. */
  readonly wgsl: Access;
  readonly wgslWithoutF16?: Access;
  /** Kernels of other backends know it by this number (wasm/src/formats.h). */
  readonly c: number;
}

/** What activations and gradients may be stored in. */
export const FLOATS = ['f32', 'f16', 'bf16'] as const;
/** What weights may be stored in. */
export const WEIGHTS = [...FLOATS, 'int8', 'int4'] as const;

const whole = ([least, most]: readonly [number, number]) => (value: number) =>
  Math.max(least, Math.min(most, Math.trunc(value)));
const I32 = [-(2 ** 31), 2 ** 31 - 1] as const;
const U32 = [0, 2 ** 32 - 1] as const;
const flag = (value: number) => (value !== 0 ? 1 : 0);

const FORMATS: Readonly<Record<DType, Format>> = {
  f32: { float: true, array: Float32Array, wgsl: plain('f32'), c: 0 },
  f16: {
    ...{ float: true, array: Uint16Array, encode: toHalf, decode: fromHalf, unpack: fromHalves },
    ...{ wgsl: HALF, wgslWithoutF16: HALF_IN_WORDS, c: 1 },
  },
  bf16: {
    ...{ float: true, array: Uint16Array, encode: toBfloat, decode: fromBfloat, unpack: fromBfloats },
    ...{ wgsl: BFLOAT, c: 2 },
  },
  i32: { float: false, array: Int32Array, encode: whole(I32), range: I32, wgsl: plain('i32'), c: 3 },
  u32: { float: false, array: Uint32Array, encode: whole(U32), range: U32, wgsl: plain('u32'), c: 3 },
  bool: { float: false, array: Uint32Array, encode: flag, wgsl: plain('u32'), c: 3 },
  int8: { float: true, array: Uint32Array, ...INT8, wgsl: BLOCK8, c: 4 },
  int4: { float: true, array: Uint32Array, ...INT4, wgsl: BLOCK4, c: 5 },
};

/** Bytes of so many elements. */
export function byteLength(dtype: DType, elements: number): number {
  return hostItems(dtype, elements) * FORMATS[dtype].array.BYTES_PER_ELEMENT;
}

/** Items of the host's array that hold so many elements: as many, but of block formats. */
export function hostItems(dtype: DType, elements: number): number {
  return FORMATS[dtype].items?.(elements) ?? elements;
}

/** The array type that holds a dtype on the host. */
export function hostArrayType(dtype: DType): HostArrayType {
  return FORMATS[dtype].array;
}

/** What the C kernels call the format. */
export function formatNumber(dtype: DType): number {
  return FORMATS[dtype].c;
}

/** How WGSL accesses the dtype on a device that has 16-bit floats, or has none. */
export function accessOf(dtype: DType, { f16 }: { readonly f16: boolean }): Access {
  const { wgsl, wgslWithoutF16 } = FORMATS[dtype];
  return f16 ? wgsl : (wgslWithoutF16 ?? wgsl);
}

export function isFloat(dtype: DType): boolean {
  return FORMATS[dtype].float;
}

/** Whether elements are stored as the numbers that they are. */
export function isPlain(dtype: DType): boolean {
  return FORMATS[dtype].array !== Uint16Array && !isBlock(dtype);
}

/** The numbers that a stored tensor of so many elements holds. */
export function decode(dtype: DType, stored: HostArray, elements: number): HostArray {
  const { decode: one, unpack } = FORMATS[dtype];
  const values = new Float32Array(elements);
  if (unpack) unpack(stored, values);
  else for (let i = 0; i < elements; i++) values[i] = one ? one(stored[i]) : stored[i];
  return values;
}

/** Stores numbers as `encoder` says, or in blocks. */
export function encode(dtype: DType, values: ArrayLike<number>, into: HostArray): void {
  const { encode: one, pack } = FORMATS[dtype];
  if (pack) pack(values, into);
  else for (let i = 0; i < values.length; i++) into[i] = one ? one(values[i]) : values[i];
}

/** Whether groups of elements share a scale: such tensors are weights, which kernels only read. */
export function isBlock(dtype: DType): boolean {
  return FORMATS[dtype]?.items !== undefined;
}

/** @throws ShapeError for sizes that the dtype cannot have, DTypeError for an unknown dtype */
export function expectSpec({ shape, dtype }: Spec): void {
  for (const d of shape) {
    if (Number.isInteger(d) && d >= 0) continue;
    throw new ShapeError(`a tensor cannot have the shape [${shape.join(', ')}], expected whole numbers of at least 0`);
  }
  if (!Object.hasOwn(FORMATS, dtype)) throw new DTypeError(`a tensor cannot have the dtype ${dtype}`);
  if (isBlock(dtype) && (shape.at(-1) ?? 1) % BLOCK !== 0) {
    const given = `[${shape.join(', ')}]`;
    throw new ShapeError(`a tensor of ${dtype} needs a last dimension that ${BLOCK} divides, got ${given}`);
  }
}

/** @throws DTypeError for formats that share a scale among elements: only the host makes tensors of these */
export function expectElements(op: string, arg: string, dtype: DType): void {
  if (!isBlock(dtype)) return;
  throw new DTypeError(`${op}: ${arg} has dtype ${dtype}, whose elements share a scale; give fromData() all numbers`);
}

/** Throws a DTypeError unless `dtype` is one of `allowed`. */
export function expectDType(op: string, arg: string, dtype: DType, ...allowed: readonly DType[]): void {
  if (!allowed.includes(dtype)) {
    throw new DTypeError(`${op}: ${arg} has dtype ${dtype}, expected ${allowed.join(' or ')}; convert it with cast()`);
  }
}

/** What a stored element of the dtype is worth as a number. */
export function decoder(dtype: DType): (stored: number) => number {
  return FORMATS[dtype].decode ?? Number;
}

/** How the dtype stores a number: floats round to even, integers truncate and stop at their bounds, bool is "not 0". */
export function encoder(dtype: DType): (value: number) => number {
  return FORMATS[dtype].encode ?? Number;
}

/** @throws ArgumentError unless `value` is a number that the dtype can hold: integers hold whole ones in bounds */
export function expectStorable(op: string, value: unknown, dtype: DType): void {
  if (typeof value !== 'number') throw new ArgumentError(`${op}: ${shown(value)} is no number`);
  const range = FORMATS[dtype]?.range;
  if (!range || (Number.isInteger(value) && value >= range[0] && value <= range[1])) return;
  throw new ArgumentError(
    `${op}: ${dtype} cannot hold ${value}, expected whole numbers from ${range[0]} to ${range[1]}; round or clip first`,
  );
}
