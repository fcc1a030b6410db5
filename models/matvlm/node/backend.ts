import type { Backend, BackendKind } from '../../../engine/backend.ts';
import { ReferenceBackend } from '../../../engine/backends/reference/reference.ts';
import { WasmBackend } from '../../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../../engine/backends/webgpu/webgpu.ts';
import { DeviceError, MatvlmError } from '../../../engine/errors.ts';
import { dawnGpu, releaseDawn } from '../../../engine/node/dawn.ts';
import { allowRelaxedSimd } from '../../../engine/node/relaxed-simd.ts';

/**
 * Opens a backend in Node. Without a choice: WebGPU where Dawn finds a hardware adapter, else WASM.
 * @param say hears one line about what was chosen and why, unless it was asked for
 * @throws DeviceError when WebGPU was asked for and there is no adapter
 */
export async function openBackend(choice: BackendKind | null, say: (line: string) => void = () => {}): Promise<Backend> {
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

async function openWebGpu(): Promise<WebGpuBackend> {
  const gpu = await dawnGpu();
  if (!gpu) throw new DeviceError('--backend webgpu: npm webgpu (Dawn) does not load on this platform; use --backend wasm');
  try {
    return await WebGpuBackend.create(gpu);
  } catch (error) {
    releaseDawn();
    throw error;
  }
}

async function openBest(say: (line: string) => void): Promise<Backend> {
  const found = await openWebGpu().catch((error: unknown) => {
    if (error instanceof MatvlmError) return error;
    throw error;
  });
  if (found instanceof WebGpuBackend && !found.caps.software) {
    say(`backend webgpu: ${found.description}`);
    return found;
  }
  if (found instanceof WebGpuBackend) closeBackend(found);
  const wasm = await openWasm();
  const why = found instanceof WebGpuBackend ? `only a software WebGPU adapter (${found.description})` : 'no WebGPU adapter';
  say(`backend wasm: ${wasm.description}; ${why} was found (--backend webgpu|wasm|reference chooses)`);
  return wasm;
}
