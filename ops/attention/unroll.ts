import { KernelError } from '../../engine/errors.ts';

const LOOP = /for \(var (\w+) = 0u; \1 < (\w+); \1\+\+\) \{/g;

/**
 * Repeats the bodies of WGSL loops `for (var i = 0u; i < BOUND; i++) { … }` whose bound is one of `bounds`, with
 * the index as a literal. WGSL has no word for it, Tint leaves loops as they are, and a driver that does not unroll
 * keeps small arrays indexed by the loop out of registers.
 */
export function unroll(code: string, bounds: Readonly<Record<string, number>>): string {
  let out = '';
  let at = 0;
  for (LOOP.lastIndex = 0; ; ) {
    LOOP.lastIndex = at;
    const match = LOOP.exec(code);
    if (!match) return out + code.slice(at);
    const [head, index, bound] = match;
    const count = bounds[bound];
    const start = match.index + head.length;
    if (count === undefined) {
      out += code.slice(at, start);
      at = start;
      continue;
    }
    const end = closing(code, start);
    const body = unroll(code.slice(start, end), bounds);
    const name = new RegExp(`\\b${index}\\b`, 'g');
    out += code.slice(at, match.index);
    for (let i = 0; i < count; i++) out += `{${body.replace(name, `${i}u`)}}`;
    at = end + 1;
  }
}

/** Where the block that starts at `start` ends: the index of its closing brace. */
function closing(code: string, start: number): number {
  let depth = 1;
  for (let i = start; i < code.length; i++) {
    if (code[i] === '{') depth++;
    else if (code[i] === '}' && --depth === 0) return i;
  }
  throw new KernelError('unroll: a loop has no closing brace');
}
