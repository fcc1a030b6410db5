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
 * Params of planned launches. They follow from specs and attributes alone, so that they are uploaded once, when the
 * launch is planned, and lie there until the plan is forgotten. (Immediates would travel in each command anew, hold 64
 * bytes and are not in all browsers.)
 */
export class ParamsArena {
  private readonly free: ParamsPlace[] = [];
  private made = 0;
  private readonly staging = new ArrayBuffer(SLOT);
  private readonly words = {
    u32: new Uint32Array(this.staging),
    i32: new Int32Array(this.staging),
    f32: new Float32Array(this.staging),
  };

  constructor(private readonly device: GPUDevice) {}

  put(types: readonly Scalar[], values: readonly number[]): ParamsPlace {
    const place = this.free.pop() ?? this.grow();
    types.forEach((type, i) => (this.words[type][i] = values[i]));
    this.device.queue.writeBuffer(place.buffer, place.offset, this.staging, 0, 4 * types.length);
    return place;
  }

  /** Only right after a submit: no command that is still to be sent may read them. */
  drop(place: ParamsPlace): void {
    this.free.push(place);
  }

  private grow(): ParamsPlace {
    const usage = GPUBufferUsageFlags.UNIFORM | GPUBufferUsageFlags.COPY_DST;
    const buffer = this.device.createBuffer({ label: 'params', size: SLOT * SLOTS, usage });
    for (let i = SLOTS - 1; i >= 0; i--) this.free.push({ id: this.made++, buffer, offset: SLOT * i });
    return this.free.pop()!;
  }
}
