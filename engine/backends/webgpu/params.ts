import { GPUBufferUsageFlags } from './buffers.ts';
import type { Scalar } from './launch.ts';

/** Bytes of one launch's params; the least uniform offset alignment that WebGPU guarantees. */
export const SLOT = 256;
const SETTERS = { u32: 'setUint32', i32: 'setInt32', f32: 'setFloat32' } as const;
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

  constructor(private readonly device: GPUDevice) {}

  put(types: readonly Scalar[], values: readonly number[]): ParamsPlace {
    const id = this.made++;
    const offset = SLOT * (id % SLOTS);
    const usage = GPUBufferUsageFlags.UNIFORM | GPUBufferUsageFlags.COPY_DST;
    if (offset === 0) this.buffer = this.device.createBuffer({ label: 'params', size: SLOT * SLOTS, usage });
    const data = new DataView(new ArrayBuffer(4 * types.length));
    types.forEach((type, i) => data[SETTERS[type]](4 * i, values[i], true));
    this.device.queue.writeBuffer(this.buffer!, offset, data.buffer);
    return { id, buffer: this.buffer!, offset };
  }
}
