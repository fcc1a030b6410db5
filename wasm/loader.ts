import { readBinary } from './binaries.ts';
import type { Kernels as KernelExports } from './kernels.ts';

/** Which binary: `relaxed` has fused multiply-add, `simd` runs wherever SIMD128 does. Results differ in last bits. */
export type KernelVariant = 'simd' | 'relaxed';

/** The kernel library over a memory of its own. */
export interface Kernels {
  readonly variant: KernelVariant;
  readonly memory: WebAssembly.Memory;
  readonly exports: KernelExports;
  /** First byte that is free for tensors. */
  readonly heapBase: number;
}

export interface LoadOptions {
  /** Default: `relaxed` where the engine takes it, else `simd`. */
  variant?: KernelVariant;
  /** The memory may grow to this many bytes; default 4 GiB, the most that wasm32 can address. */
  maxBytes?: number;
}

const PAGE = 65536;

/** The smallest modules that use what a variant needs: `i32x4.splat` and `i8x16.relaxed_swizzle`. */
const SPLAT = [65, 0, 253, 17, 26];
const SWIZZLE = [65, 0, 253, 17, 65, 0, 253, 17, 253, 128, 2, 26];
const PROBES: Record<KernelVariant, Uint8Array> = { simd: probe(SPLAT), relaxed: probe(SWIZZLE) };

/** A module of one function () → () with that body. */
function probe(body: readonly number[]): Uint8Array {
  const magic = [0, 97, 115, 109, 1, 0, 0, 0];
  const code = [0, ...body, 11];
  return Uint8Array.from([...magic, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, code.length + 2, 1, code.length, ...code]);
}

/** Whether this engine compiles the variant: relaxed SIMD is on in Node ≥ 22 and current browsers. */
export function supportsVariant(variant: KernelVariant): boolean {
  return typeof WebAssembly === 'object' && WebAssembly.validate(PROBES[variant] as BufferSource);
}

/** Compiles and instantiates the kernels; works in Node ≥ 20 and in browsers. */
export async function loadKernels(options: LoadOptions = {}): Promise<Kernels> {
  const variant = options.variant ?? (supportsVariant('relaxed') ? 'relaxed' : 'simd');
  const maximum = Math.min(65536, Math.ceil((options.maxBytes ?? 65536 * PAGE) / PAGE));
  const memory = new WebAssembly.Memory({ initial: Math.min(16, maximum), maximum });
  const module = await WebAssembly.compile((await readBinary(variant)) as BufferSource);
  const instance = await WebAssembly.instantiate(module, { env: { memory } });
  const exports = instance.exports as unknown as KernelExports;
  return { variant, memory, exports, heapBase: exports.__heap_base.value as number };
}
