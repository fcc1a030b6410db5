import { type DType, type HostArray, isFloat } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { Call } from '../../plan.ts';
import { type Extent, hostArrayFor, HostBackend, type HostPlan, POISON_HALF } from '../host.ts';

/** The elements of a tensor in an array of their own. */
interface HostBuffer extends Extent {
  readonly data: HostArray;
}

export interface ReferenceOptions {
  /** Hold f32 tensors as doubles: for gradient checks by finite differences. */
  readonly double?: boolean;
}

/**
 * The readable backend: every op's `reference` loops, which are what it means, on typed arrays. New buffers of floats
 * are filled with NaN, so that an op that leaves an output element unwritten shows.
 */
export class ReferenceBackend extends HostBackend<HostBuffer, HostPlan> {
  readonly kind = 'reference';
  readonly description: string;
  private readonly double: boolean;

  constructor(options: ReferenceOptions = {}) {
    super();
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

  free({ data }: HostBuffer): void {
    this.memory.freed(data.byteLength);
    this.memory.reserved = this.memory.live;
  }

  plan(call: Call): HostPlan {
    return { ...call, name: call.op.name };
  }

  protected view({ data }: HostBuffer): HostArray {
    return data;
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
}
