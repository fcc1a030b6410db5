import type { Backend, BackendKind } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { dawnGpu, releaseDawn } from '../../engine/node/dawn.ts';

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

/** Lets the process exit. */
export function closeBackend(backend: Backend): void {
  backend.dispose();
  if (backend.kind === 'webgpu') releaseDawn();
}
