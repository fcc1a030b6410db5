import { createRequire } from 'node:module';
import { codeOf } from './system.ts';

/** Dawn's instance, held for the life of the process: when it is collected, its event loop runs on freed memory. */
const held = globalThis as { matvlmDawn?: GPU };

export interface DawnOptions {
  /** `null` validates every shader and runs nothing; `vulkan` and others as Dawn names them. */
  readonly backend?: string;
}

/** Codes of errors that say that a module is not there, or not for this platform. */
const MISSING: ReadonlySet<unknown> = new Set(['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND', 'ERR_DLOPEN_FAILED']);

const TOGGLES = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia', 'use_vulkan_memory_model'];
/** What Dawn is created with: toggles that give NVIDIA cards f16, and timestamps that are not rounded to 65 µs. */
export const DAWN_FLAGS: readonly string[] = [
  `enable-dawn-features=${TOGGLES.join(',')}`,
  'disable-dawn-features=timestamp_quantization',
];

/** The WebGPU entry point of Dawn through npm `webgpu`, or undefined where the package cannot load on this platform. */
export async function dawnGpu(options: DawnOptions = {}): Promise<GPU | undefined> {
  const flags = options.backend ? [...DAWN_FLAGS, `backend=${options.backend}`] : [...DAWN_FLAGS];
  try {
    const { create, globals } = (await import('webgpu')) as typeof import('webgpu');
    Object.assign(globalThis, globals);
    return (held.matvlmDawn = create(flags));
  } catch (error) {
    if (MISSING.has(codeOf(error))) return undefined;
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
