/** What the build puts in the place of a name: whether a bundle can compute gradients, which a page does not. */
declare const GRADIENTS: boolean;

/** Files that the build inlines: shader source as text, WASM binaries as bytes. */
declare module '*.wgsl' {
  const source: string;
  export default source;
}
declare module '*.wasm' {
  const bytes: Uint8Array;
  export default bytes;
}
declare module '*.css' {
  const source: string;
  export default source;
}
declare module '*.html' {
  const source: string;
  export default source;
}
