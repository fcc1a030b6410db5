import { type DType, type HostArray } from '../dtype.ts';
import { ArgumentError } from '../errors.ts';

type HostArrayType =
  | Float32ArrayConstructor
  | Float64ArrayConstructor
  | Uint16ArrayConstructor
  | Int32ArrayConstructor
  | Uint32ArrayConstructor;

/** The array type that holds a dtype on the host. */
export function hostArrayType(dtype: DType): HostArrayType {
  switch (dtype) {
    case 'f32':
      return Float32Array;
    case 'f16':
    case 'bf16':
      return Uint16Array;
    case 'i32':
      return Int32Array;
    case 'u32':
    case 'bool':
      return Uint32Array;
    default:
      return dtype satisfies never;
  }
}

/** A new array of that type. */
export function hostArrayFor(dtype: DType, size: number, double = false): HostArray {
  return new (double && dtype === 'f32' ? Float64Array : hostArrayType(dtype))(size);
}

/** What a buffer was allocated for. */
export interface Extent {
  readonly size: number;
  readonly dtype: DType;
}

/** @throws ArgumentError unless `data` is all that a buffer holds, as `Backend.write` has it */
export function expectAll(buffer: Extent, data: HostArray): void {
  const type = hostArrayType(buffer.dtype);
  const typed = data instanceof type || (type === Float32Array && data instanceof Float64Array);
  if (typed && data.length === buffer.size) return;
  throw new ArgumentError(
    `write: ${data.constructor.name} of ${data.length} for a buffer of ${buffer.size} ${buffer.dtype}, ` +
      `expected ${type.name} of ${buffer.size}`,
  );
}

/** @throws ArgumentError unless a read, or a copy, is of all that a buffer holds */
export function expectSame(what: 'read' | 'copy', buffer: Extent, { size, dtype }: Extent): void {
  if (buffer.size === size && buffer.dtype === dtype) return;
  const held = `${buffer.size} ${buffer.dtype}`;
  throw new ArgumentError(`${what}: ${size} ${dtype} of a buffer of ${held}, expected all of it`);
}

/** NaN as f16 and as bf16; two of them are NaN as f32. */
export const POISON_HALF = 0x7fff;
/** What buffers are filled with that should show reading what nobody wrote: NaN in every dtype of floats. */
export const POISON = 0x7fff7fff;
