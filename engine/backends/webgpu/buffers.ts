import type { DType } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { Extent } from '../host.ts';
import { MemoryCounter } from '../memory.ts';

/* The package's declarations name these; where a project's libraries do not have WebGPU yet, they are empty there. */
declare global {
  interface GPU {}
  interface GPUBuffer {}
  interface GPUDevice {}
}

/** A pooled GPUBuffer, or a part of one. `id` is stable for the buffer's life and keys cached bind groups. */
export interface GpuBuffer extends Extent {
  readonly id: number;
  readonly gpu: GPUBuffer;
  /** Where in the GPUBuffer it begins, and how many bytes are its own. */
  readonly offset: number;
  readonly capacity: number;
  /** Of a part, the whole GPUBuffer. */
  readonly whole: GpuBuffer | null;
  /** Of a whole, the parts that it was divided into, by their sizes, and how many of those are in use. */
  readonly divisions: Map<string, GpuBuffer[]>;
  partsInUse: number;
  /** The submit that the latest dispatch on it goes out with. */
  submit: number;
  /** What the tensor asked for. */
  size: number;
  dtype: DType;
  bytes: number;
  /** Whether poison lies behind that: not in a recording, whose replays write to it for several tensors in turn. */
  guarded: boolean;
  /** When it was last given back, by the pool's count. */
  idleSince: number;
  /** How often it was handed out, which tells whether it is still the same tensor's. */
  takes: number;
  /** Why what it should hold was not computed. */
  failure: Error | null;
}

const MIB = 2 ** 20;
/** Where bindings may begin on every device, in bytes. */
const PART_ALIGNMENT = 256;
/** Idle bytes that are always worth holding. */
const MIN_IDLE = 32 * MIB;
/**
 * Idle bytes for each byte that was live at the recent peak: a training step leaves about 1.3 idle at its end, and
 * those are the ones that the next step takes.
 */
const IDLE_PER_PEAK = 2;
/** By how much the peak that allows idle bytes is forgotten from one submit to the next: half of it after 700. */
const FORGET = 1 / 1024;

/**
 * Rounds up to a few sizes, so that buffers meet again: four a power of two, from 1 MiB on, where the rest weighs,
 * eight; at least 256 bytes.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const power = 2 ** Math.floor(Math.log2(bytes));
  const step = Math.max(256, power / (bytes < MIB ? 4 : 8));
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

  /** All of them, out of the heap. */
  drain(): GpuBuffer[] {
    return this.heap.splice(0);
  }
}

/**
 * Hands out buffers and takes them back for reuse. Reuse is safe at once: everything runs in the order of one queue.
 * Of the idle buffers the oldest goes first, so that a step that repeats gets the very same buffers in the same
 * places, and with them the same cached bind groups. What lies idle beyond twice the most that was live lately
 * is destroyed, the longest idle first.
 * With `poison`, what is handed out is filled with NaN, slack included, so that reading what nobody wrote shows.
 */
export class BufferPool {
  readonly memory = new MemoryCounter();
  private readonly idle = new Map<number, IdleHeap>();
  private nextId = 1;
  private idleBytes = 0;
  private clock = 0;
  /** The most bytes live, old peaks forgotten little by little. */
  private recentPeak = 0;
  /** Whether a buffer is being made, and whether the system refused it. */
  private creating = false;
  private refused = false;

  /**
   * `limit`: bytes of the largest buffer that can be bound. `submit` sends off what is enqueued and calls `trim`.
   * `relieve`: called when the system gives no more memory; destroys all idle buffers after a submit.
   */
  constructor(
    private readonly device: { createBuffer(descriptor: { size: number; usage: number }): GPUBuffer },
    readonly limit: number,
    private readonly submit: () => void,
    private readonly relieve: () => void,
  ) {}

  /** @throws OutOfMemoryError for more than can be bound, or than the system gives */
  take(bytes: number): GpuBuffer {
    const capacity = Math.min(sizeClass(bytes), this.limit);
    if (bytes > this.limit) {
      throw new OutOfMemoryError(
        `a tensor of ${bytes} bytes is larger than this GPU binds at once (${this.limit} bytes); ` +
          'lower the batch or the context, or use the wasm backend',
      );
    }
    let buffer = this.idle.get(capacity)?.pop();
    if (buffer) this.idleBytes -= capacity;
    else buffer = this.create(capacity);
    buffer.bytes = bytes;
    buffer.takes++;
    buffer.failure = null;
    this.memory.allocated(bytes);
    if (this.memory.live > this.recentPeak) this.recentPeak = this.memory.live;
    return buffer;
  }

  /**
   * Buffers of so many bytes side by side in one GPUBuffer, which goes back when the last of them does; null where one
   * cannot be as large.
   */
  takeTogether(bytes: readonly number[]): GpuBuffer[] | null {
    const sizes = bytes.map((size) => Math.ceil(Math.max(4, size) / PART_ALIGNMENT) * PART_ALIGNMENT);
    const sum = sizes.reduce((total, size) => total + size, 0);
    if (sum > this.limit) return null;
    const whole = this.take(sum);
    const key = sizes.join();
    let parts = whole.divisions.get(key);
    if (!parts) {
      let offset = 0;
      parts = sizes.map((capacity) => this.buffer(whole.gpu, capacity, whole, (offset += capacity) - capacity));
      whole.divisions.set(key, parts);
    }
    whole.partsInUse = parts.length;
    for (const part of parts) {
      part.takes++;
      part.failure = null;
    }
    return parts;
  }

  give(buffer: GpuBuffer): void {
    if (buffer.whole) {
      if (--buffer.whole.partsInUse === 0) this.give(buffer.whole);
      return;
    }
    this.memory.freed(buffer.bytes);
    this.idleBytes += buffer.capacity;
    buffer.idleSince = this.clock++;
    let idle = this.idle.get(buffer.capacity);
    if (!idle) this.idle.set(buffer.capacity, (idle = new IdleHeap()));
    idle.push(buffer);
  }

  /**
   * Destroys what lies idle beyond the bound, and a quarter more, so that the next time is not soon. Only right after a
   * submit: no command that is still to be sent may name an idle buffer.
   * @returns ids of what was destroyed, whose bind groups are to be dropped; null when nothing was
   */
  trim(): ReadonlySet<number> | null {
    this.recentPeak = Math.max(this.memory.live, this.recentPeak * (1 - FORGET));
    return this.idleBytes > this.bound ? this.shrink(0.75 * this.bound) : null;
  }

  /** Idle bytes that are held at most from one submit to the next. */
  private get bound(): number {
    return Math.max(MIN_IDLE, IDLE_PER_PEAK * this.recentPeak);
  }

  /** Destroys the longest idle buffers until at most `most` bytes are idle. As `trim`, only right after a submit. */
  shrink(most: number): ReadonlySet<number> {
    const destroyed = new Set<number>();
    const oldest = [...this.idle.values()].flatMap((heap) => heap.drain()).sort((a, b) => a.idleSince - b.idleSince);
    for (const buffer of oldest) {
      if (this.idleBytes <= most) {
        this.idle.get(buffer.capacity)!.push(buffer);
        continue;
      }
      buffer.gpu.destroy();
      destroyed.add(buffer.id);
      for (const parts of buffer.divisions.values()) for (const { id } of parts) destroyed.add(id);
      this.idleBytes -= buffer.capacity;
      this.memory.reserved -= buffer.capacity;
    }
    return destroyed;
  }

  /**
   * The device's error handler calls it when memory ran out. Dawn in Node does so within createBuffer, where `take`
   * can still free what is idle and try again; a browser says it later.
   * @returns whether `take` deals with it
   */
  outOfMemory(): boolean {
    this.refused = this.creating;
    return this.creating;
  }

  private create(capacity: number): GpuBuffer {
    if (this.idleBytes > this.bound) this.submit();
    let gpu = this.tryCreate(capacity);
    if (!gpu) {
      this.relieve();
      gpu = this.tryCreate(capacity);
    }
    if (!gpu) {
      throw new OutOfMemoryError(
        `the GPU has no ${capacity} bytes left with ${this.memory.live} in use; lower the batch or the context, ` +
          'checkpoint layers, or use the wasm backend',
      );
    }
    this.memory.reserved += capacity;
    return this.buffer(gpu, capacity, null, 0);
  }

  private buffer(gpu: GPUBuffer, capacity: number, whole: GpuBuffer | null, offset: number): GpuBuffer {
    const place = { id: this.nextId++, gpu, offset, capacity, whole, divisions: new Map<string, GpuBuffer[]>() };
    const use = { bytes: 0, guarded: false, idleSince: 0, takes: 0, failure: null, partsInUse: 0, submit: 0 };
    return { ...place, ...use, size: 0, dtype: 'f32' };
  }

  private tryCreate(size: number): GPUBuffer | null {
    this.creating = true;
    this.refused = false;
    const usage = GPUBufferUsageFlags.STORAGE | GPUBufferUsageFlags.COPY_SRC | GPUBufferUsageFlags.COPY_DST;
    const gpu = this.device.createBuffer({ size, usage });
    this.creating = false;
    return this.refused ? null : gpu;
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
