import type { Backend, MemoryStats, Recording } from '../../backend.ts';
import { byteLength, type DType, type HostArray } from '../../dtype.ts';
import { DeviceError, DeviceLostError, KernelError } from '../../errors.ts';
import type { AnyOp } from '../../op.ts';
import { type Call, writtenBy } from '../../plan.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { expectFits, expectReplayable, type Extent, hostArrayFor, POISON, type Poisoning } from '../host.ts';
import { BufferPool, type GpuBuffer, OwnBuffers } from './buffers.ts';
import { openDevice } from './device.ts';
import type { GpuCaps, PlannedLaunch, Shader } from './launch.ts';
import { ParamsArena } from './params.ts';
import { explain, Pipelines } from './pipelines.ts';
import { expectApart, planLaunches } from './planner.ts';
import { Staging } from './staging.ts';
import { type Command, CommandStream } from './stream.ts';
import type { Span } from './timestamps.ts';

/** An op's launches for operands of certain specs. */
interface GpuPlan extends Span {
  readonly op: AnyOp;
  readonly launches: readonly PlannedLaunch[];
  readonly shaders: ReadonlySet<Shader>;
  /** Bytes of each scratch buffer. */
  readonly scratch: readonly number[];
  /** What it writes to, among the call's buffers. */
  readonly writes: readonly number[];
}

export type WebGpuOptions = Poisoning;

/**
 * WGSL kernels on a GPUDevice: the same code under Dawn in Node and in browsers. Dispatches gather in one compute
 * pass and go out in one submit; bind groups are cached by the buffers they name; params are uploaded with the plan.
 */
export class WebGpuBackend implements Backend<GpuBuffer, GpuPlan> {
  readonly kind = 'webgpu';
  readonly pool: BufferPool;
  readonly memory: MemoryStats;

  private readonly pipelines: Pipelines;
  private readonly params: ParamsArena;
  private readonly staging: Staging;
  private readonly stream: CommandStream;
  /** The submit that the latest replay is in: which buffers it is on is not noted. */
  private replayed = 0;
  /** Why the device is of no more use. */
  private failure: Error | null = null;
  /** What else the device told of and no caller has heard. */
  private unheard: Error | null = null;
  /** Resolves when the device has judged all shaders so far. */
  private trials: Promise<unknown> = Promise.resolve();
  /** The recording that is being made. */
  private recording: { readonly own: OwnBuffers; readonly commands: Command[] } | null = null;

  private constructor(
    readonly device: GPUDevice,
    readonly description: string,
    readonly caps: GpuCaps,
    private readonly poison: boolean,
  ) {
    this.pipelines = new Pipelines(device);
    const limit = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    this.pool = new BufferPool(device, limit, () => this.flush());
    this.memory = this.pool.memory;
    this.params = new ParamsArena(device);
    this.staging = new Staging(device);
    this.stream = new CommandStream(device, this.staging, () => this.pool.trim());
    device.addEventListener?.('uncapturederror', (event) => {
      // What is dealt with here is not printed too: Dawn in Node would do so on stdout, among the results.
      event.preventDefault();
      // By name: the class is a global in browsers alone.
      if (event.error.constructor.name === 'GPUOutOfMemoryError') this.failure ??= this.pool.outOfMemory();
      else this.unheard ??= new KernelError(`the GPU refused what it was sent: ${event.error.message}`);
    });
    void device.lost.then((lost) => {
      if (lost.reason === 'destroyed' && this.failure) return;
      this.failure = new DeviceLostError(`the GPU device was lost (${lost.reason}): ${lost.message}`);
    });
  }

  /**
   * @param gpu `navigator.gpu` in a browser, Dawn's in Node
   * @throws DeviceError when there is no adapter
   */
  static async create(gpu: GPU | undefined, { poison = false }: WebGpuOptions = {}): Promise<WebGpuBackend> {
    const { device, description, caps } = await openDevice(gpu);
    return new WebGpuBackend(device, description, caps, poison);
  }

  /**
   * Collects GPU timestamps; they reach it when `sync`, or `data` of a tensor, has waited for the GPU.
   * @throws DeviceError when set on a device without the feature timestamp-query
   */
  get profiler(): Profiler | null {
    return this.stream.profiler;
  }

  set profiler(profiler: Profiler | null) {
    if (profiler && !this.device.features.has('timestamp-query')) {
      throw new DeviceError(
        `profiling needs the WebGPU feature timestamp-query, which ${this.description} does not have; ` +
          'time whole steps, or profile on the wasm backend',
      );
    }
    this.stream.profile(profiler);
  }

  alloc(size: number, dtype: DType): GpuBuffer {
    this.check();
    return this.claim(this.take(byteLength(dtype, size)), { size, dtype });
  }

  allocTogether(parts: readonly Extent[]): GpuBuffer[] | null {
    this.check();
    if (parts.length < 2 || this.recording) return null;
    const buffers = this.pool.takeTogether(parts.map(({ size, dtype }) => byteLength(dtype, size)));
    return buffers && buffers.map((buffer, i) => this.claim(buffer, parts[i]));
  }

  free(buffer: GpuBuffer): void {
    this.pool.give(buffer);
  }

  private take(bytes: number): GpuBuffer {
    return this.pool.take(bytes, this.recording?.own);
  }

  private claim(buffer: GpuBuffer, { size, dtype }: Extent): GpuBuffer {
    buffer.size = size;
    buffer.dtype = dtype;
    if (this.poison) this.send(buffer, 0, new Uint32Array(buffer.capacity / 4).fill(POISON));
    buffer.guarded = this.poison && !this.recording;
    return buffer;
  }

  /** Writes to a buffer, from so many bytes on, after all that was enqueued on it. */
  private send(buffer: GpuBuffer, start: number, data: ArrayBufferView): void {
    // What is written is there before the dispatches that are still gathered: only those on the buffer need go first.
    if (buffer.whole.submit === this.stream.submits || this.replayed === this.stream.submits) this.flush();
    const { gpu, offset } = buffer;
    this.device.queue.writeBuffer(gpu, offset + start, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  }

  write(buffers: readonly GpuBuffer[], data: readonly HostArray[], start?: number): void {
    this.check();
    expectReplayable('a tensor is uploaded', this.recording !== null);
    buffers.forEach((buffer, i) => expectFits(buffer, data[i], start));
    const words = data.map(sendable);
    const ends = buffers.map(({ offset, capacity }) => offset + capacity);
    const follows = ({ whole, offset }: GpuBuffer, i: number) => whole === buffers[0].whole && offset === ends[i];
    if (start !== undefined || buffers.length < 2 || !buffers.slice(1).every(follows)) {
      return buffers.forEach((buffer, i) => this.send(buffer, (start ?? 0) * words[i].BYTES_PER_ELEMENT, words[i]));
    }
    const begin = buffers[0].offset;
    const bytes = new Uint8Array(ends.at(-1)! - begin);
    if (this.poison) new Uint32Array(bytes.buffer).fill(POISON);
    words.forEach(({ buffer, byteOffset, byteLength }, i) =>
      bytes.set(new Uint8Array(buffer, byteOffset, byteLength), buffers[i].offset - begin),
    );
    this.send(buffers[0], 0, bytes);
  }

  async read(buffer: GpuBuffer): Promise<HostArray> {
    this.check();
    expectReplayable('a tensor is read back', this.recording !== null);
    const { size, dtype, guarded } = buffer;
    if (buffer.failure) throw buffer.failure;
    const result = hostArrayFor(dtype, size);
    if (size === 0) return result;
    const bytes = guarded ? buffer.capacity : Math.ceil(result.byteLength / 4) * 4;
    const copy = this.staging.take(bytes);
    let overrun = false;
    this.stream.copy(buffer.gpu, buffer.offset, copy, bytes);
    this.flush();
    try {
      await copy.mapAsync(0x1, 0, bytes);
      const view = new Uint8Array(copy.getMappedRange(0, bytes));
      new Uint8Array(result.buffer).set(view.subarray(0, result.byteLength));
      // Kernels may write four words where fewer are left.
      const behind = new Uint32Array(view.slice(Math.ceil(result.byteLength / 16) * 16).buffer);
      overrun = guarded && behind.some((word) => word !== POISON);
    } catch (error) {
      await this.hear();
      throw new KernelError(`reading from the GPU failed: ${(error as Error).message}`);
    } finally {
      this.staging.give(copy);
    }
    await this.stream.collectTimes();
    await this.hear();
    if (overrun) throw new KernelError(`a kernel wrote past the end of a buffer of ${size} ${dtype}`);
    return result;
  }

  plan(call: Call): GpuPlan {
    this.check();
    const { launches, scratch } = planLaunches(call, this.caps);
    return {
      op: call.op,
      name: call.op.name,
      bytes: bytesMoved([...call.inputs, ...call.outputs]),
      launches: launches.map(({ shader, args, params, grid }) => ({
        shader,
        slots: args.map(({ slot }) => slot),
        params: params?.length ? this.params.put(shader.paramTypes, params) : null,
        grid,
      })),
      shaders: new Set(launches.map(({ shader }) => shader)),
      scratch,
      writes: writtenBy(call),
    };
  }

  record(): () => Recording {
    const { own, commands } = (this.recording = { own: new OwnBuffers(), commands: [] as Command[] });
    return () => {
      this.recording = null;
      return { replay: () => this.replay(commands), dispose: () => this.pool.release(own) };
    };
  }

  /**
   * @throws KernelError naming the op where the device has refused its shader, or that of an input which for that
   * reason was not computed. What the device says later, the next `read` or `sync` throws, once.
   */
  dispatch(plan: GpuPlan, operands: readonly (GpuBuffer | undefined)[]): void {
    this.check();
    const buffers = [...operands];
    try {
      for (const bytes of plan.scratch) buffers.push(this.take(bytes));
      for (const operand of operands) if (operand?.failure) throw operand.failure;
      if (plan.op.mutates.length > 0) {
        for (const { shader, slots } of plan.launches) {
          expectApart(plan.name, shader, slots.map((i) => buffers[i]!.whole));
        }
      }
      let passed = true;
      for (const shader of plan.shaders) passed = this.pipelines.passed(shader) && passed;
      if (passed) this.launchAll(plan, buffers);
      else this.tryOut(plan, buffers);
    } finally {
      for (let i = operands.length; i < buffers.length; i++) this.free(buffers[i]!);
    }
  }

  async sync(): Promise<void> {
    this.flush();
    await this.device.queue.onSubmittedWorkDone();
    await this.stream.collectTimes();
    await this.hear();
  }

  private replay(commands: readonly Command[]): void {
    this.check();
    for (let i = 0; i < commands.length; i++) this.stream.dispatch(commands[i]);
    this.replayed = this.stream.submits;
  }

  /** Sends what was enqueued to the GPU. */
  flush(): void {
    this.stream.flush();
  }

  dispose(): void {
    this.failure ??= new DeviceLostError('this backend was disposed');
    this.device.destroy();
  }

  private launchAll(plan: GpuPlan, buffers: readonly (GpuBuffer | undefined)[]): void {
    let op: Span | null = plan;
    for (const launch of plan.launches) {
      const compiled = this.pipelines.compiled(launch.shader);
      const group = this.pipelines.bindGroup(compiled, launch, buffers);
      const command = { pipeline: compiled.pipeline, group, grid: launch.grid, op };
      this.stream.dispatch(command);
      for (const slot of launch.slots) buffers[slot]!.whole.submit = this.stream.submits;
      this.recording?.commands.push(command);
      op = null;
    }
  }

  /**
   * Launches an op whose shaders the device has not yet judged, in a submit of its own: an error takes a whole submit
   * along. When there is one, what the op should have written is marked as not computed.
   */
  private tryOut(plan: GpuPlan, buffers: readonly (GpuBuffer | undefined)[]): void {
    const written = plan.writes.map((i) => buffers[i]!);
    const takes = written.map((buffer) => buffer.takes);
    const judge = (error: GPUError | null) => {
      // Those that the error does not name, which further ops may share, are left to be judged without it.
      const judged = [...plan.shaders].filter(({ key }) => !error || error.message.includes(`"${key}"`));
      const refused =
        error && new KernelError(`${plan.name}: the GPU refused its kernel: ${explain(error.message, judged)}`);
      for (const shader of judged) this.pipelines.compiled(shader).verdict ??= refused ?? 'good';
      if (!refused) return;
      for (const [i, buffer] of written.entries()) if (buffer.takes === takes[i]) buffer.failure = refused;
      this.unheard ??= refused;
    };
    this.flush();
    this.device.pushErrorScope('validation');
    try {
      this.launchAll(plan, buffers);
      this.flush();
    } finally {
      // It rejects where the device is lost, which is told elsewhere.
      const trial = this.device.popErrorScope().then(judge).catch(() => {});
      this.trials = this.trials.then(() => trial);
    }
  }

  /** Waits for what the device has still to say, and throws what it said, once. */
  private async hear(): Promise<void> {
    await this.trials;
    this.check();
    const error = this.unheard;
    this.unheard = null;
    if (error) throw error;
  }

  private check(): void {
    if (this.failure) throw this.failure;
  }
}

/** Host data as whole words. */
function sendable(data: HostArray): Exclude<HostArray, Float64Array> {
  if (data instanceof Float64Array) return Float32Array.from(data);
  if (data.byteLength % 4 === 0) return data;
  const padded = new Uint16Array(data.length + 1);
  padded.set(data);
  return padded;
}
