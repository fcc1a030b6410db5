import {
  bases,
  declare,
  elementType,
  levelsFor,
  loader,
  outputBindings,
  outputTypes,
  storer,
  storerKey,
  sumOverK,
  tileOf,
} from './parts.ts';
import type { Layout } from './parts.ts';
import type { Kernel } from './tile-wgsl.ts';

/** Rows and columns of C that a workgroup of `directKernel` makes. */
export const DIRECT_TILE = 32;

const range = [0, 1, 2, 3];

/**
 * The kernel of software adapters: 8×8 threads, each 4×4 of C in steps of four k, straight from storage. Without
 * barriers their compilers need a second instead of many, and a CPU's caches do the work of workgroup memory.
 */
export function directKernel(g: Layout, flat: boolean): Kernel {
  const bindings = outputBindings(g, 'a', 'b');
  const types = {
    a: elementType(g.a.dtype, g.a.vec4),
    b: elementType(g.b.dtype, g.b.vec4),
    ...outputTypes(g),
  };
  const load = (x: 'a' | 'b', r: string, kContiguous: boolean) =>
    range.map((i) => {
      const at = kContiguous ? `${r} + ${i}u, k` : `${r}, k + ${i}u`;
      return `    let ${x}${i} = load_${x}(${x}_base, ${at}, params.K);\n`;
    });
  const left = (m: number, k: number) => (g.transA ? `a${k}[${m}]` : `a${m}[${k}]`);
  const right = (k: number) => (g.transB ? `vec4<f32>(b0[${k}], b1[${k}], b2[${k}], b3[${k}])` : `b${k}`);
  const sums = range.flatMap((k) => range.map((m) => `    sum${m} = fma(vec4<f32>(${left(m, k)}), r${k}, sum${m});\n`));
  const step =
    [...load('a', 'm', !g.transA), ...load('b', 'n', g.transB)].join('') +
    `${range.map((k) => `    let r${k} = ${right(k)};\n`).join('')}${sums.join('')}`;
  const tiles = (n: string) => `(params.${n} + ${DIRECT_TILE - 1}u) / ${DIRECT_TILE}u`;
  const levels = levelsFor(g.K / 4);
  const code =
    declare(bindings, types) + loader('a', !g.transA, g.a.vec4) + loader('b', g.transB, g.b.vec4) + storer(g) +
    '@compute @workgroup_size(8, 8)\nfn main(@builtin(workgroup_id) id: vec3<u32>, ' +
    '@builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {\n' +
    tileOf(flat, tiles('N'), tiles('M')) +
    `  let z = group.z;\n  let m = group.y * ${DIRECT_TILE}u + local.y * 4u;\n` +
    `  let n = group.x * ${DIRECT_TILE}u + local.x * 4u;\n${bases('a', 'b', 'c')}` +
    sumOverK(4, levels, '0u', 4, step) +
    range.map((m) => `  store_c(c_base, m + ${m}u, n, sum${m});\n`).join('') + '}\n';
  const operands = [types.a + (g.transA ? 'T' : ''), types.b + (g.transB ? 'T' : '')];
  return { key: ['gemm', `direct${levels}`, ...operands, storerKey(g)].join('|'), code, bindings };
}
