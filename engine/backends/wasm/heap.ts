import { ArgumentError, OutOfMemoryError } from '../../errors.ts';

const PAGE = 65536;
const ALIGN = 64;
/** All that a memory can hold, in bytes. */
const MOST = 65536 * PAGE;
/** Bins: one per 64 bytes up to 1 KiB, above it eight per power of two up to 4 GiB, and that. */
const BINS = 16 + 22 * 8 + 1;

/** The bin for a block of `size` bytes, a multiple of 64 and at most 4 GiB: every block in a higher bin is larger. */
function binOf(size: number): number {
  const units = size / ALIGN;
  if (units <= 16) return units - 1;
  const octave = 31 - Math.clz32(units);
  return 16 + (octave - 4) * 8 + ((units << 3) >> octave) - 8;
}

/** Free blocks in bins by size, each merged with its free neighbours. */
export class FreeBlocks {
  /** What is freed to them is for all. */
  released = false;
  readonly #size = new Map<number, number>();
  readonly #start = new Map<number, number>();
  /** The oldest first. Arrays, because sets that are changed often are slow to look into. */
  readonly #bins: number[][] = Array.from({ length: BINS }, () => []);
  /** A bit for each bin: whether it holds a block. */
  readonly #filled = new Int32Array(Math.ceil(BINS / 32));

  /** Where a block of at least `size` bytes, a multiple of 64, begins; −1 where there is none. */
  find(size: number): number {
    if (size > MOST) return -1;
    const own = binOf(size);
    for (let bin = this.#filledFrom(own); bin < BINS; bin = this.#filledFrom(bin + 1)) {
      for (const start of this.#bins[bin]) if (bin > own || this.#size.get(start)! >= size) return start;
    }
    return -1;
  }

  /** Adds a block, as one with those that it touches. */
  add(start: number, bytes: number): void {
    let size = Math.floor(bytes / ALIGN) * ALIGN;
    if (size <= 0) return;
    const before = this.#start.get(start);
    if (before !== undefined) {
      size += this.remove(before);
      start = before;
    }
    if (this.#size.has(start + size)) size += this.remove(start + size);
    this.#size.set(start, size);
    this.#start.set(start + size, start);
    const bin = binOf(size);
    this.#bins[bin].push(start);
    this.#filled[bin >> 5] |= 1 << bin;
  }

  /** Takes the block that begins there out. @returns its size */
  remove(start: number): number {
    const size = this.#size.get(start)!;
    this.#size.delete(start);
    this.#start.delete(start + size);
    const bin = binOf(size);
    this.#bins[bin].splice(this.#bins[bin].indexOf(start), 1);
    if (this.#bins[bin].length === 0) this.#filled[bin >> 5] &= ~(1 << bin);
    return size;
  }

  /** Bytes of the block that ends there; 0 where none does. */
  endingAt(end: number): number {
    const start = this.#start.get(end);
    return start === undefined ? 0 : end - start;
  }

  /** Start and size of all of them. */
  [Symbol.iterator](): Iterator<[start: number, size: number]> {
    return this.#size.entries();
  }

  /** The first bin from `bin` on that holds a block; BINS where none does. */
  #filledFrom(bin: number): number {
    for (let word = bin >> 5; word < this.#filled.length; word++) {
      const filled = this.#filled[word] & (word === bin >> 5 ? -1 << bin : -1);
      if (filled !== 0) return 32 * word + 31 - Math.clz32(filled & -filled);
    }
    return BINS;
  }
}

/**
 * Allocator over a WebAssembly memory: blocks aligned to 64 bytes, freed ones merged, so that changing shapes do not
 * wear the memory out. Its books are in JavaScript: no kernel can break them. Growing detaches views of the memory.
 */
export class Heap {
  /** The memory is grown up to here, in bytes. */
  readonly limit: number;
  /** Bytes in use now, as rounded up to 64. */
  liveBytes = 0;
  #end: number;
  readonly #used = new Map<number, number>();
  readonly #free = new FreeBlocks();

  /** `base`: first byte to hand out (the library's `heapBase`). `limit`: default 4 GiB. */
  constructor(readonly memory: WebAssembly.Memory, base: number, limit = MOST) {
    this.limit = Math.min(limit, MOST);
    this.#end = Math.ceil(base / ALIGN) * ALIGN;
    this.#free.add(this.#end, Math.min(memory.buffer.byteLength, this.limit) - this.#end);
    this.#end = Math.max(this.#end, memory.buffer.byteLength);
  }

  /**
   * Room for `bytes`, not cleared, at a multiple of 64.
   * @param own blocks to take it from before others
   * @throws OutOfMemoryError naming need and limit
   */
  alloc(bytes: number, own?: FreeBlocks): number {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    let from = own ?? this.#free;
    let start = from.find(size);
    if (start < 0) start = (from = this.#free).find(size);
    if (start < 0) {
      this.#grow(size);
      start = from.find(size);
    }
    const whole = from.remove(start);
    from.add(start + size, whole - size);
    this.#used.set(start, size);
    this.liveBytes += size;
    return start;
  }

  /**
   * Gives a block back.
   * @param own blocks to put it among, in place of those that are for all
   * @throws ArgumentError for a pointer that is not in use
   */
  free(pointer: number, own = this.#free): void {
    const size = this.#used.get(pointer);
    if (size === undefined) {
      throw new ArgumentError(`free: ${pointer} is not a block in use; it was freed before or never allocated`);
    }
    this.#used.delete(pointer);
    this.liveBytes -= size;
    (own.released ? this.#free : own).add(pointer, size);
  }

  /** Makes blocks that were put aside free for all, those that are still in use when they are freed. */
  release(own: FreeBlocks): void {
    if (!own.released) for (const [start, size] of own) this.#free.add(start, size);
    own.released = true;
  }

  /** Grows so that a block of `size` fits at the end; an eighth more than needed where there is room. */
  #grow(size: number): void {
    const need = size - this.#free.endingAt(this.#end);
    const room = this.limit - this.#end;
    for (const extra of [Math.max(need, this.#end / 8), need]) {
      if (need > room) break;
      try {
        this.memory.grow(Math.ceil(Math.min(extra, room) / PAGE));
      } catch {
        continue; // a RangeError: past the memory's maximum, or the system refused
      }
      const end = Math.min(this.memory.buffer.byteLength, this.limit);
      this.#free.add(this.#end, end - this.#end);
      this.#end = end;
      return;
    }
    const mib = (n: number): string => `${(n / 2 ** 20).toFixed(1)} MiB`;
    throw new OutOfMemoryError(
      `wasm memory: ${mib(size)} needed with ${mib(this.liveBytes)} in use, limit ${mib(this.limit)}; ` +
        'use a smaller batch or sequence, checkpoint layers, or another backend',
    );
  }
}
