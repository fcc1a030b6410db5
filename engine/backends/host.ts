import { type Backend, elements, type Spec } from '../backend.ts';
import { decode, type DType, encode, type HostArray, hostArrayType, hostItems, isPlain } from '../dtype.ts';
import { ArgumentError } from '../errors.ts';
import type { AnyOp, HostArg } from '../op.ts';

/** A new array for so many elements. */
export function hostArrayFor(dtype: DType, size: number, double = false): HostArray {
  return new (double && dtype === 'f32' ? Float64Array : hostArrayType(dtype))(hostItems(dtype, size));
}

/** `Backend.allocTogether`, one by one: all of them, or where one fails none. */
export function allocEach<B>(backend: Pick<Backend<B>, 'alloc' | 'free'>, parts: readonly Extent[]): B[] {
  const buffers: B[] = [];
  try {
    for (const { size, dtype } of parts) buffers.push(backend.alloc(size, dtype));
  } catch (error) {
    for (const buffer of buffers) backend.free(buffer);
    throw error;
  }
  return buffers;
}

/** @throws ArgumentError where an upload or a read-back is asked for while a capture is being made */
export function expectReplayable(what: 'a tensor is uploaded' | 'a tensor is read back', recording: boolean): void {
  if (recording) throw new ArgumentError(`capture: ${what} inside, which no replay would do; do it outside`);
}

/** What a buffer was allocated for. */
export interface Extent {
  readonly size: number;
  readonly dtype: DType;
}

/** @throws ArgumentError unless `data` is all that a buffer holds, or a piece from `start` on, as `Backend.write` has it */
export function expectFits(buffer: Extent, data: HostArray, start?: number): void {
  const type = hostArrayType(buffer.dtype);
  const items = hostItems(buffer.dtype, buffer.size);
  const typed = data instanceof type || (type === Float32Array && data instanceof Float64Array);
  const end = (start ?? 0) + data.length;
  const whole = type === Uint16Array ? (at: number) => at % 2 === 0 || at === items : () => true;
  const fits = start === undefined ? end === items : start >= 0 && end <= items && whole(start) && whole(end);
  if (typed && fits) return;
  const piece = type === Uint16Array ? `a piece of ${type.name} with an even number of items` : `a piece of ${type.name}`;
  throw new ArgumentError(
    `write: ${data.constructor.name} of ${data.length}${start === undefined ? '' : ` from item ${start} on`} for a ` +
      `buffer of ${buffer.size} ${buffer.dtype}, expected ${start === undefined ? type.name : piece} of ${items}`,
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

/** A call of the reference loops but for its buffers. */
export interface HostPlan {
  readonly op: AnyOp;
  readonly inputs: readonly (Spec | undefined)[];
  readonly outputs: readonly (Spec | undefined)[];
  readonly attrs: unknown;
}

/**
 * Runs an op's reference loops. Whatever the format, they see numbers; what they write is rounded.
 * @param storedOf the array that stores the i-th operand
 */
export function runReference({ op, inputs, outputs, attrs }: HostPlan, storedOf: (i: number) => HostArray): void {
  const arg = (spec: Spec | undefined, i: number): HostArg | undefined => {
    if (!spec) return undefined;
    const [size, stored] = [elements(spec.shape), storedOf(i)];
    const data = isPlain(spec.dtype) ? stored : decode(spec.dtype, stored, size);
    return { shape: spec.shape, dtype: spec.dtype, size, data };
  };
  const given = inputs.map(arg);
  const made = outputs.map((spec, i) => arg(spec, inputs.length + i));
  op.reference(op.takes.named(given), op.gives.named(made), attrs);
  const write = (i: number, { dtype, data }: HostArg) => isPlain(dtype) || encode(dtype, data, storedOf(i));
  for (const i of op.mutates) if (given[i]) write(i, given[i]);
  made.forEach((output, i) => output && write(inputs.length + i, output));
}
