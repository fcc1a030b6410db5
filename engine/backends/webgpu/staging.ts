import { GPUBufferUsageFlags } from './buffers.ts';

/** Bytes of a buffer that is used again. */
const SMALL = 4096;
/** Of them, how many are kept. */
const KEPT = 8;

/** Buffers that results are copied to and mapped from. Small ones are kept: making one costs more than the copy. */
export class Staging {
  private readonly idle: GPUBuffer[] = [];

  constructor(private readonly device: GPUDevice) {}

  take(bytes: number): GPUBuffer {
    const kept = bytes <= SMALL ? this.idle.pop() : undefined;
    if (kept) return kept;
    const usage = GPUBufferUsageFlags.MAP_READ | GPUBufferUsageFlags.COPY_DST;
    return this.device.createBuffer({ label: 'staging', size: Math.max(bytes, SMALL), usage });
  }

  give(buffer: GPUBuffer): void {
    if (buffer.mapState !== 'mapped' || buffer.size > SMALL || this.idle.length >= KEPT) return buffer.destroy();
    buffer.unmap();
    this.idle.push(buffer);
  }
}
