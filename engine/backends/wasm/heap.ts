import { ArgumentError, OutOfMemoryError } from '../../errors.ts';

const PAGE = 65536;
const ALIGN = 64;
/** Bins: one per 64 bytes up to 1 KiB, above it eight per power of two up to 4 GiB. */
const BINS = 16 + 22 * 8;

/** The bin for a block of `size` bytes, a multiple of 64 and at most 4 GiB: every block in a higher bin is larger. */
function binOf(size: number): number {
  const units = size / ALIGN;
  if (units <= 16) return units - 1;
  const octave = 31 - Math.clz32(units);
  return 16 + (octave - 4) * 8 + ((units << 3) >> octave) - 8;
}

/**
 * Allocator over a WebAssembly memory: blocks aligned to 64 bytes, free blocks in bins by size, merged with their free
 * neighbours when freed, so that changing shapes do not wear the memory out. Bookkeeping is in JavaScript: a kernel
 * that writes past its tensor cannot break it. Views are made per call, because growing detaches older ones.
 */
export class Heap {
  readonly memory: WebAssembly.Memory;
  /** The memory is grown up to here, in bytes. */
  readonly limit: number;
  #live = 0;
  #peak = 0;
  #end: number;
  #used = new Map<number, number>();
  #freeSize = new Map<number, number>();
  #freeStart = new Map<number, number>();
  #bins: Set<number>[] = Array.from({ length: BINS }, () => new Set<number>());

  /** `base`: first byte to hand out (the library's `heapBase`). `limit`: default 4 GiB. */
  constructor(memory: WebAssembly.Memory, base: number, limit = 65536 * PAGE) {
    this.memory = memory;
    this.limit = Math.min(limit, 65536 * PAGE);
    this.#end = Math.ceil(base / ALIGN) * ALIGN;
    this.#addFree(this.#end, Math.min(memory.buffer.byteLength, this.limit) - this.#end);
    this.#end = Math.max(this.#end, memory.buffer.byteLength);
  }

  /** Bytes in use now, as rounded up to 64. */
  get liveBytes(): number {
    return this.#live;
  }

  /** Most bytes ever in use at once, since the last `resetPeak`. */
  get peakBytes(): number {
    return this.#peak;
  }

  /** Blocks in use. */
  get liveBlocks(): number {
    return this.#used.size;
  }

  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** Room for `bytes`, not cleared, at a multiple of 64. Throws OutOfMemoryError naming need and limit. */
  alloc(bytes: number): number {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    let start = this.#find(size);
    if (start < 0) {
      this.#grow(size);
      start = this.#find(size);
    }
    const whole = this.#freeSize.get(start)!;
    this.#removeFree(start, whole);
    if (whole > size) this.#addFree(start + size, whole - size);
    this.#used.set(start, size);
    this.#live += size;
    this.#peak = Math.max(this.#peak, this.#live);
    return start;
  }

  /** Gives a block back. Throws ArgumentError for a pointer that is not in use. */
  free(pointer: number): void {
    let start = pointer;
    let size = this.#used.get(start);
    if (size === undefined) {
      throw new ArgumentError(`free: ${pointer} is not a block in use; it was freed before or never allocated`);
    }
    this.#used.delete(start);
    this.#live -= size;
    const before = this.#freeStart.get(start);
    if (before !== undefined) {
      this.#removeFree(before, start - before);
      size += start - before;
      start = before;
    }
    const after = this.#freeSize.get(start + size);
    if (after !== undefined) {
      this.#removeFree(start + size, after);
      size += after;
    }
    this.#addFree(start, size);
  }

  /** A view of `length` floats at `pointer`; valid until the next `alloc`. */
  f32(pointer: number, length: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.memory.buffer as ArrayBuffer, pointer, length);
  }

  /** A view of `length` integers at `pointer`; valid until the next `alloc`. */
  i32(pointer: number, length: number): Int32Array<ArrayBuffer> {
    return new Int32Array(this.memory.buffer as ArrayBuffer, pointer, length);
  }

  /** A view of `length` bytes at `pointer`; valid until the next `alloc`. */
  u8(pointer: number, length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.memory.buffer as ArrayBuffer, pointer, length);
  }

  #find(size: number): number {
    if (size > this.limit) return -1;
    const first = binOf(size);
    if (first >= BINS) return -1;
    for (const start of this.#bins[first]) {
      if (this.#freeSize.get(start)! >= size) return start;
    }
    for (let bin = first + 1; bin < BINS; bin++) {
      for (const start of this.#bins[bin]) return start;
    }
    return -1;
  }

  /** Grows so that a block of `size` fits at the end; an eighth more than needed where there is room. */
  #grow(size: number): void {
    const open = this.#freeStart.get(this.#end);
    const need = size - (open === undefined ? 0 : this.#end - open);
    const room = this.limit - this.#end;
    for (const extra of [Math.max(need, this.#end / 8), need]) {
      const pages = Math.ceil(Math.min(extra, room) / PAGE);
      if (need > room || !this.#tryGrow(pages)) continue;
      const end = Math.min(this.memory.buffer.byteLength, this.limit);
      const start = open ?? this.#end;
      if (open !== undefined) this.#removeFree(open, this.#end - open);
      this.#end = end;
      this.#addFree(start, end - start);
      return;
    }
    const mib = (n: number): string => `${(n / 2 ** 20).toFixed(1)} MiB`;
    throw new OutOfMemoryError(
      `wasm memory: ${mib(size)} needed with ${mib(this.#live)} in use, limit ${mib(this.limit)}; ` +
        'use a smaller batch or sequence, checkpoint layers, or another backend',
    );
  }

  #tryGrow(pages: number): boolean {
    try {
      this.memory.grow(pages);
      return true;
    } catch {
      return false; // a RangeError: past the memory's maximum, or the system refused
    }
  }

  #addFree(start: number, size: number): void {
    const usable = Math.floor(size / ALIGN) * ALIGN;
    if (usable <= 0) return;
    this.#freeSize.set(start, usable);
    this.#freeStart.set(start + usable, start);
    this.#bins[binOf(usable)].add(start);
  }

  #removeFree(start: number, size: number): void {
    this.#freeSize.delete(start);
    this.#freeStart.delete(start + size);
    this.#bins[binOf(size)].delete(start);
  }
}
