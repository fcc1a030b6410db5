import type { Backend } from '../../../../engine/backend.ts';
import { WasmBackend } from '../../../../engine/backends/wasm/wasm.ts';
import { WebGpuBackend } from '../../../../engine/backends/webgpu/webgpu.ts';
import type { FolderSource } from '../../../../engine/safetensors/index.ts';
import { httpFolder } from '../../../nn/http/source.ts';
import { ssmLayers } from '../../config.ts';
import { decodeImage } from '../../../nn/image/decode-browser.ts';
import type { RgbImage } from '../../../nn/image/image.ts';
import { cacheBytes } from '../../sizes.ts';
import { loadVlm, type Usage, type Vlm } from '../../vlm.ts';
import { flatness } from './flatness.ts';
import type {
  Answer,
  BackendChoice,
  ImageFile,
  LoadEvent,
  Looked,
  ModelFolder,
  ModelInfo,
  Probe,
  Question,
} from './protocol.ts';

/** A loss shows in a failed read before the device tells of it: how long to wait for its word, in milliseconds. */
const LOSS_DELAY = 300;

/** Models on one backend at a time, by the address of their folder. */
export class BrowserEngine {
  private backend: Backend | null = null;
  private loss: string | null = null;
  private readonly models = new Map<string, Vlm>();
  private image: { readonly id: number; readonly pixels: RgbImage } | null = null;

  /** @param onLost hears when the GPU goes away by itself */
  constructor(private readonly onLost: (message: string) => void) {}

  async probe(): Promise<Probe> {
    if (!navigator.gpu) return { webgpu: null, why: 'this browser has no WebGPU' };
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
    if (!adapter) return { webgpu: null, why: 'this browser found no graphics adapter for WebGPU' };
    const { vendor, architecture, device, description } = adapter.info;
    const name = [vendor, architecture, device, description].filter(Boolean).join(' ') || 'unnamed adapter';
    const { isFallbackAdapter = false } = adapter.info as { isFallbackAdapter?: boolean };
    const software = isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(name);
    return { webgpu: { description: name, software }, why: '' };
  }

  async look(file: ImageFile): Promise<Looked> {
    return { flatness: flatness(await this.pixels(file)) };
  }

  /** Loads a model unless it is there, and runs it once so that no shader is left to compile. */
  async load(
    choice: BackendChoice,
    model: ModelFolder,
    onEvent: (event: LoadEvent) => void,
    signal: AbortSignal,
  ): Promise<ModelInfo> {
    const backend = await this.use(choice);
    const vlm = this.models.get(model.url) ?? (await this.fetchModel(backend, model, onEvent, signal));
    const { config, parameters } = vlm.model;
    const mamba = new Set(ssmLayers(config));
    return {
      parameters: [...parameters.values()].reduce((sum, t) => sum + t.size, 0),
      layers: Array.from({ length: config.model.text_config.num_hidden_layers }, (_, i) => {
        return mamba.has(i) ? 'mamba' : 'attention';
      }),
      backend: backend.description,
    };
  }

  /** Answers a question about an image, telling each piece of text as it is made. */
  async answer(
    url: string,
    file: ImageFile | null,
    question: Question,
    onPiece: (piece: string) => void,
    signal: AbortSignal,
  ): Promise<Answer> {
    const vlm = this.models.get(url)!;
    const image = file && (await this.pixels(file));
    let usage: Usage | undefined;
    let text = '';
    const began = performance.now();
    for await (const piece of vlm.generate({ ...question, image, signal, onUsage: (u) => (usage = u) })) {
      const fresh = text === '' ? piece.trimStart() : piece;
      text += fresh;
      onPiece(fresh);
    }
    return summary(vlm, text, usage!, performance.now() - began, question, signal.aborted);
  }

  /** Why the GPU that was in use is gone; null when it is not. */
  async gpuLoss(): Promise<string | null> {
    const { backend } = this;
    if (this.loss !== null || !(backend instanceof WebGpuBackend)) return this.loss;
    const timeout = new Promise<null>((resolve) => setTimeout(() => resolve(null), LOSS_DELAY));
    return Promise.race([timeout, backend.device.lost.then(({ message }) => message)]);
  }

  /** Lets go of the backend and all that lives on it. */
  reset(): void {
    for (const vlm of this.models.values()) vlm.dispose();
    this.models.clear();
    this.backend?.dispose();
    this.backend = null;
  }

  private async use(choice: BackendChoice): Promise<Backend> {
    if (this.backend?.kind === choice) return this.backend;
    this.reset();
    this.backend = choice === 'webgpu' ? await this.gpu() : await WasmBackend.create();
    return this.backend;
  }

  private async gpu(): Promise<WebGpuBackend> {
    const backend = await WebGpuBackend.create(navigator.gpu);
    this.loss = null;
    void backend.device.lost.then(({ message }) => {
      if (this.backend !== backend) return;
      this.loss = message;
      this.backend = null;
      this.models.clear();
      this.onLost(message);
    });
    return backend;
  }

  private async fetchModel(
    backend: Backend,
    { url, files }: ModelFolder,
    onEvent: (event: LoadEvent) => void,
    signal: AbortSignal,
  ): Promise<Vlm> {
    const folder = only(files, httpFolder(new URL(url, location.href).href, { signal }));
    const vlm = await loadVlm(folder, backend, {
      signal,
      onProgress: ({ loaded, total }) => onEvent({ stage: 'weights', loaded, total }),
    });
    onEvent({ stage: 'warm-up', loaded: 0, total: 1 });
    const blank = { width: 1, height: 1, data: new Uint8Array(3) };
    try {
      await vlm.answer({ image: blank, prompt: 'what is this?', maxNewTokens: 2, signal });
    } catch (error) {
      vlm.dispose();
      throw error;
    }
    this.models.set(url, vlm);
    return vlm;
  }

  private async pixels({ id, bytes }: ImageFile): Promise<RgbImage> {
    if (this.image?.id !== id) this.image = { id, pixels: await decodeImage(new Uint8Array(bytes)) };
    return this.image.pixels;
  }
}

/** A folder of which other files than these are known to be absent. */
function only(files: readonly string[], folder: FolderSource): FolderSource {
  return { name: folder.name, open: async (file) => (files.includes(file) ? folder.open(file) : null) };
}

/** Most answers are one word: the step that finds their end is a token too, so that there is a rate to tell. */
function summary(vlm: Vlm, text: string, usage: Usage, total: number, question: Question, aborted: boolean): Answer {
  const { promptTokens, newTokens, timeToFirstToken } = usage;
  const ended = !aborted && newTokens < question.maxNewTokens;
  const steps = newTokens - 1 + (ended ? 1 : 0);
  const { config } = vlm.model;
  const length = promptTokens + newTokens;
  return {
    text: text.trimEnd(),
    unknownWords: vlm.tokenizer.unknownWords(question.prompt),
    timeToFirstToken: newTokens > 0 ? timeToFirstToken : total,
    tokensPerSecond: newTokens > 0 && steps > 0 ? (1000 * steps) / (total - timeToFirstToken) : 0,
    newTokens,
    promptTokens,
    cacheBytes: cacheBytes(config, length),
    cacheBytesPerToken: cacheBytes(config, length + 1) - cacheBytes(config, length),
    aborted,
  };
}
