import type { Backend, Recording } from '../../backend.ts';
import { type DType, type HostArray, isFloat } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { AnyOp } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { allocEach, expectFits, expectReplayable, expectSame, type Extent, hostArrayFor, type HostPlan, POISON_HALF, runReference } from '../host.ts';
import { MemoryCounter } from '../memory.ts';
import { RecordedCalls } from '../recorded-calls.ts';
import { RecordedMemory } from '../recorded-memory.ts';

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
export class ReferenceBackend implements Backend<HostBuffer, HostPlan> {
  readonly kind = 'reference';
  readonly description: string;
  readonly memory = new MemoryCounter();
  profiler: Profiler | null = null;
  private readonly double: boolean;
  private recorded: { readonly calls: RecordedCalls; readonly memory: RecordedMemory<HostArray, string> } | null = null;

  constructor(options: ReferenceOptions = {}) {
    this.double = options.double ?? false;
    this.description = this.double ? 'JavaScript loops, f64' : 'JavaScript loops, f32';
  }

  alloc(size: number, dtype: DType): HostBuffer {
    const make = () => this.array(size, dtype);
    const data = this.recorded ? this.recorded.memory.take(`${size} ${dtype}`, make) : make();
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
    this.recorded?.memory.give(data);
    this.memory.freed(data.byteLength);
    this.memory.reserved = this.memory.live;
  }

  allocTogether(parts: readonly Extent[]): HostBuffer[] {
    return allocEach(this, parts);
  }

  write(buffer: HostBuffer, data: HostArray, start?: number): void {
    expectReplayable('a tensor is uploaded', this.recorded !== null);
    expectFits(buffer, data, start);
    buffer.data.set(data, start);
  }

  writeAll(buffers: readonly HostBuffer[], data: readonly HostArray[]): void {
    buffers.forEach((buffer, i) => this.write(buffer, data[i]));
  }

  async read(buffer: HostBuffer, size: number, dtype: DType): Promise<HostArray> {
    expectReplayable('a tensor is read back', this.recorded !== null);
    expectSame('read', buffer, { size, dtype });
    return buffer.data.slice();
  }

  copy(from: HostBuffer, to: HostBuffer): void {
    expectSame('copy', from, to);
    const run = () => to.data.set(from.data);
    run();
    this.recorded?.calls.add('copy', 2 * from.data.byteLength, run);
  }

  plan(op: AnyOp, inputs: HostPlan['inputs'], outputs: HostPlan['outputs'], attrs: unknown): HostPlan {
    return { op, inputs, outputs, attrs };
  }

  dispatch(plan: HostPlan, buffers: readonly (HostBuffer | undefined)[]): void {
    const start = this.profiler ? performance.now() : 0;
    const run = () => runReference(plan, (i) => buffers[i]!.data);
    run();
    if (!this.profiler && !this.recorded) return;
    const bytes = bytesMoved([...plan.inputs, ...plan.outputs]);
    this.profiler?.add(plan.op.name, performance.now() - start, bytes);
    this.recorded?.calls.add(plan.op.name, bytes, run);
  }

  record(): () => Recording {
    const { calls } = (this.recorded = { calls: new RecordedCalls(), memory: new RecordedMemory() });
    return () => {
      this.recorded = null;
      return { replay: () => calls.replay(this.profiler), dispose: () => {} };
    };
  }

  async sync(): Promise<void> {}

  dispose(): void {}
}
