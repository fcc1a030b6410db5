import type { Profiler } from '../../profiler.ts';
import { GPUBufferUsageFlags } from './buffers.ts';
import type { Staging } from './staging.ts';

/** Bytes of the two timestamps of a span. */
const BYTES = 16;

/** What is timed: a name for people, and the bytes that it moves at the least. */
export interface Span {
  readonly name: string;
  readonly bytes: number;
}

/** GPU timestamps around passes, gathered for the profiler. */
export class Timestamps {
  private readonly queries: GPUQuerySet;
  private readonly resolved: GPUBuffer;
  private spans: Span[] = [];
  private readonly waiting: { buffer: GPUBuffer; spans: readonly Span[] }[] = [];
  private collected: Promise<void> = Promise.resolve();

  /** @param most spans in one submit */
  constructor(
    device: GPUDevice,
    private readonly staging: Staging,
    most: number,
  ) {
    this.queries = device.createQuerySet({ type: 'timestamp', count: 2 * most });
    const usage = GPUBufferUsageFlags.QUERY_RESOLVE | GPUBufferUsageFlags.COPY_SRC;
    this.resolved = device.createBuffer({ size: BYTES * most, usage });
  }

  next(span: Span): GPUComputePassTimestampWrites {
    const i = this.spans.push(span) - 1;
    return { querySet: this.queries, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
  }

  /** Ends a submit: copies its timestamps where they can be read. */
  resolve(encoder: GPUCommandEncoder): void {
    const { spans } = this;
    if (spans.length === 0) return;
    const buffer = this.staging.take(BYTES * spans.length);
    encoder.resolveQuerySet(this.queries, 0, 2 * spans.length, this.resolved, 0);
    encoder.copyBufferToBuffer(this.resolved, 0, buffer, 0, BYTES * spans.length);
    this.waiting.push({ buffer, spans });
    this.spans = [];
  }

  /** Resolves when the profiler has all, also what an earlier call is still collecting. */
  collect(profiler: Profiler): Promise<void> {
    const mapped = this.waiting.splice(0).map(async ({ buffer, spans }) => {
      await buffer.mapAsync(0x1);
      const times = new BigUint64Array(buffer.getMappedRange());
      spans.forEach(({ name, bytes }, i) => profiler.add(name, Number(times[2 * i + 1] - times[2 * i]) / 1e6, bytes));
      this.staging.give(buffer);
    });
    return (this.collected = Promise.all([this.collected, ...mapped]).then(() => {}));
  }
}
