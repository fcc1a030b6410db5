import type { Backend, BackendKind } from '../../../../engine/backend.ts';
import { ReferenceBackend } from '../../../../engine/backends/reference/reference.ts';
import { WasmBackend } from '../../../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../../../engine/backends/webgpu/webgpu.ts';
import { DeviceError } from '../../../../engine/errors.ts';
import { dawnGpu, releaseDawn } from '../../../../engine/node/dawn.ts';
import { allowRelaxedSimd } from '../../../../engine/node/relaxed-simd.ts';
import { probeWebGpu } from './probe.ts';

/** A backend that computes. */
export type OpenedBackend = Backend & { readonly kind: BackendKind };

/**
 * Opens a backend in Node. Without a choice: WebGPU where Dawn finds a hardware adapter, else WASM.
 * @param say hears one line about what was chosen and why, unless it was asked for
 * @throws DeviceError when WebGPU was asked for and there is no adapter
 */
export async function openBackend(
  choice: BackendKind | null,
  say: (line: string) => void = () => {},
): Promise<OpenedBackend> {
  switch (choice) {
    case 'reference':
      return new ReferenceBackend();
    case 'wasm':
      return openWasm();
    case 'webgpu':
      return openWebGpu();
    case null:
      return openBest(say);
    default:
      return choice satisfies never;
  }
}

/** Frees a backend and lets the process exit. */
export function closeBackend(backend: Backend): void {
  backend.dispose();
  if (backend.kind === 'webgpu') releaseDawn();
}

function openWasm(): Promise<WasmBackend> {
  allowRelaxedSimd();
  return WasmBackend.create();
}

async function openWebGpu(): Promise<OpenedBackend> {
  if ((await probeWebGpu()).length === 0) {
    throw new DeviceError('no WebGPU adapter was found; install a Vulkan driver, or use --backend wasm');
  }
  try {
    return await WebGpuBackend.create(await dawnGpu());
  } catch (error) {
    releaseDawn();
    throw error;
  }
}

async function openBest(say: (line: string) => void): Promise<OpenedBackend> {
  const [found] = await probeWebGpu();
  if (found && !found.software) {
    const backend = await openWebGpu();
    say(`backend webgpu: ${backend.description}`);
    return backend;
  }
  const wasm = await openWasm();
  const why = found ? `only a software WebGPU adapter (${found.name})` : 'no WebGPU adapter';
  say(`backend wasm: ${wasm.description}; ${why} was found (--backend webgpu|wasm|reference chooses)`);
  return wasm;
}
