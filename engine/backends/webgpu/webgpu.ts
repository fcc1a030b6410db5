import type { Backend, Call } from '../../backend.ts';
import { bytesOf, type DType, type HostArray } from '../../dtype.ts';
import { DeviceError, DeviceLostError, KernelError, OutOfMemoryError } from '../../errors.ts';
import type { Op } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { expectAll, expectSame, hostArrayFor, POISON } from '../host.ts';
import { BufferPool, type GpuBuffer, GPUBufferUsageFlags } from './buffers.ts';
import { type GpuArg, type GpuCaps, type Launch, MAX_GRID, type Shader } from './launch.ts';
import { type Compiled, explain, names, Pipelines } from './pipelines.ts';
import { Timestamps } from './timestamps.ts';

/** Bytes of one dispatch's params; the least uniform offset alignment WebGPU guarantees. */
const PARAM_SLOT = 256;
/** Dispatches in one submit at most. */
const SLOTS = 1024;

export interface WebGpuOptions {
  /** Fill new buffers with NaN: shows kernels that read what nobody wrote. For tests. */
  readonly poison?: boolean;
}

/**
 * WGSL kernels on a GPUDevice: the same code under Dawn in Node and in browsers. Dispatches gather in one compute
 * pass and go out in one submit; bind groups are cached by the buffers they name; params travel in one buffer written
 * once per submit.
 */
export class WebGpuBackend implements Backend<GpuBuffer> {
  readonly kind = 'webgpu';
  readonly description: string;
  readonly caps: GpuCaps;
  readonly pool: BufferPool;

  private readonly pipelines: Pipelines;
  private readonly params: GPUBuffer;
  /** One bind group a slot, made on first use: cheaper to set than one with a dynamic offset. */
  private readonly paramGroups: GPUBindGroup[] = [];
  private readonly staging = new ArrayBuffer(PARAM_SLOT * SLOTS);
  private readonly stagingU32 = new Uint32Array(this.staging);
  private readonly stagingI32 = new Int32Array(this.staging);
  private readonly stagingF32 = new Float32Array(this.staging);
  private used = 0;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  /** The pipeline that the open pass has set. */
  private current: Compiled | null = null;
  /** Why the device is of no more use. */
  private failure: Error | null = null;
  /** What else the device told of and no caller has heard. */
  private unheard: Error | null = null;
  /** Ops whose shaders the device has still to judge. */
  private readonly trials = new Set<Promise<void>>();
  private timestamps: Timestamps | null = null;
  private profiling: Profiler | null = null;
  private readonly scratchInUse: GpuBuffer[] = [];
  private readonly poison: boolean;

  private constructor(
    readonly device: GPUDevice,
    adapter: GPUAdapter,
    options: WebGpuOptions,
  ) {
    const info = adapter.info;
    this.description = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(' ');
    this.caps = readCaps(device, this.description);
    this.poison = options.poison ?? false;
    this.pipelines = new Pipelines(device);
    const limit = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    this.pool = new BufferPool(device, limit, () => {
      this.flush();
      this.pipelines.forget(this.pool.shrink(0));
    });
    this.params = device.createBuffer({
      size: PARAM_SLOT * SLOTS,
      usage: GPUBufferUsageFlags.UNIFORM | GPUBufferUsageFlags.COPY_DST,
    });
    device.addEventListener?.('uncapturederror', (event) => {
      // What is dealt with here is not printed too: Dawn in Node would do so on stdout, among the results.
      event.preventDefault();
      if (isOutOfMemory(event.error) && this.pool.outOfMemory()) return;
      if (isOutOfMemory(event.error)) this.failure ??= this.outOfMemory();
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
  static async create(gpu: GPU | undefined, options: WebGpuOptions = {}): Promise<WebGpuBackend> {
    const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) {
      throw new DeviceError('no WebGPU adapter was found; install a Vulkan driver or use --backend wasm');
    }
    const wanted = ['shader-f16', 'subgroups', 'timestamp-query'] as GPUFeatureName[];
    const l = adapter.limits;
    const device = await adapter.requestDevice({
      requiredFeatures: wanted.filter((f) => adapter.features.has(f)),
      requiredLimits: {
        maxBufferSize: l.maxBufferSize,
        maxStorageBufferBindingSize: l.maxStorageBufferBindingSize,
        maxStorageBuffersPerShaderStage: l.maxStorageBuffersPerShaderStage,
        maxComputeWorkgroupStorageSize: l.maxComputeWorkgroupStorageSize,
        maxComputeInvocationsPerWorkgroup: l.maxComputeInvocationsPerWorkgroup,
        maxComputeWorkgroupSizeX: l.maxComputeWorkgroupSizeX,
      },
    });
    return new WebGpuBackend(device, adapter, options);
  }

  /**
   * Collects GPU timestamps; they reach it when `sync`, or `data` of a tensor, has waited for the GPU.
   * @throws DeviceError when set on a device without the feature timestamp-query
   */
  get profiler(): Profiler | null {
    return this.profiling;
  }

  set profiler(profiler: Profiler | null) {
    if (profiler && !this.device.features.has('timestamp-query')) {
      throw new DeviceError(
        `profiling needs the WebGPU feature timestamp-query, which ${this.description} does not have; ` +
          'time whole steps, or profile on the wasm backend',
      );
    }
    this.profiling = profiler;
  }

  get memory() {
    return this.pool.memory;
  }

  alloc(size: number, dtype: DType): GpuBuffer {
    this.check();
    const buffer = this.pool.take(Math.max(4, size * bytesOf(dtype)));
    buffer.size = size;
    buffer.dtype = dtype;
    if (this.poison) {
      this.flush();
      this.device.queue.writeBuffer(buffer.gpu, 0, new Uint32Array(buffer.capacity / 4).fill(POISON));
    }
    return buffer;
  }

  free(buffer: GpuBuffer): void {
    this.pool.give(buffer);
  }

  write(buffer: GpuBuffer, data: HostArray): void {
    this.check();
    expectAll(buffer, data);
    this.flush();
    let bytes: HostArray = data instanceof Float64Array ? Float32Array.from(data) : data;
    if (bytes.byteLength % 4 !== 0) {
      const padded = new Uint16Array(bytes.length + 1);
      padded.set(bytes);
      bytes = padded;
    }
    this.device.queue.writeBuffer(buffer.gpu, 0, bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
  }

  async read(buffer: GpuBuffer, size: number, dtype: DType): Promise<HostArray> {
    this.check();
    expectSame('read', buffer, { size, dtype });
    if (buffer.failure) throw buffer.failure;
    const bytes = Math.ceil((size * bytesOf(dtype)) / 4) * 4;
    const result = hostArrayFor(dtype, size);
    if (size === 0) return result;
    const copy = this.device.createBuffer({
      size: bytes,
      usage: GPUBufferUsageFlags.MAP_READ | GPUBufferUsageFlags.COPY_DST,
    });
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    this.encoder.copyBufferToBuffer(buffer.gpu, 0, copy, 0, bytes);
    this.flush();
    try {
      await copy.mapAsync(0x1, 0, bytes);
      const view = new Uint8Array(copy.getMappedRange(0, bytes));
      new Uint8Array(result.buffer).set(view.subarray(0, result.byteLength));
    } catch (error) {
      await this.hear();
      throw new KernelError(`reading from the GPU failed: ${(error as Error).message}`);
    } finally {
      copy.destroy();
    }
    await this.collectTimes();
    await this.hear();
    return result;
  }

  copy(from: GpuBuffer, to: GpuBuffer): void {
    this.check();
    expectSame('copy', from, to);
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    this.encoder.copyBufferToBuffer(from.gpu, 0, to.gpu, 0, Math.ceil(from.bytes / 4) * 4);
  }

  /**
   * @throws KernelError naming the op where it cannot be launched or the device has refused its shader, or that of an
   * input which for that reason was not computed. What the device says later, the next `read` or `sync` throws, once.
   */
  run<A>(op: Op<A>, call: Call<A, GpuBuffer>): void {
    this.check();
    const { caps, scratch } = this;
    try {
      const { inputs, outputs, attrs } = call;
      for (const { buffer } of inputs) if (buffer.failure) throw buffer.failure;
      const launches = op.webgpu({ inputs, outputs, attrs, caps, scratch });
      for (const launch of launches) expectLaunchable(op.name, launch);
      if (launches.every(({ shader }) => this.pipelines.passed(shader))) this.launch(op, call, launches);
      else this.tryOut(op, call, launches);
    } finally {
      while (this.scratchInUse.length > 0) this.pool.give(this.scratchInUse.pop()!);
    }
  }

  async sync(): Promise<void> {
    this.flush();
    await this.device.queue.onSubmittedWorkDone();
    await this.collectTimes();
    await this.hear();
  }

  /** Sends what was enqueued to the GPU. */
  flush(): void {
    this.endPass();
    if (!this.encoder) return;
    if (this.used > 0) this.device.queue.writeBuffer(this.params, 0, this.staging, 0, this.used * PARAM_SLOT);
    this.timestamps?.resolve(this.encoder);
    this.device.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.used = 0;
    const destroyed = this.pool.trim();
    if (destroyed) this.pipelines.forget(destroyed);
  }

  dispose(): void {
    this.failure ??= new DeviceLostError('this backend was disposed');
    this.device.destroy();
  }

  private readonly scratch = (shape: readonly number[], dtype: DType = 'f32'): GpuArg => {
    let size = 1;
    for (const d of shape) size *= d;
    const buffer = this.pool.take(Math.max(4, size * bytesOf(dtype)));
    this.scratchInUse.push(buffer);
    return { shape, dtype, size, buffer };
  };

  private launch<A>(op: Op<A>, call: Call<A, GpuBuffer>, launches: readonly Launch[]): void {
    if (this.profiling) {
      this.timestamps ??= new Timestamps(this.device);
      this.timed(this.timestamps, op.name, launches, bytesMoved(call));
    } else {
      for (const launch of launches) this.dispatch(launch);
    }
  }

  /**
   * Launches an op whose shaders the device has not yet judged, in a submit of its own: an error takes a whole submit
   * along. When there is one, what the op should have written is marked as not computed.
   */
  private tryOut<A>(op: Op<A>, call: Call<A, GpuBuffer>, launches: readonly Launch[]): void {
    const { inputs, outputs } = call;
    const written = [...outputs, ...(op.mutates ?? []).map((i) => inputs[i])].map(({ buffer }) => buffer);
    const takes = written.map((buffer) => buffer.takes);
    const shaders = new Set(launches.map(({ shader }) => shader));
    const judge = (error: GPUError | null) => {
      if (!error) return this.pipelines.judge(shaders, 'good');
      const named = [...shaders].filter((shader) => names(error.message, shader));
      const refused = new KernelError(`${op.name}: the GPU refused its kernel: ${explain(error.message, named)}`);
      // The others, which further ops may share, are left to be judged without it.
      this.pipelines.judge(named, refused);
      for (const [i, buffer] of written.entries()) if (buffer.takes === takes[i]) buffer.failure = refused;
      this.unheard ??= refused;
    };
    this.flush();
    this.device.pushErrorScope('validation');
    try {
      this.launch(op, call, launches);
      this.flush();
    } finally {
      // It rejects where the device is lost, which is told elsewhere.
      const trial = this.device.popErrorScope().then(judge, () => {}).finally(() => this.trials.delete(trial));
      this.trials.add(trial);
    }
  }

  /** Waits for what the device has still to say, and throws what it said, once. */
  private async hear(): Promise<void> {
    await Promise.all(this.trials);
    this.check();
    const error = this.unheard;
    this.unheard = null;
    if (error) throw error;
  }

  private dispatch(launch: Launch, into: GPUComputePassEncoder = this.computePass()): void {
    const compiled = this.pipelines.compiled(launch.shader);
    if (compiled !== this.current) into.setPipeline(compiled.pipeline);
    this.current = compiled;
    into.setBindGroup(0, this.pipelines.bindGroup(compiled, launch.args));
    if (compiled.hasParams) {
      const slot = this.used++;
      this.stage(slot, launch.shader, launch.params!);
      this.paramGroups[slot] ??= this.pipelines.paramGroup(this.params, slot * PARAM_SLOT, PARAM_SLOT);
      into.setBindGroup(1, this.paramGroups[slot]);
    }
    into.dispatchWorkgroups(launch.grid[0], launch.grid[1], launch.grid[2]);
    if (this.used === SLOTS) this.flush();
  }

  private stage(slot: number, shader: Shader, values: readonly number[]): void {
    const base = (slot * PARAM_SLOT) / 4;
    const types = shader.paramTypes;
    for (let i = 0; i < types.length; i++) {
      if (types[i] === 'u32') this.stagingU32[base + i] = values[i];
      else if (types[i] === 'f32') this.stagingF32[base + i] = values[i];
      else this.stagingI32[base + i] = values[i];
    }
  }

  private computePass(): GPUComputePassEncoder {
    if (this.pass) return this.pass;
    this.encoder ??= this.device.createCommandEncoder();
    this.pass = this.encoder.beginComputePass();
    return this.pass;
  }

  private endPass(): void {
    this.pass?.end();
    this.pass = null;
    this.current = null;
  }

  private async collectTimes(): Promise<void> {
    if (this.timestamps && this.profiling) await this.timestamps.collect(this.profiling);
  }

  /** One pass per op with a timestamp at either end. */
  private timed(timestamps: Timestamps, name: string, launches: readonly Launch[], bytes: number): void {
    if (this.used + launches.length >= SLOTS || timestamps.full) this.flush();
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    const pass = this.encoder.beginComputePass({ timestampWrites: timestamps.next(name, bytes) });
    for (const launch of launches) this.dispatch(launch, pass);
    pass.end();
    this.current = null;
  }

  private outOfMemory(): Error {
    const { live, reserved } = this.memory;
    return new OutOfMemoryError(
      `the GPU ran out of memory with ${live} bytes in use and ${reserved} held; lower the batch or the context, ` +
        'checkpoint layers, or use the wasm backend',
    );
  }

  private check(): void {
    if (this.failure) throw this.failure;
  }
}

/** Refuses what the device would. @throws KernelError naming the op */
function expectLaunchable(name: string, { shader, args, grid }: Launch): void {
  if (grid[0] > MAX_GRID || grid[1] > MAX_GRID || grid[2] > MAX_GRID) {
    throw new KernelError(`${name}: needs ${grid.join(' × ')} workgroups, a GPU takes ${MAX_GRID}; cut its tensors up`);
  }
  if (args.length !== shader.bindings.length) {
    throw new KernelError(`${name}: was given ${args.length} tensors for the ${shader.bindings.length} of its kernel`);
  }
  for (let i = shader.bindings.indexOf('w'); i < args.length; i++) {
    for (let j = 0; j < i; j++) {
      if (args[i].buffer !== args[j].buffer) continue;
      throw new KernelError(`${name}: would write to the memory of another of its tensors; give it a copy`);
    }
  }
}

/** By name: the class is a global in browsers alone. */
function isOutOfMemory(error: GPUError): boolean {
  return error.constructor.name === 'GPUOutOfMemoryError';
}

/** Whether an adapter's description is that of a rasteriser on the CPU. */
export function isSoftwareAdapter(description: string): boolean {
  return /llvmpipe|lavapipe|swiftshader|basic render/i.test(description);
}

function readCaps(device: GPUDevice, description: string): GpuCaps {
  return {
    f16: device.features.has('shader-f16'),
    maxInvocations: device.limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupMemory: device.limits.maxComputeWorkgroupStorageSize,
    maxStorageBuffers: device.limits.maxStorageBuffersPerShaderStage,
    software: isSoftwareAdapter(description),
  };
}
