import type { Arg, Backend, Call } from '../../backend.ts';
import { type DType, type HostArray, isFloat } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { HostCall, Op } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { expectAll, expectSame, type Extent, hostArrayFor, POISON_HALF } from '../host.ts';
import { MemoryCounter } from '../memory.ts';

/** The elements of a tensor in an array of their own. */
export interface HostBuffer extends Extent {
  readonly data: HostArray;
}

export interface ReferenceOptions {
  /** Hold f32 tensors as doubles: for gradient checks by finite differences. */
  readonly double?: boolean;
}

/**
 * The readable backend: every op's `reference` loops on typed arrays. The meaning of each op, and what the other
 * backends are compared with. New buffers of floats are filled with NaN, so that an op that leaves an output element
 * unwritten shows.
 */
export class ReferenceBackend implements Backend<HostBuffer> {
  readonly kind = 'reference';
  readonly description: string;
  readonly memory = new MemoryCounter();
  profiler: Profiler | null = null;
  private readonly double: boolean;

  constructor(options: ReferenceOptions = {}) {
    this.double = options.double ?? false;
    this.description = this.double ? 'JavaScript loops, f64' : 'JavaScript loops, f32';
  }

  alloc(size: number, dtype: DType): HostBuffer {
    const data = this.array(size, dtype);
    if (isFloat(dtype)) data.fill(dtype === 'f32' ? NaN : POISON_HALF);
    this.memory.allocated(data.byteLength);
    this.memory.reserved = this.memory.live;
    return { size, dtype, data };
  }

  private array(size: number, dtype: DType): HostArray {
    try {
      return hostArrayFor(dtype, size, this.double);
    } catch (error) {
      throw new OutOfMemoryError(
        `a tensor of ${size} ${dtype} is more than JavaScript allocates with ${this.memory.live} bytes in use ` +
          `(${(error as Error).message}); lower the batch or the context`,
      );
    }
  }

  free({ data }: HostBuffer): void {
    this.memory.freed(data.byteLength);
    this.memory.reserved = this.memory.live;
  }

  write(buffer: HostBuffer, data: HostArray): void {
    expectAll(buffer, data);
    buffer.data.set(data);
  }

  async read(buffer: HostBuffer, size: number, dtype: DType): Promise<HostArray> {
    expectSame('read', buffer, { size, dtype });
    return buffer.data.slice();
  }

  copy(from: HostBuffer, to: HostBuffer): void {
    expectSame('copy', from, to);
    to.data.set(from.data);
  }

  run<A>(op: Op<A>, call: Call<A, HostBuffer>): void {
    const start = this.profiler ? performance.now() : 0;
    op.reference(hostCall(call));
    this.profiler?.add(op.name, performance.now() - start, bytesMoved(call));
  }

  async sync(): Promise<void> {}

  dispose(): void {}
}

function hostCall<A>(call: Call<A, HostBuffer>): HostCall<A> {
  const arg = (a: Arg<HostBuffer>) => ({
    shape: a.shape,
    dtype: a.dtype,
    size: a.size,
    data: a.buffer.data,
  });
  return { inputs: call.inputs.map(arg), outputs: call.outputs.map(arg), attrs: call.attrs };
}
