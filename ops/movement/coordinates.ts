/** Dimensions that kernels with coordinates of their own take at most. */
export const MAX_RANK = 6;

/** The coordinates of the i-th element of a row-major shape. */
export function coordinates(i: number, shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length);
  for (let d = shape.length - 1; d >= 0; d--) {
    out[d] = i % shape[d];
    i = Math.floor(i / shape[d]);
  }
  return out;
}

/** Shader params `name0`, `name1`, … for one value per dimension. */
export function series(name: string, rank: number): Record<string, 'u32'> {
  return Object.fromEntries(Array.from({ length: rank }, (_, d) => [`${name}${d}`, 'u32']));
}

/** WGSL that takes a flat index apart into coordinates c0, c1, … by params shape0, shape1, … */
export function unravel(index: string, rank: number): string {
  const lines = [`var rest = ${index};`];
  for (let d = rank - 1; d > 0; d--) lines.push(`let c${d} = rest % params.shape${d}; rest /= params.shape${d};`);
  lines.push('let c0 = rest;');
  return lines.join('\n  ');
}
