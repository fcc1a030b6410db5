import { setFlagsFromString } from 'node:v8';

/**
 * Lets Node 20 compile relaxed SIMD (fused multiply-add), which it holds behind a flag; later versions have it on and
 * ignore this. Call before the first kernel is compiled.
 */
export function allowRelaxedSimd(): void {
  if (Number(process.versions.node.split('.')[0]) < 22) setFlagsFromString('--experimental-wasm-relaxed-simd');
}
