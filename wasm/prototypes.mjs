// The TypeScript signatures of the C kernels, read off their prototypes: wasm/kernels.ts.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const HEAD = `// Made by wasm/build.mjs from the prototypes in wasm/src. Change those, not this.

/** Where an operand of a call begins, or is \`offset\` bytes in: which of the call's buffers it lies in. */
export interface Address {
  readonly slot: number;
  readonly offset?: number;
}

/**
 * The C kernels. Pointers are \`P\`: what stands for an address while a call is planned, a number where it is made.
 * Tensors are contiguous and row-major, f32 unless said otherwise; sizes are counts of elements; flags are 0 or 1; a
 * pointer that may be undefined leaves an optional operand out. \`scratch\` is room of at least as many bytes as the
 * function's \`…_scratch\` says. Nothing is allocated or kept.
 */
export interface KernelCalls<P = Address> {
`;

const EXPORTED = /((?:\/\/[^\n]*\n)*)\s*(void|size_t)\s+__attribute__\(\(export_name\(((?:"\w+"\s*)+)\)\)\)\s*\w+\(([^)]*)\)/g;

/** `preprocess(file)` gives a C source with macros expanded and comments kept. */
export function kernelTypes(source, preprocess) {
  const files = readdirSync(source).filter((f) => f.endsWith('.c')).sort();
  const found = files.flatMap((file) => [...preprocess(join(source, file)).matchAll(EXPORTED)]);
  const functions = found.map(([, comment, result, quoted, list]) => {
    return { comment, result, name: quoted.replace(/["\s]/g, ''), list };
  });
  const of = (result) => functions.filter((f) => f.result === result).map(declare).join('\n');
  return (
    `${HEAD}${of('void')}}\n\n/** Bytes of scratch that kernels want. */\nexport interface Sizes {\n${of('size_t')}}\n\n` +
    '/** What the library exports. */\nexport interface Kernels extends KernelCalls<number>, Sizes {\n' +
    '  /** Where the heap may start, in bytes. */\n  readonly __heap_base: WebAssembly.Global;\n}\n'
  );
}

function declare({ comment, result, name, list }) {
  const lines = comment.split('\n').map((line) => line.replace(/^\s*\/\/ ?/, '').trim()).filter(Boolean);
  const doc = lines.length === 0 ? '' : `  /** ${lines.join(' ')} */\n`;
  const types = list.split(',').map((parameter) => {
    const [, pointer, optional, own] = /^\s*[\w\s]*?(\*?)\s*(_Nullable)?\s*(\w+)\s*$/.exec(parameter);
    return `${own}: ${pointer ? (optional ? 'P | undefined' : 'P') : 'number'}`;
  });
  return `${doc}  ${name}(${types.join(', ')}): ${result === 'void' ? 'void' : 'number'};\n`;
}
