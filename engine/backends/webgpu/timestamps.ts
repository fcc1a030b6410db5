import type { Profiler } from '../../profiler.ts';
import { GPUBufferUsageFlags } from './buffers.ts';

const CAPACITY = 1024;

interface Span {
  readonly name: string;
  readonly bytes: number;
}

/** GPU timestamps around passes, gathered for the profiler. */
export class Timestamps {
  private readonly queries: GPUQuerySet;
  private readonly resolved: GPUBuffer;
  private spans: Span[] = [];
  private readonly waiting: { buffer: GPUBuffer; spans: Span[] }[] = [];

  constructor(private readonly device: GPUDevice) {
    this.queries = device.createQuerySet({ type: 'timestamp', count: CAPACITY * 2 });
    this.resolved = device.createBuffer({
      size: CAPACITY * 16,
      usage: GPUBufferUsageFlags.QUERY_RESOLVE | GPUBufferUsageFlags.COPY_SRC,
    });
  }

  get full(): boolean {
    return this.spans.length >= CAPACITY;
  }

  next(name: string, bytes: number): GPUComputePassTimestampWrites {
    const i = this.spans.push({ name, bytes }) - 1;
    return { querySet: this.queries, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
  }

  /** Ends a submit: copies its timestamps where they can be read. */
  resolve(encoder: GPUCommandEncoder): void {
    const count = this.spans.length;
    if (count === 0) return;
    const buffer = this.device.createBuffer({
      size: count * 16,
      usage: GPUBufferUsageFlags.MAP_READ | GPUBufferUsageFlags.COPY_DST,
    });
    encoder.resolveQuerySet(this.queries, 0, 2 * count, this.resolved, 0);
    encoder.copyBufferToBuffer(this.resolved, 0, buffer, 0, count * 16);
    this.waiting.push({ buffer, spans: this.spans });
    this.spans = [];
  }

  async collect(profiler: Profiler): Promise<void> {
    for (const { buffer, spans } of this.waiting.splice(0)) {
      await buffer.mapAsync(0x1);
      const times = new BigUint64Array(buffer.getMappedRange());
      spans.forEach((span, i) => {
        profiler.add(span.name, Number(times[2 * i + 1] - times[2 * i]) / 1e6, span.bytes);
      });
      buffer.unmap();
      buffer.destroy();
    }
  }
}
