import { createRequire } from 'node:module';

/** Dawn's instance, held for the life of the process: when it is collected, its event loop runs on freed memory. */
const held = globalThis as { matvlmDawn?: unknown };

export interface DawnOptions {
  /** `null` validates every shader and runs nothing; `vulkan` and others as Dawn names them. */
  readonly backend?: string;
}

/**
 * The WebGPU entry point of Dawn through npm `webgpu`, or undefined where the package cannot load on this platform.
 * Asks for the toggles that give NVIDIA cards f16, and for timestamps that are not rounded to 65 µs.
 */
export async function dawnGpu(options: DawnOptions = {}): Promise<GPU | undefined> {
  const toggles = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia', 'use_vulkan_memory_model'];
  const flags = [`enable-dawn-features=${toggles.join(',')}`, 'disable-dawn-features=timestamp_quantization'];
  if (options.backend) flags.push(`backend=${options.backend}`);
  try {
    const { create, globals } = (await import('webgpu')) as typeof import('webgpu');
    Object.assign(globalThis, globals);
    const gpu = create(flags);
    held.matvlmDawn = gpu;
    return gpu;
  } catch (error) {
    if (isMissingModule(error)) return undefined;
    throw error;
  }
}

/** Lets go of Dawn, so that Node can exit. Call after every device is destroyed. */
export function releaseDawn(): void {
  delete held.matvlmDawn;
}

/** Version of the Dawn binding. */
export function dawnVersion(): string {
  return (createRequire(import.meta.url)('webgpu/package.json') as { version: string }).version;
}

function isMissingModule(error: unknown): boolean {
  const code = (error as { code?: string }).code;
  return code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND' || code === 'ERR_DLOPEN_FAILED';
}
