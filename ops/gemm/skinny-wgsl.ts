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

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Invocations of a workgroup; every WebGPU device allows 256. */
const THREADS = 256;

const head = (threads = THREADS): string =>
  `@compute @workgroup_size(${threads})\nfn main(@builtin(workgroup_id) id: vec3<u32>, ` +
  '@builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {\n';

/** Rows of A handled by the code: M rounded up, so that few variants are compiled. */
const rowsOf = (M: number): number => 2 ** Math.ceil(Math.log2(M));

/** How many columns of C a workgroup makes: with [N,K] weights one per group of `lanes`, else 8 groups of four. */
export function skinnyColumns(g: Layout): number {
  return g.transB ? THREADS / lanesOf(g) : 32;
}

/** Threads that share one dot product: a step of 4·lanes elements of K. */
const lanesOf = (g: Layout): number => (g.K >= 256 ? 32 : 8);

/**
 * Few rows (M ≤ 8) times [N,K] weights: `lanes` threads read one row of B together, four elements a thread, and keep
 * one sum for each row of A; a thread per four results adds up the lanes. Bound by reading B.
 */
function dotKernel(g: Layout, flat: boolean): Kernel {
  const [rows, lanes, columns] = [rowsOf(g.M), lanesOf(g), skinnyColumns(g)];
  const bindings = outputBindings(g, 'a', 'b');
  const types = { a: elementType(g.a.dtype, g.a.vec4), b: elementType(g.b.dtype, g.b.vec4), ...outputTypes(g) };
  const unroll = 4;
  const loads = range(unroll).map((u) => `    let w${u} = load_b(b_base, n, k + ${u * lanes * 4}u, params.K);\n`);
  const products = range(unroll).flatMap((u) =>
    range(rows).map((m) => {
      const a = `load_a(a_base, ${m}u, k + ${u * lanes * 4}u, params.K)`;
      return `    sum${m} = fma(w${u}, ${a}, sum${m});\n`;
    }),
  );
  const step = unroll * lanes * 4;
  const levels = levelsFor(g.K / step);
  // The stores move four columns at a time, so a thread adds up four neighbouring dot products of one row.
  const parts = [0, 1, 2, 3].map((j) => `sums[row][i * ${columns}u + first + ${j}u]`);
  const code =
    declare(bindings, types) + `var<workgroup> sums: array<array<f32, ${THREADS}>, ${rows}>;\n` +
    loader('a', true, g.a.vec4) + loader('b', true, g.b.vec4) + storer(g) + head() +
    `${tileOf(flat, `(params.N + ${columns - 1}u) / ${columns}u`, '1u')}  let z = group.z;\n${bases('a', 'b', 'c')}` +
    `  let lane = t % ${lanes}u;\n  let n = group.x * ${columns}u + t / ${lanes}u;\n` +
    sumOverK(rows, levels, 'lane * 4u', step, loads.join('') + products.join('')) +
    `  let slot = lane * ${columns}u + t / ${lanes}u;\n` +
    range(rows).map((m) => `  sums[${m}][slot] = dot(sum${m}, vec4<f32>(1.0));\n`).join('') +
    `  workgroupBarrier();\n  if (t < ${(rows * columns) / 4}u) {\n` +
    `    let row = t / ${columns / 4}u;\n    let first = t % ${columns / 4}u * 4u;\n    var v = vec4<f32>();\n` +
    `    for (var i = 0u; i < ${lanes}u; i++) { v += vec4<f32>(${parts.join(', ')}); }\n` +
    `    store_c(c_base, row, group.x * ${columns}u + first, v);\n  }\n}\n`;
  const key = ['gemm', `dot${rows}x${lanes}.${levels}`, types.a, `${types.b}T`, storerKey(g)].join('|');
  return { key, code, bindings };
}

/**
 * Few rows (M ≤ 8) times [K,N]: 8 threads cover 32 columns, 32 groups of them (16 for eight rows, whose sums would not
 * fit otherwise) take every 32nd k; then a thread per row and four columns adds up the groups.
 */
function axpyKernel(g: Layout, flat: boolean): Kernel {
  const [rows, quads] = [rowsOf(g.M), 8];
  const slices = rows > 4 ? 16 : 32;
  const threads = slices * quads;
  const bindings = outputBindings(g, 'a', 'b');
  const types = { a: g.a.dtype, b: elementType(g.b.dtype, g.b.vec4), ...outputTypes(g) };
  const a = (m: number) => `f32(a[a_base + min(${m}u, params.M - 1u) * params.a_ld + k])`;
  const step =
    '    let w = load_b(b_base, n, k, params.K);\n' +
    range(rows).map((m) => `    sum${m} = fma(vec4<f32>(${a(m)}), w, sum${m});\n`).join('');
  const levels = levelsFor(g.K / slices);
  const code =
    declare(bindings, types) + `var<workgroup> sums: array<array<vec4<f32>, ${threads}>, ${rows}>;\n` +
    loader('b', false, g.b.vec4) + storer(g) + head(threads) +
    `${tileOf(flat, `(params.N + ${quads * 4 - 1}u) / ${quads * 4}u`, '1u')}  let z = group.z;\n${bases('a', 'b', 'c')}` +
    `  let n = group.x * ${quads * 4}u + t % ${quads}u * 4u;\n` +
    sumOverK(rows, levels, `t / ${quads}u`, slices, step) +
    range(rows).map((m) => `  sums[${m}][t] = sum${m};\n`).join('') +
    `  workgroupBarrier();\n  if (t < ${rows * quads}u) {\n    let row = t / ${quads}u;\n    var v = vec4<f32>();\n` +
    `    for (var i = 0u; i < ${slices}u; i++) { v += sums[row][i * ${quads}u + t % ${quads}u]; }\n` +
    '    store_c(c_base, row, n, v);\n  }\n}\n';
  return { key: ['gemm', `axpy${rows}.${levels}`, types.a, types.b, storerKey(g)].join('|'), code, bindings };
}

/** The kernel for M ≤ 8 and A stored [M,K]. */
export const skinnyKernel = (g: Layout, flat: boolean): Kernel => (g.transB ? dotKernel(g, flat) : axpyKernel(g, flat));

/** Threads that share the sum of one result when the partial sums of a split K are added. */
export const reduceSlices = (splits: number): number => (splits >= 32 ? 16 : 4);

/** Results a workgroup of `reduceKernel` makes. */
export const reduceWidth = (splits: number, N: number): number =>
  (THREADS / reduceSlices(splits)) * (N % 4 === 0 ? 4 : 1);

/**
 * Second pass of a split K: adds scratch [splits][batches·M·N] over splits, always in the same order, and finishes
 * the results as the tiled kernel would have.
 */
export function reduceKernel(g: Layout, splits: number): Kernel {
  const slices = reduceSlices(splits);
  const columns = THREADS / slices;
  const vec4 = g.N % 4 === 0;
  const type = elementType('f32', vec4);
  const bindings = outputBindings(g, 'scratch');
  const wide = vec4 ? 4 : 1;
  // Without vec4 a thread owns one column: the other three lanes of store_c repeat it and must not be stored.
  const store = vec4 ? storer(g) : storer(g).replace(/ {2}if \(n \+ [123]u < params\.N\).*\n/g, '');
  const code =
    declare(bindings, { scratch: type, ...outputTypes(g) }) + `var<workgroup> sums: array<${type}, ${THREADS}>;\n` +
    store + head() + `  let total = params.batches * params.M * params.N;\n` +
    `  let e = ((id.y * groups.x + id.x) * ${columns}u + t % ${columns}u) * ${wide}u;\n  var s = ${type}();\n` +
    `  if (e < total) {\n    for (var i = t / ${columns}u; i < params.splits; i += ${slices}u) {\n` +
    `      s += scratch[(i * total + e) / ${wide}u];\n    }\n  }\n  sums[t] = s;\n  workgroupBarrier();\n` +
    `  if (t < ${columns}u && e < total) {\n` +
    `    for (var i = 1u; i < ${slices}u; i++) { s += sums[t + i * ${columns}u]; }\n` +
    `    let z = e / (params.M * params.N);\n` +
    `  ${bases('c')}    let row = e / params.N;\n` +
    `    store_c(c_base, row % params.M, e % params.N, ${vec4 ? 's' : 'vec4<f32>(s)'});\n  }\n}\n`;
  return { key: ['gemm', `reduce${slices}${vec4 ? 'v' : ''}`, storerKey(g)].join('|'), code, bindings };
}
