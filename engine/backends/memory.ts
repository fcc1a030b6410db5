import type { MemoryStats } from '../backend.ts';

/** Counts live bytes, their peak and the number of buffers. */
export class MemoryCounter implements MemoryStats {
  live = 0;
  peak = 0;
  buffers = 0;
  reserved = 0;

  allocated(bytes: number): void {
    this.live += bytes;
    this.buffers++;
    if (this.live > this.peak) this.peak = this.live;
  }

  freed(bytes: number): void {
    this.live -= bytes;
    this.buffers--;
  }
}
