import math from './math.wgsl';
import trig from './trig.wgsl';

/** Declarations by name. Each begins a line, and what is indented, or a closing brace, belongs to the one above. */
const LIBRARY = /* @__PURE__ */ new Map(
  `${math}\n${trig}`.split(/^(?=fn |const |struct )/m).map((text) => [/^\w+ (\w+)/.exec(text)?.[1] ?? '', text]),
);

/**
 * WGSL with the functions of the library that it names, and those that these name: kernels call them without declaring
 * them. A function of the kernel's own stands in for the library's of the same name.
 */
export function linked(code: string): string {
  const needed = new Map<string, string>();
  const visit = (text: string) => {
    for (const [name] of text.matchAll(/\b[A-Za-z]\w*/g)) {
      const found = LIBRARY.get(name);
      if (!found || needed.has(name) || new RegExp(`^fn ${name}\\b`, 'm').test(code)) continue;
      needed.set(name, found);
      visit(found);
    }
  };
  visit(code);
  return [...needed.values(), code].join('');
}
