import { type Backend, type BackendKind, MemoryStats, type Recording } from '../backend.ts';
import { decode, type DType, encode, type HostArray, hostArrayType, hostItems, isPlain } from '../dtype.ts';
import { ArgumentError } from '../errors.ts';
import type { HostArg } from '../op.ts';
import { type Call, writtenBy } from '../plan.ts';
import { bytesMoved, type Profiler } from '../profiler.ts';

/** A new array for so many elements. */
export function hostArrayFor(dtype: DType, size: number, double = false): HostArray {
  return new (double && dtype === 'f32' ? Float64Array : hostArrayType(dtype))(hostItems(dtype, size));
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

/** @throws ArgumentError unless `data` is all of a buffer, or a piece from `start` on, as `Backend.write` has it */
export function expectFits(buffer: Extent, data: HostArray, start?: number): void {
  const type = hostArrayType(buffer.dtype);
  const items = hostItems(buffer.dtype, buffer.size);
  const typed = data instanceof type || (type === Float32Array && data instanceof Float64Array);
  const end = (start ?? 0) + data.length;
  const whole = type === Uint16Array ? (at: number) => at % 2 === 0 || at === items : () => true;
  const fits = start === undefined ? end === items : Number.isInteger(start) && start >= 0 && end <= items && whole(start) && whole(end);
  if (typed && fits) return;
  const even = type === Uint16Array ? ' with an even number of items' : '';
  const [from, expected] =
    start === undefined ? ['', type.name] : [` from item ${start} on`, `a piece of ${type.name}${even}`];
  throw new ArgumentError(
    `write: ${data.constructor.name} of ${data.length}${from} for a buffer of ${buffer.size} ${buffer.dtype}, ` +
      `expected ${expected} of ${items}`,
  );
}

export interface Poisoning {
  /**
   * Fill new buffers with NaN, and look at what lies beside a buffer after each op, or on WebGPU behind a tensor that is
   * read: shows kernels that read what nobody wrote, and those that write past an end. For tests.
   */
  readonly poison?: boolean;
}

/** NaN as f16 and as bf16; two of them are NaN as f32. */
export const POISON_HALF = 0x7fff;
/** What buffers are filled with that should show reading what nobody wrote: NaN in every dtype of floats. */
export const POISON = 0x7fff7fff;

/** A call, with what the profiler calls it. */
export interface HostPlan extends Call {
  readonly name: string;
}

/** A backend whose ops have run when `dispatch` returns, on memory that JavaScript sees. */
export abstract class HostBackend<B extends Extent, P extends HostPlan> implements Backend<B, P> {
  abstract readonly kind: BackendKind;
  abstract readonly description: string;
  readonly memory = new MemoryStats();
  profiler: Profiler | null = null;
  /** What ran since the recording that is being made began. */
  private recorded: [plan: P, buffers: readonly (B | undefined)[]][] | null = null;

  abstract alloc(size: number, dtype: DType): B;
  abstract free(buffer: B): void;
  abstract plan(call: Call): P;
  /** The array that stores a buffer; valid until the next `alloc`. */
  protected abstract view(buffer: B): HostArray;

  write(buffers: readonly B[], data: readonly HostArray[], start?: number): void {
    expectReplayable('a tensor is uploaded', this.recorded !== null);
    for (const [i, buffer] of buffers.entries()) {
      expectFits(buffer, data[i], start);
      this.view(buffer).set(data[i], start);
    }
  }

  async read(buffer: B): Promise<HostArray> {
    expectReplayable('a tensor is read back', this.recorded !== null);
    return this.view(buffer).slice();
  }

  dispatch(plan: P, buffers: readonly (B | undefined)[]): void {
    this.profiled(plan, buffers);
    this.recorded?.push([plan, buffers]);
  }

  record(): () => Recording {
    const recorded: typeof this.recorded = (this.recorded = []);
    const replay = () => {
      for (const [plan, buffers] of recorded) this.profiled(plan, buffers);
    };
    return () => {
      this.recorded = null;
      return { replay, dispose: () => {} };
    };
  }

  async sync(): Promise<void> {}

  dispose(): void {}

  /** Runs an op's reference loops. Whatever the format, they see numbers; what they write is rounded. */
  protected run(call: P, buffers: readonly (B | undefined)[]): void {
    const { op, inputs, outputs, attrs } = call;
    const args = [...inputs, ...outputs].map((slot, i): HostArg | undefined => {
      if (!slot) return undefined;
      const { shape, dtype, size } = slot;
      const stored = this.view(buffers[i]!);
      return { shape, dtype, size, data: isPlain(dtype) ? stored : decode(dtype, stored, size) };
    });
    op.reference(op.takes.named(args.slice(0, inputs.length)), op.gives.named(args.slice(inputs.length)), attrs);
    for (const i of writtenBy(call)) {
      const { dtype, data } = args[i]!;
      if (!isPlain(dtype)) encode(dtype, data, this.view(buffers[i]!));
    }
  }

  private profiled(plan: P, buffers: readonly (B | undefined)[]): void {
    if (!this.profiler) return this.run(plan, buffers);
    const start = performance.now();
    this.run(plan, buffers);
    this.profiler.add(plan.name, performance.now() - start, bytesMoved([...plan.inputs, ...plan.outputs]));
  }
}
