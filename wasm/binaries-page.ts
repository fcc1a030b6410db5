/** The kernel library's bytes, fetched from beside the script: a page loads only the variant that it runs. */
export async function readBinary(variant: 'simd' | 'relaxed'): Promise<Uint8Array> {
  const url = new URL(`matvlm-${variant}.wasm`, import.meta.url).href;
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status}, expected the WebAssembly kernels`);
  return new Uint8Array(await response.arrayBuffer());
}
