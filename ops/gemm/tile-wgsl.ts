import {
  bases,
  declare,
  elementType,
  loader,
  outputBindings,
  outputTypes,
  storer,
  storerKey,
  tileOf,
} from './parts.ts';
import type { Layout } from './parts.ts';
import type { GemmBinding, Tile } from './types.ts';

/** Invocations of a workgroup. */
export const tileThreads = (t: Tile): number => (t.bm / t.tm) * (t.bn / t.tn);

/** Bytes of workgroup memory. */
export const tileMemory = (t: Tile): number => t.buffers * t.bk * (t.bm + t.bn + 8) * 4;

/** One operand's way from storage into the workgroup's tile, which is always [k][r/4] of vec4. */
interface Mover {
  x: 'a' | 'b';
  /** Extent of the tile along r. */
  extent: number;
  /** k-contiguous storage is moved as transposed 4×4 blocks, the other kind as single vec4s. */
  transpose: boolean;
  /** Pieces of the tile, each moved by one thread. */
  pieces: number;
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const log2 = Math.log2;

function moverOf(x: 'a' | 'b', extent: number, bk: number, transpose: boolean): Mover {
  return { x, extent, transpose, pieces: (extent * bk) / (transpose ? 16 : 4) };
}

/**
 * Names for piece `t`: `xk_i`, `xr_i`, its first k and first r/4 inside the tile. Blocks are dealt so that eight
 * neighbouring threads cover two blocks along k (a 32-byte sector a row) by four along r, which with the padded rows
 * of the tile is free of bank conflicts.
 */
function locate(m: Mover, bk: number, i: number, t: string): string {
  const name = (what: string) => `${m.x}${what}_${i}`;
  if (!m.transpose) {
    const q = m.extent / 4;
    return `  let ${name('k')} = (${t}) / ${q}u;\n  let ${name('r')} = (${t}) % ${q}u;\n`;
  }
  const high = bk / 8;
  return (
    `  let ${name('k')} = (((${t}) & 1u) | ((((${t}) >> 3u) & ${high - 1}u) << 1u)) * 4u;\n` +
    `  let ${name('r')} = (((${t}) >> 1u) & 3u) | (((${t}) >> ${3 + log2(high)}u) << 2u);\n`
  );
}

/** Loads piece i of the tile that starts at k `at` into registers `reg0`…. */
function fetch(m: Mover, i: number, reg: string, at: string): string {
  const r = `${m.x}_first + ${m.x}r_${i} * 4u`;
  return range(m.transpose ? 4 : 1)
    .map((j) => `${reg}${j} = load_${m.x}(${m.x}_base, ${r} + ${j}u, ${at} + ${m.x}k_${i}, k_end);\n`)
    .join('    ');
}

/** Stores what `fetch` loaded into buffer `p` of the tile. */
function place(m: Mover, i: number, reg: string): string {
  const row = (j: number) => `tile_${m.x}[p][${m.x}k_${i} + ${j}u][${m.x}r_${i}]`;
  if (!m.transpose) return `${row(0)} = ${reg}0;\n`;
  return range(4)
    .map((j) => `${row(j)} = vec4<f32>(${range(4).map((s) => `${reg}${s}[${j}]`).join(', ')});\n`)
    .join('    ');
}

/** The code that moves both operands: declarations, fetching at a given k, placing. */
interface Moves {
  setup: string;
  fetch(at: string): string;
  place: string;
}

/** Two operands whose pieces together are as many as threads: each thread moves one piece, of A or of B. */
function sharedMoves(a: Mover, b: Mover, bk: number): Moves {
  const registers = range(4).map((j) => `  var piece${j} = vec4<f32>();\n`);
  const either = (left: string, right: string) =>
    `    if (t < ${a.pieces}u) {\n    ${left}    } else {\n    ${right}    }\n`;
  return {
    setup: locate(a, bk, 0, 't') + locate(b, bk, 0, `t - ${a.pieces}u`) + registers.join(''),
    fetch: (at) => either(fetch(a, 0, 'piece', at), fetch(b, 0, 'piece', at)),
    place: either(place(a, 0, 'piece'), place(b, 0, 'piece')),
  };
}

/** Every thread moves pieces of A, then of B; threads past the last piece move none. */
function separateMoves(a: Mover, b: Mover, bk: number, threads: number): Moves {
  const each = (m: Mover, code: (i: number, reg: string) => string): string => {
    const rounds = Math.ceil(m.pieces / threads);
    const guard = m.pieces < threads ? [`    if (t < ${m.pieces}u) {\n    `, '    }\n'] : ['    ', ''];
    return range(rounds).map((i) => guard[0] + code(i, `${m.x}_piece${i}_`) + guard[1]).join('');
  };
  const setup = (m: Mover) =>
    range(Math.ceil(m.pieces / threads))
      .map((i) => {
        const registers = range(m.transpose ? 4 : 1).map((j) => `  var ${m.x}_piece${i}_${j} = vec4<f32>();\n`);
        return locate(m, bk, i, `t + ${i * threads}u`) + registers.join('');
      })
      .join('');
  return {
    setup: setup(a) + setup(b),
    fetch: (at) => each(a, (i, reg) => fetch(a, i, reg, at)) + each(b, (i, reg) => fetch(b, i, reg, at)),
    place: each(a, (i, reg) => place(a, i, reg)) + each(b, (i, reg) => place(b, i, reg)),
  };
}

/**
 * Where thread t stands in the workgroup's grid of threads: `tm` and `tn`. Where the grid allows, 32 neighbours form a
 * block of 4×8, so that one read of a tile row by a subgroup stays within 128 bytes.
 */
function threadPlace(t: Tile): string {
  const [down, across] = [t.bm / t.tm, t.bn / t.tn];
  if (across < 8 || down < 4) return `  let tm = t / ${across}u;\n  let tn = t % ${across}u;\n`;
  const wide = across / 8;
  return (
    `  let tn = (t & 7u) | (((t >> 5u) & ${wide - 1}u) << 3u);\n` +
    `  let tm = ((t >> 3u) & 3u) | ((t >> ${5 + log2(wide)}u) << 2u);\n`
  );
}

/** bk outer products from tile buffer p, unrolled: constant row indices cost no bounds check and no address sums. */
function multiply(t: Tile): string {
  const [rows, columns] = [t.bm / t.tm, t.bn / t.tn];
  const step = (k: number): string => {
    const as = range(t.tm / 4).map((i) => `    let a${i} = tile_a[p][${k}][tm + ${i * rows}u];\n`);
    const bs = range(t.tn / 4).map((j) => `    let b${j} = tile_b[p][${k}][tn + ${j * columns}u];\n`);
    const sums = range(t.tm).flatMap((i) =>
      range(t.tn / 4).map((j) => `    s${i}_${j} = fma(vec4<f32>(a${i >> 2}[${i & 3}]), b${j}, s${i}_${j});\n`),
    );
    return `    {\n${as.join('')}${bs.join('')}${sums.join('')}    }\n`;
  };
  return range(t.bk).map(step).join('');
}

/** Hands each vec4 of the thread's sums to C, or as a partial sum to scratch. */
function storeSums(t: Tile, split: boolean): string {
  const [rows, columns] = [t.bm / t.tm, t.bn / t.tn];
  return range(t.tm)
    .flatMap((i) =>
      range(t.tn / 4).map((j) => {
        const m = `a_first + (tm + ${(i >> 2) * rows}u) * 4u + ${i & 3}u`;
        const n = `b_first + (tn + ${j * columns}u) * 4u`;
        return `  ${split ? 'store_partial(part' : 'store_c(c_base'}, ${m}, ${n}, s${i}_${j});\n`;
      }),
    )
    .join('');
}

/** `store_partial`: scratch is [splits][batches][M][N]. */
function partialStorer(vec4: boolean): string {
  const stores = vec4
    ? '  scratch[i >> 2u] = acc;\n'
    : range(4).map((j) => `  if (n + ${j}u < params.N) { scratch[i + ${j}u] = acc[${j}]; }\n`).join('');
  return (
    'fn store_partial(base: u32, m: u32, n: u32, acc: vec4<f32>) {\n' +
    `  if (m >= params.M || n >= params.N) { return; }\n  let i = base + m * params.N + n;\n${stores}}\n`
  );
}

/** Zeroed sums, the walk over k; the next tile is fetched while the current one is multiplied. */
function walk(t: Tile, moves: Moves): string {
  const sums = range(t.tm).flatMap((i) => range(t.tn / 4).map((j) => `  var s${i}_${j} = vec4<f32>();\n`));
  const turn = t.buffers === 2 ? '    p = 1u - p;\n' : '    workgroupBarrier();\n';
  return (
    `${sums.join('')}${t.buffers === 2 ? '  var p = 0u;\n' : '  const p = 0u;\n'}` +
    `${moves.fetch('k_begin')}${moves.place}  workgroupBarrier();\n` +
    `  for (var k0 = k_begin; k0 < k_end; k0 += ${t.bk}u) {\n${moves.fetch(`k0 + ${t.bk}u`)}` +
    `${multiply(t)}${turn}${moves.place}    workgroupBarrier();\n  }\n`
  );
}

/** Source, key and bindings of a kernel, independent of sizes. */
export interface Kernel {
  key: string;
  code: string;
  bindings: GemmBinding[];
}

/**
 * The register-tiled kernel. A workgroup makes one tile of batch z mod `batches`; with `split` it covers k_chunk of K,
 * number z / `batches`, and leaves raw partial sums in scratch for `reduceKernel`.
 */
export function tileKernel(g: Layout, t: Tile, split: boolean, flat: boolean): Kernel {
  const threads = tileThreads(t);
  const a = moverOf('a', t.bm, t.bk, !g.transA);
  const b = moverOf('b', t.bn, t.bk, g.transB);
  const shared = a.transpose && b.transpose && a.pieces + b.pieces === threads;
  const moves = shared ? sharedMoves(a, b, t.bk) : separateMoves(a, b, t.bk, threads);
  const partialVec = g.N % 4 === 0;
  const bindings: GemmBinding[] = split
    ? [...outputBindings(g, 'a', 'b').slice(0, 2), { arg: 'scratch', access: 'read_write' }]
    : outputBindings(g, 'a', 'b');
  const types = {
    a: elementType(g.a.dtype, g.a.vec4),
    b: elementType(g.b.dtype, g.b.vec4),
    ...(split ? { scratch: elementType('f32', partialVec) } : outputTypes(g)),
  };
  const array = (m: Mover) =>
    `var<workgroup> tile_${m.x}: array<array<array<vec4<f32>, ${m.extent / 4 + 1}>, ${t.bk}>, ${t.buffers}>;\n`;
  const code =
    declare(bindings, types) + array(a) + array(b) +
    loader('a', !g.transA, g.a.vec4) + loader('b', g.transB, g.b.vec4) +
    (split ? partialStorer(partialVec) : storer(g)) +
    `@compute @workgroup_size(${threads})\nfn main(@builtin(workgroup_id) id: vec3<u32>, ` +
    '@builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {\n' +
    tileOf(flat, `(params.N + ${t.bn - 1}u) / ${t.bn}u`, `(params.M + ${t.bm - 1}u) / ${t.bm}u`) +
    `  let z = group.z % params.batches;\n  let split = group.z / params.batches;\n` +
    bases('a', 'b', ...(split ? [] : ['c' as const])) +
    `  let a_first = group.y * ${t.bm}u;\n  let b_first = group.x * ${t.bn}u;\n` +
    '  let k_begin = split * params.k_chunk;\n  let k_end = min(params.K, k_begin + params.k_chunk);\n' +
    threadPlace(t) + moves.setup + walk(t, moves) +
    (split ? '  let part = group.z * params.M * params.N;\n' : '') + storeSums(t, split) + '}\n';
  const operands = [types.a + (g.transA ? 'T' : ''), types.b + (g.transB ? 'T' : '')];
  const output = split ? `partial${partialVec ? 'v' : ''}` : storerKey(g);
  return { key: ['gemm', t.name, ...operands, output].join('|'), code, bindings };
}
