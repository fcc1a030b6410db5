import { DeviceError } from '../../errors.ts';
import type { GpuCaps } from './launch.ts';

/** A device, its adapter's name for people, and what kernels may count on. */
interface OpenDevice {
  readonly device: GPUDevice;
  readonly description: string;
  readonly caps: GpuCaps;
}

/** Opens the fastest adapter with all that it offers of what kernels use. @throws DeviceError when there is none */
export async function openDevice(gpu: GPU | undefined): Promise<OpenDevice> {
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    throw new DeviceError('no WebGPU adapter was found; install a Vulkan driver or use --backend wasm');
  }
  const { features, limits, info } = adapter;
  const wanted = ['shader-f16', 'timestamp-query'] as GPUFeatureName[];
  const device = await adapter.requestDevice({
    requiredFeatures: wanted.filter((feature) => features.has(feature)),
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
    },
  });
  const description = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(' ');
  const caps = {
    f16: device.features.has('shader-f16'),
    maxInvocations: device.limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupMemory: device.limits.maxComputeWorkgroupStorageSize,
    maxStorageBuffers: device.limits.maxStorageBuffersPerShaderStage,
    software: isSoftwareAdapter(description),
  };
  return { device, description, caps };
}

/** Whether an adapter's description is that of a rasteriser on the CPU. */
export function isSoftwareAdapter(description: string): boolean {
  return /llvmpipe|lavapipe|swiftshader|basic render/i.test(description);
}
