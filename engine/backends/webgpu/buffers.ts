import { MemoryStats } from '../../backend.ts';
import type { DType } from '../../dtype.ts';
import { OutOfMemoryError } from '../../errors.ts';
import type { Extent } from '../host.ts';

/* The package's declarations name these; where a project's libraries do not have WebGPU yet, they are empty there. */
declare global {
  interface GPU {}
  interface GPUBuffer {}
  interface GPUDevice {}
}

/** A pooled GPUBuffer, or a part of one. */
export class GpuBuffer implements Extent {
  /** What the tensor asked for. */
  size = 0;
  dtype: DType = 'f32';
  bytes = 0;
  /** Names what is bound, in the keys of cached bind groups. */
  readonly key: string;
  /** Of a part, the whole GPUBuffer; itself otherwise. */
  readonly whole: GpuBuffer;
  /** How many hold it: its parts that are in use, or one. */
  holders = 0;
  /** Those that a recording keeps to itself, this one among them. */
  own: OwnBuffers | null = null;
  /** The submit that the latest dispatch on it goes out with. */
  submit = 0;
  /** Whether poison lies behind `bytes`: not in a recording, whose replays write to it for several tensors in turn. */
  guarded = false;
  /** When it was last given back, by the pool's count. */
  idleSince = 0;
  /** How often it was handed out, which tells whether it is still the same tensor's. */
  takes = 0;
  /** Why what it should hold was not computed. */
  failure: Error | null = null;

  /**
   * @param id stable for the GPUBuffer's life, lower for those made earlier
   * @param capacity bytes that are its own
   * @param whole what it is a part of, from byte `offset` on
   */
  constructor(
    readonly id: number,
    readonly gpu: GPUBuffer,
    readonly capacity: number,
    whole?: GpuBuffer,
    readonly offset = 0,
  ) {
    this.whole = whole ?? this;
    this.key = whole ? `${id}:${offset}:${capacity}` : `${id}`;
  }
}

/** Idle buffers by capacity, each list in falling order of ids: the last is the next to be handed out. */
class IdleBuffers extends Map<number, GpuBuffer[]> {
  add(buffer: GpuBuffer): void {
    let same = this.get(buffer.capacity);
    if (!same) this.set(buffer.capacity, (same = []));
    let [from, to] = [0, same.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (same[middle].id > buffer.id) from = middle + 1;
      else to = middle;
    }
    same.splice(from, 0, buffer);
  }
}

/** Buffers that a recording keeps to itself until it is disposed of, so that a replay finds each where it was. */
export class OwnBuffers extends IdleBuffers {
  ended = false;
}

const MIB = 2 ** 20;
/** Where bindings may begin on every device, in bytes. */
const PART_ALIGNMENT = 256;
/** Idle bytes that are always worth holding. */
const MIN_IDLE = 32 * MIB;
/** Idle bytes for each byte live at the recent peak: a training step leaves about 1.3, which the next one takes. */
const IDLE_PER_PEAK = 2;
/** By how much the peak that allows idle bytes is forgotten from one submit to the next: half of it after 700. */
const FORGET = 1 / 1024;

/** Rounds up to few sizes, so that buffers meet again: four a power of two, eight from 1 MiB on; at least 256 bytes. */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const power = 2 ** Math.floor(Math.log2(bytes));
  const step = Math.max(256, power / (bytes < MIB ? 4 : 8));
  return Math.ceil(bytes / step) * step;
}

/**
 * Hands out buffers and takes them back for reuse. Reuse is safe at once: everything runs in the order of one queue.
 * Of the idle buffers the oldest goes first, so that a step that repeats gets the very same buffers in the same
 * places, and with them the same cached bind groups. What lies idle beyond twice the most that was live lately
 * is destroyed, the longest idle first; bind groups that name it are no longer asked for, as ids are not used again.
 */
export class BufferPool {
  readonly memory = new MemoryStats();
  private readonly idle = new IdleBuffers();
  private nextId = 1;
  private idleBytes = 0;
  private clock = 0;
  /** The most bytes live, old peaks forgotten little by little. */
  private recentPeak = 0;
  /** Whether a buffer is being made, and whether the system refused it. */
  private creating = false;
  private refused = false;

  /**
   * @param limit bytes of the largest buffer that can be bound
   * @param submit sends off what is enqueued and calls `trim`
   */
  constructor(
    private readonly device: { createBuffer(descriptor: { size: number; usage: number }): GPUBuffer },
    readonly limit: number,
    private readonly submit: () => void,
  ) {}

  /**
   * @param own those of the recording that it is for
   * @throws OutOfMemoryError for more than can be bound, or than the system gives
   */
  take(bytes: number, own: OwnBuffers | null = null): GpuBuffer {
    if (bytes > this.limit) {
      throw new OutOfMemoryError(
        `a tensor of ${bytes} bytes is larger than this GPU binds at once (${this.limit} bytes); ` +
          'lower the batch or the context, or use the wasm backend',
      );
    }
    const capacity = Math.min(sizeClass(bytes), this.limit);
    let buffer = own?.get(capacity)?.pop();
    if (!buffer) {
      buffer = this.idle.get(capacity)?.pop();
      if (buffer) this.idleBytes -= capacity;
      else buffer = this.create(capacity);
      buffer.bytes = own ? capacity : bytes;
      this.memory.allocated(buffer.bytes);
      this.recentPeak = Math.max(this.recentPeak, this.memory.live);
    }
    buffer.own = own;
    buffer.holders = 1;
    buffer.takes++;
    buffer.failure = null;
    return buffer;
  }

  /** Parts of one GPUBuffer, which goes back when the last of them does; null where one cannot be as large. */
  takeTogether(bytes: readonly number[]): readonly GpuBuffer[] | null {
    const sizes = bytes.map((size) => Math.ceil(Math.max(4, size) / PART_ALIGNMENT) * PART_ALIGNMENT);
    const sum = sizes.reduce((total, size) => total + size, 0);
    if (sum > this.limit) return null;
    const whole = this.take(sum);
    let end = 0;
    whole.holders = sizes.length;
    return sizes.map((size) => new GpuBuffer(whole.id, whole.gpu, size, whole, (end += size) - size));
  }

  give({ whole: buffer }: GpuBuffer): void {
    if (--buffer.holders > 0) return;
    if (buffer.own && !buffer.own.ended) return buffer.own.add(buffer);
    this.memory.freed(buffer.bytes);
    this.idleBytes += buffer.capacity;
    buffer.idleSince = this.clock++;
    this.idle.add(buffer);
  }

  /** Ends a recording: what it kept is for all, now or when it is given back. */
  release(own: OwnBuffers): void {
    own.ended = true;
    for (const same of own.values()) for (const buffer of same.splice(0)) this.give(buffer);
  }

  /**
   * Destroys what lies idle beyond the bound, and a quarter more, so that the next time is not soon. Only right after a
   * submit: no command that is still to be sent may name an idle buffer.
   */
  trim(): void {
    this.recentPeak = Math.max(this.memory.live, this.recentPeak * (1 - FORGET));
    if (this.idleBytes > this.bound) this.shrink(0.75 * this.bound);
  }

  /** Idle bytes that are held at most from one submit to the next. */
  private get bound(): number {
    return Math.max(MIN_IDLE, IDLE_PER_PEAK * this.recentPeak);
  }

  /** Destroys the longest idle buffers until at most `most` bytes are idle. As `trim`, only right after a submit. */
  private shrink(most: number): void {
    const oldest = [...this.idle.values()].flat().sort((a, b) => a.idleSince - b.idleSince);
    for (const buffer of oldest) {
      if (this.idleBytes <= most) break;
      const same = this.idle.get(buffer.capacity)!;
      same.splice(same.indexOf(buffer), 1);
      buffer.gpu.destroy();
      this.idleBytes -= buffer.capacity;
      this.memory.reserved -= buffer.capacity;
    }
  }

  /**
   * The device's error handler calls it when memory ran out. Dawn in Node does so within createBuffer, where `take`
   * can still free what is idle and try again; a browser says it later.
   * @returns what to fail with, unless `take` deals with it
   */
  outOfMemory(): OutOfMemoryError | null {
    this.refused = this.creating;
    return this.creating ? null : this.exhausted('what was asked for');
  }

  private exhausted(what: string): OutOfMemoryError {
    const { live, reserved } = this.memory;
    return new OutOfMemoryError(
      `the GPU has no room for ${what} with ${live} bytes in use and ${reserved} held; lower the batch or the ` +
        'context, checkpoint layers, or use the wasm backend',
    );
  }

  private create(capacity: number): GpuBuffer {
    if (this.idleBytes > this.bound) this.submit();
    let gpu = this.tryCreate(capacity);
    if (!gpu) {
      this.submit();
      this.shrink(0);
      gpu = this.tryCreate(capacity);
    }
    if (!gpu) throw this.exhausted(`${capacity} bytes`);
    this.memory.reserved += capacity;
    return new GpuBuffer(this.nextId++, gpu, capacity);
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
