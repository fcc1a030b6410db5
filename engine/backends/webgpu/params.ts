import { GPUBufferUsageFlags } from './buffers.ts';
import type { Scalar } from './launch.ts';

/** Bytes of one launch's params; the least uniform offset alignment that WebGPU guarantees. */
export const SLOT = 256;
/** Launches whose params share a buffer. */
const SLOTS = 1024;

/** Where the params of a launch lie. */
export interface ParamsPlace {
  /** Tells places apart. */
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

/**
 * Params of planned launches. They follow from specs and attributes alone: they are uploaded once, when the launch is
 * planned, to a buffer that goes with the last plan and bind group that have it. (Immediates would travel in each
 * command anew, hold 64 bytes and are not in all browsers.)
 */
export class ParamsArena {
  private buffer: GPUBuffer | null = null;
  private made = 0;
  private readonly staging = new ArrayBuffer(SLOT);
  private readonly words = {
    u32: new Uint32Array(this.staging),
    i32: new Int32Array(this.staging),
    f32: new Float32Array(this.staging),
  };

  constructor(private readonly device: GPUDevice) {}

  put(types: readonly Scalar[], values: readonly number[]): ParamsPlace {
    const id = this.made++;
    const offset = SLOT * (id % SLOTS);
    const usage = GPUBufferUsageFlags.UNIFORM | GPUBufferUsageFlags.COPY_DST;
    if (offset === 0) this.buffer = this.device.createBuffer({ label: 'params', size: SLOT * SLOTS, usage });
    types.forEach((type, i) => (this.words[type][i] = values[i]));
    this.device.queue.writeBuffer(this.buffer!, offset, this.staging, 0, 4 * types.length);
    return { id, buffer: this.buffer!, offset };
  }
}
