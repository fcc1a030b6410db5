import type { Backend, BackendKind } from '../../engine/backend.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import type { FolderSource } from '../../engine/safetensors/index.ts';
import { httpFolder } from '../nn/http/source.ts';
import { loadVlm, type Vlm } from './vlm.ts';
import type { LoadOptions } from './weights.ts';

type Choice = Exclude<BackendKind, 'reference'>;

export interface LoadModelOptions extends LoadOptions {
  /**
   * An open backend, which stays yours to close, or which to open and to close with the model; without a choice WebGPU
   * where there is a hardware adapter, else WASM.
   */
  readonly backend?: Backend | Choice;
}

/**
 * Loads a checkpoint folder in a browser.
 * @param source where its files are: an address, or any folder that can be read by range
 * @throws CheckpointError, ConfigError or TokenizerError naming file and field; DeviceError without an adapter
 */
export async function loadModel(source: string | URL | FolderSource, options: LoadModelOptions = {}): Promise<Vlm> {
  const folder = typeof source === 'string' || source instanceof URL ? httpFolder(String(source), options) : source;
  const { backend } = options;
  const own = (choice?: Choice) => ({ open: () => openInPage(choice), close: (opened: Backend) => opened.dispose() });
  return loadVlm(folder, typeof backend === 'object' ? backend : own(backend), options);
}

/** Opens a backend in a browser. */
export async function openInPage(choice?: Choice): Promise<Backend> {
  if (choice === 'wasm') return WasmBackend.create();
  const gpu = globalThis.navigator?.gpu;
  if (choice === 'webgpu') return WebGpuBackend.create(gpu);
  const found = gpu ? await WebGpuBackend.create(gpu).catch(() => null) : null;
  if (found && !found.caps.software) return found;
  found?.dispose();
  return WasmBackend.create();
}
