import { create, globals } from 'webgpu';
import { DeviceError, KernelError } from '../engine/errors.ts';
import { packParams } from '../ops/gemm/wgsl.ts';
import type { GemmArg, GemmCaps, GemmLaunch, GemmVariant } from '../ops/gemm/wgsl.ts';

const TOGGLES = 'allow_unsafe_apis,vulkan_enable_f16_on_nvidia,use_vulkan_memory_model';

/** Dawn's root object: its event loop runs on freed memory once this is collected, so it is kept here. */
let gpu: GPU | undefined;

/** A bare device for kernels that are not yet, or need not be, run through the engine. */
export interface GemmDevice {
  device: GPUDevice;
  caps: GemmCaps;
  /** Adapter's name. */
  name: string;
  timestamps: boolean;
}

/**
 * Opens Dawn with the adapter's own limits and every feature the kernels use.
 * @param backend `null` for the backend that only validates; else the platform's own.
 * @param toggles more Dawn toggles, comma-separated, e.g. `disable_robustness`.
 * @throws DeviceError without an adapter.
 */
export async function openDevice(backend?: string, toggles = ''): Promise<GemmDevice> {
  Object.assign(globalThis, globals);
  const features = `enable-dawn-features=${TOGGLES}${toggles && `,${toggles}`}`;
  gpu = create([features, ...(backend ? [`backend=${backend}`] : [])]);
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new DeviceError('no WebGPU adapter: install a Vulkan driver such as lavapipe (.ci/setup.sh)');
  const wanted: GPUFeatureName[] = ['shader-f16', 'timestamp-query'];
  const requiredFeatures = wanted.filter((f) => adapter.features.has(f));
  const requiredLimits: Record<string, number> = {};
  for (const key in adapter.limits) {
    const value = adapter.limits[key as keyof GPUSupportedLimits];
    if (typeof value === 'number') requiredLimits[key] = value;
  }
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  const { limits } = device;
  const name = adapter.info.description || adapter.info.device || 'unnamed adapter';
  return {
    device,
    name,
    timestamps: device.features.has('timestamp-query'),
    caps: {
      maxWorkgroupMemory: limits.maxComputeWorkgroupStorageSize,
      maxInvocations: limits.maxComputeInvocationsPerWorkgroup,
      f16: device.features.has('shader-f16'),
      cpu: /llvmpipe|swiftshader/i.test(`${name} ${adapter.info.device}`),
    },
  };
}

/** Ends the device and lets go of Dawn, so that Node can exit. */
export function closeDevice({ device }: GemmDevice): void {
  device.destroy();
  gpu = undefined;
}

/** Bytes in a new storage buffer. */
export function upload(device: GPUDevice, data: Float32Array | Uint16Array): GPUBuffer {
  const size = Math.ceil(data.byteLength / 16) * 16;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ size, usage, mappedAtCreation: true });
  new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  buffer.unmap();
  return buffer;
}

/** A buffer's bytes, copied back. */
export async function download(device: GPUDevice, source: GPUBuffer): Promise<ArrayBuffer> {
  const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
  const staging = device.createBuffer({ size: source.size, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(source, 0, staging, 0, source.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = staging.getMappedRange().slice(0);
  staging.destroy();
  return bytes;
}

/** Pipelines by launch key. */
export class Pipelines {
  readonly #device: GPUDevice;
  readonly #cache = new Map<string, Promise<GPUComputePipeline>>();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Compiles on first use, beside others asked for. @throws KernelError with Dawn's message and the source. */
  get(launch: GemmLaunch): Promise<GPUComputePipeline> {
    const known = this.#cache.get(launch.key);
    if (known) return known;
    const pipeline = this.#compile(launch);
    this.#cache.set(launch.key, pipeline);
    return pipeline;
  }

  async #compile({ key, code }: GemmLaunch): Promise<GPUComputePipeline> {
    const module = this.#device.createShaderModule({ code, label: key });
    const compute = { module, entryPoint: 'main' };
    return this.#device.createComputePipelineAsync({ layout: 'auto', compute }).catch((e: Error) => {
      const source = code.split('\n').map((l, i) => `${i + 1}: ${l}`);
      throw new KernelError(`${key}: ${e.message}\n${source.join('\n')}`);
    });
  }
}

/** A variant bound to buffers: `encode` dispatches all its launches. */
export interface Bound {
  encode(pass: GPUComputePassEncoder): void;
  destroy(): void;
}

/** Binds a variant to buffers. The scratch buffer, where given, must hold `variant.scratch` f32. */
export async function bind(
  device: GPUDevice,
  pipelines: Pipelines,
  variant: GemmVariant,
  buffers: Partial<Record<GemmArg, GPUBuffer>>,
): Promise<Bound> {
  const uniforms: GPUBuffer[] = [];
  const steps = await Promise.all(
    variant.launches.map(async (launch) => {
      const pipeline = await pipelines.get(launch);
      const data = packParams(launch.params);
      const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
      const uniform = device.createBuffer({ size: data.byteLength, usage });
      device.queue.writeBuffer(uniform, 0, data);
      uniforms.push(uniform);
      const storage = launch.bindings.map(({ arg }, binding) => ({ binding, resource: { buffer: buffers[arg]! } }));
      return {
        ...{ pipeline, grid: launch.grid },
        storage: device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: storage }),
        params: device.createBindGroup({
          layout: pipeline.getBindGroupLayout(1),
          entries: [{ binding: 0, resource: { buffer: uniform } }],
        }),
      };
    }),
  );
  const encode = (pass: GPUComputePassEncoder) => {
    for (const { pipeline, grid, storage, params } of steps) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, storage);
      pass.setBindGroup(1, params);
      pass.dispatchWorkgroups(...grid);
    }
  };
  return { encode, destroy: () => uniforms.forEach((u) => u.destroy()) };
}
