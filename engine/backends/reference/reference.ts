import type { Backend, Call } from '../../backend.ts';
import type { DType, HostArray } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { HostCall, Op } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { MemoryCounter } from '../memory.ts';

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

export interface ReferenceOptions {
  /** Hold f32 tensors as doubles: for gradient checks by finite differences. */
  readonly double?: boolean;
}

/**
 * The readable backend: every op's `reference` loops on typed arrays. The meaning of each op, and what the other
 * backends are compared with. New buffers of floats are filled with NaN, so that an op that leaves an output element
 * unwritten shows.
 */
export class ReferenceBackend implements Backend<HostArray> {
  readonly kind = 'reference';
  readonly description: string;
  readonly memory = new MemoryCounter();
  profiler: Profiler | null = null;
  private readonly double: boolean;

  constructor(options: ReferenceOptions = {}) {
    this.double = options.double ?? false;
    this.description = this.double ? 'JavaScript loops, f64' : 'JavaScript loops, f32';
  }

  alloc(size: number, dtype: DType): HostArray {
    const array = this.array(size, dtype);
    if (dtype === 'f32') array.fill(NaN);
    this.memory.allocated(array.byteLength);
    this.memory.reserved = this.memory.live;
    return array;
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

  free(buffer: HostArray): void {
    this.memory.freed(buffer.byteLength);
    this.memory.reserved = this.memory.live;
  }

  write(buffer: HostArray, data: HostArray): void {
    buffer.set(data);
  }

  async read(buffer: HostArray, size: number): Promise<HostArray> {
    return buffer.slice(0, size);
  }

  run<A>(op: Op<A>, call: Call<A, HostArray>): void {
    const start = this.profiler ? performance.now() : 0;
    op.reference(hostCall(call));
    this.profiler?.add(op.name, performance.now() - start, bytesMoved(call));
  }

  async sync(): Promise<void> {}

  dispose(): void {}
}

function hostCall<A>(call: Call<A, HostArray>): HostCall<A> {
  const arg = (a: Call<A, HostArray>['inputs'][number]) => ({
    shape: a.shape,
    dtype: a.dtype,
    size: a.size,
    data: a.buffer,
  });
  return { inputs: call.inputs.map(arg), outputs: call.outputs.map(arg), attrs: call.attrs };
}
