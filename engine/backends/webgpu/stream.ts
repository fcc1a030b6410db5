import type { Profiler } from '../../profiler.ts';
import type { Staging } from './staging.ts';
import { type Span, Timestamps } from './timestamps.ts';

/** A submit goes out with the op that follows so many dispatches. */
const MOST_DISPATCHES = 1024;

/** A dispatch with all that it needs. */
export interface Command {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly grid: readonly [number, number, number];
  /** Of an op's first, what a profiler calls the op; null for those that follow it. */
  readonly op: Span | null;
}

/** Dispatches on their way to the GPU: they gather in one pass and go out in one submit. */
export class CommandStream {
  /** The number of the submit that is being gathered. */
  submits = 1;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  /** The pipeline that the open pass has set. */
  private pipeline: GPUComputePipeline | null = null;
  /** Dispatches in the encoder. */
  private used = 0;
  private timestamps: Timestamps | null = null;
  profiler: Profiler | null = null;

  /** @param submitted called after each submit, when no command that is still to be sent names any buffer */
  constructor(
    private readonly device: GPUDevice,
    private readonly staging: Staging,
    private readonly submitted: () => void,
  ) {}

  /** While there is a profiler, each op is a pass with a timestamp at either end. */
  profile(profiler: Profiler | null): void {
    this.endPass();
    if (profiler) this.timestamps ??= new Timestamps(this.device, this.staging, MOST_DISPATCHES);
    this.profiler = profiler;
  }

  /** No more than the calls that WebGPU asks for: a replay is a loop of it. */
  dispatch({ pipeline, group, grid, op }: Command): void {
    if (op) {
      if (this.used >= MOST_DISPATCHES) this.flush();
      if (this.profiler) this.beginPass({ timestampWrites: this.timestamps!.next(op) });
    }
    const pass = this.pass ?? this.beginPass();
    if (pipeline !== this.pipeline) pass.setPipeline((this.pipeline = pipeline));
    pass.setBindGroup(0, group);
    // Each argument takes time to hand over.
    if (grid[1] * grid[2] === 1) pass.dispatchWorkgroups(grid[0]);
    else pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    this.used++;
  }

  /** Copies the first bytes of what lies from `offset` on, after all that was dispatched. */
  copy(from: GPUBuffer, offset: number, to: GPUBuffer, bytes: number): void {
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    this.encoder.copyBufferToBuffer(from, offset, to, 0, bytes);
  }

  /** Sends what was gathered to the GPU. */
  flush(): void {
    this.endPass();
    if (!this.encoder) return;
    this.timestamps?.resolve(this.encoder);
    this.device.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.used = 0;
    this.submits++;
    this.submitted();
  }

  /** Gives the profiler the times of what was sent, once the GPU has done it. */
  async collectTimes(): Promise<void> {
    if (this.profiler) await this.timestamps?.collect(this.profiler);
  }

  private beginPass(descriptor?: GPUComputePassDescriptor): GPUComputePassEncoder {
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    return (this.pass = this.encoder.beginComputePass(descriptor));
  }

  private endPass(): void {
    this.pass?.end();
    this.pass = null;
    this.pipeline = null;
  }
}
