import { setFlagsFromString } from 'node:v8';
import type { Backend, BackendKind } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { type KernelVariant, supportsVariant, WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { DeviceError, OutOfMemoryError } from '../../engine/errors.ts';
import { dawnGpu, releaseDawn } from '../../engine/node/dawn.ts';

// Node 20 has relaxed SIMD behind this flag; from Node 22 it is on and the flag is gone.
if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');

/** The variants of the C kernels that this engine runs. */
export const wasmVariants = (['simd', 'relaxed'] as const satisfies KernelVariant[]).filter(supportsVariant);

/** A WASM backend, poisoned and with guard bands, for each of `wasmVariants`. */
export function openWasms(): Promise<Backend[]> {
  return Promise.all(wasmVariants.map((variant) => WasmBackend.create({ variant, poison: true })));
}

/** Opens a backend for a test or a check. WebGPU buffers are poisoned with NaN so that unwritten elements show. */
export async function openBackend(kind: BackendKind): Promise<Backend> {
  switch (kind) {
    case 'reference':
      return new ReferenceBackend();
    case 'webgpu':
      return WebGpuBackend.create(await dawnGpu(), { poison: true });
    case 'wasm':
      return WasmBackend.create({ poison: true });
    default:
      return kind satisfies never;
  }
}

/**
 * Has a backend take the kernels of hardware on whatever adapter there is. Drivers on the CPU, which run others, take
 * seconds and minutes to compile them.
 */
export function takeHardwareKernels(gpu: Backend): void {
  if (gpu instanceof WebGpuBackend) Object.assign(gpu.caps, { software: false });
}

/**
 * WebGPU where there is an adapter. Without one, which CI does not accept, WASM takes its place and a line says so:
 * the kernels under test are then those of the other backend. MATVLM_TILED asks for the kernels of hardware.
 */
export async function openGpu(): Promise<Backend> {
  try {
    const gpu = await openBackend('webgpu');
    if (process.env.MATVLM_TILED) takeHardwareKernels(gpu);
    return gpu;
  } catch (error) {
    if (!(error instanceof DeviceError) || process.env.CI) throw error;
    releaseDawn();
    console.log('no WebGPU adapter here (install a Vulkan driver such as lavapipe): WASM is tested in its place');
    return openBackend('wasm');
  }
}

/** One of each kind, as the openers above have them. */
export async function openAll(): Promise<Backend[]> {
  return [...(await Promise.all([openBackend('reference'), openBackend('wasm')])), await openGpu()];
}

/** Counts allocations since the last call, and makes the `at`-th from then on fail. @returns how many there were */
export function failingAllocations(backend: Backend): (at?: number) => number {
  const alloc = backend.alloc.bind(backend);
  let [count, failing] = [0, Infinity];
  backend.alloc = (size, dtype) => {
    if (++count === failing) throw new OutOfMemoryError('no room: the test took it');
    return alloc(size, dtype);
  };
  return (at = Infinity) => {
    const before = count;
    [count, failing] = [0, at];
    return before;
  };
}

/** Lets the process exit. */
export function closeBackend(backend: Backend): void {
  backend.dispose();
  if (backend.kind === 'webgpu') releaseDawn();
}
