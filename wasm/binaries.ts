import relaxed from './dist/matvlm-relaxed.wasm';
import simd from './dist/matvlm-simd.wasm';

/** The kernel library's bytes, which are part of this bundle. A page's bundle has `binaries-page.ts` in its place. */
export async function readBinary(variant: 'simd' | 'relaxed'): Promise<Uint8Array> {
  return variant === 'relaxed' ? relaxed : simd;
}
