/** What MaTVLM adds in Node: checkpoint folders on disk, Dawn, images by sharp, saving. */
import type { Backend, BackendKind } from '../../engine/backend.ts';
import { diskFolder } from '../../engine/node/index.ts';
import { closeBackend, openBackend } from './app/node/backend.ts';
import { readModel } from './app/node/model-folder.ts';
import { loadVlm, type Vlm } from './vlm.ts';
import type { LoadOptions } from './weights.ts';

export * from './index.ts';
export { closeBackend, openBackend } from './app/node/backend.ts';
export { openDatasets } from './app/node/datasets.ts';
export { decodeImage, readImage } from './app/node/decode.ts';
export { loadEasyVqa } from './app/node/easy-vqa.ts';
export { saveModel } from './app/node/save-model.ts';
export * from './app/store/index.ts';

export interface NodeLoadOptions extends LoadOptions {
  /**
   * An open backend, which stays yours to close, or which to open and to close with the model; without a choice WebGPU
   * where Dawn finds a hardware adapter, else WASM.
   */
  readonly backend?: Backend | BackendKind;
}

/**
 * Loads a checkpoint folder in Node.
 * @param folder a path, the folder of a run, or `teacher` or `student` for the shipped ones
 */
export async function loadModel(folder: string, options: NodeLoadOptions = {}): Promise<Vlm> {
  const { backend = null } = options;
  const given = typeof backend === 'object' && backend !== null;
  const place = given ? backend : { open: () => openBackend(backend), close: closeBackend };
  return readModel(folder, (path) => loadVlm(diskFolder(path), place, options));
}
