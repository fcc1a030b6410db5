import { OutOfMemoryError } from '../../errors.ts';
import { MemoryCounter } from '../memory.ts';

/** A pooled GPUBuffer. `id` is stable for the buffer's life and keys cached bind groups. */
export interface GpuBuffer {
  readonly id: number;
  readonly gpu: GPUBuffer;
  /** Size of the GPUBuffer. */
  readonly capacity: number;
  /** Bytes the tensor asked for. */
  bytes: number;
}

/** Rounds up to eight steps per power of two, at least 256 bytes: few sizes, so that buffers meet again. */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const power = 2 ** Math.floor(Math.log2(bytes));
  const step = Math.max(256, power / 8);
  return Math.ceil(bytes / step) * step;
}

/** Idle buffers of one size as a binary heap: the one with the lowest id first. */
class IdleHeap {
  private readonly heap: GpuBuffer[] = [];

  push(buffer: GpuBuffer): void {
    const { heap } = this;
    let i = heap.push(buffer) - 1;
    for (let up = (i - 1) >> 1; i > 0 && heap[up].id > buffer.id; up = (i - 1) >> 1) {
      heap[i] = heap[up];
      i = up;
    }
    heap[i] = buffer;
  }

  pop(): GpuBuffer | undefined {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let i = 0;
    for (let down = 1; down < heap.length; down = 2 * i + 1) {
      if (down + 1 < heap.length && heap[down + 1].id < heap[down].id) down++;
      if (heap[down].id > last.id) break;
      heap[i] = heap[down];
      i = down;
    }
    heap[i] = last;
    return first;
  }
}

/**
 * Hands out buffers and takes them back for reuse. Reuse is safe at once: everything runs in the order of one queue.
 * Of the idle buffers the oldest goes first, so that a step that repeats gets the very same buffers in the same
 * places, and with them the same cached bind groups.
 * With `poison`, what is handed out is filled with NaN, slack included, so that reading what nobody wrote shows.
 */
export class BufferPool {
  readonly memory = new MemoryCounter();
  private readonly idle = new Map<number, IdleHeap>();
  private nextId = 1;

  constructor(
    private readonly device: GPUDevice,
    private readonly limit: number,
  ) {}

  take(bytes: number): GpuBuffer {
    const capacity = sizeClass(bytes);
    if (capacity > this.limit) {
      throw new OutOfMemoryError(
        `a tensor of ${bytes} bytes is larger than this GPU binds at once (${this.limit} bytes); ` +
          'lower the batch or the context, or use the wasm backend',
      );
    }
    let buffer = this.idle.get(capacity)?.pop();
    if (!buffer) {
      const gpu = this.device.createBuffer({
        size: capacity,
        usage: GPUBufferUsageFlags.STORAGE | GPUBufferUsageFlags.COPY_SRC | GPUBufferUsageFlags.COPY_DST,
      });
      buffer = { id: this.nextId++, gpu, capacity, bytes };
      this.memory.reserved += capacity;
    }
    buffer.bytes = bytes;
    this.memory.allocated(bytes);
    return buffer;
  }

  give(buffer: GpuBuffer): void {
    this.memory.freed(buffer.bytes);
    let idle = this.idle.get(buffer.capacity);
    if (!idle) this.idle.set(buffer.capacity, (idle = new IdleHeap()));
    idle.push(buffer);
  }
}

/** WebGPU's usage bits, which are globals only where a browser defines them. */
export const GPUBufferUsageFlags = {
  MAP_READ: 0x1,
  COPY_SRC: 0x4,
  COPY_DST: 0x8,
  UNIFORM: 0x40,
  STORAGE: 0x80,
  QUERY_RESOLVE: 0x200,
} as const;
