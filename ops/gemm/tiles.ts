import { plain } from '../../engine/access.ts';
import type { GpuCaps, GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { activationsWgsl } from '../elementwise/activation.ts';
import { launchFold, sumOver } from '../reduce/fold.ts';
import { four, type GpuProduct, launchTiles, type Operand, range, type Split, type TileKernel } from './kernel.ts';

/** Shape of a register-tiled kernel: a workgroup makes bm×bn of C in steps of bk, a thread tm×tn of it. */
export interface Tile {
  readonly name: string;
  readonly bm: number;
  readonly bn: number;
  readonly bk: number;
  readonly tm: number;
  readonly tn: number;
  /** 2: the next tile is stored while the current one is read, one barrier a step. 1: half the memory, two barriers. */
  readonly buffers: 1 | 2;
  /** Throughput on a GPU filled with it, TFLOP/s on an H200 (bench/gemm-webgpu.bench.ts); only ratios matter. */
  readonly rate: number;
}

const tile = (
  [bm, bn, bk]: readonly [number, number, number],
  [tm, tn]: readonly [number, number],
  buffers: 1 | 2,
  rate: number,
): Tile => ({ name: `${bm}x${bn}x${bk}.${tm}x${tn}.${buffers}`, bm, bn, bk, tm, tn, buffers, rate });

/**
 * The tiles to choose from, `rate` in TFLOP/s of a full H200 (see `Tile.rate`). Put what the bench prints into the
 * last column and the choice follows. A tile needs buffers·bk·(bm+bn+8)·4 bytes and bm·bn/(tm·tn) invocations.
 */
export const TILES: readonly Tile[] = [
  tile([128, 128, 16], [8, 8], 2, 30.6),
  tile([128, 128, 16], [8, 8], 1, 41.9),
  tile([128, 128, 8], [8, 8], 1, 33),
  tile([256, 128, 8], [16, 8], 2, 32),
  tile([64, 128, 16], [8, 8], 2, 21.5),
  tile([64, 128, 16], [4, 8], 2, 21.3),
  tile([128, 64, 16], [8, 8], 2, 25.5),
  tile([64, 64, 16], [8, 8], 2, 27),
  tile([64, 64, 16], [8, 4], 2, 27.5),
  tile([64, 64, 16], [4, 4], 1, 26.5),
  tile([32, 64, 16], [4, 4], 2, 23.5),
  tile([32, 32, 16], [4, 4], 1, 24.5),
];

/** K that a tile's start and end (first fetch, epilogue) cost as much as. */
const EDGE_K = 24;
/** Microseconds that a second dispatch costs, and bytes a microsecond at which partial sums are written and read. */
const SPLIT_US = 3;
const SPLIT_BYTES = 2.5e6;
/** Largest scratch worth having, f32 elements. */
const SCRATCH_LIMIT = 1 << 25;
/** Streaming multiprocessors or cores to fill. WebGPU does not tell; these are an H200's. */
const UNITS = 132;
/** Invocations a compute unit needs to reach a tile's rate. */
const BUSY = 384;

/** Invocations of a workgroup. */
const tileThreads = (t: Tile): number => (t.bm / t.tm) * (t.bn / t.tn);

/** True where the device can run the tile. */
export const fits = (t: Tile, caps: GpuCaps): boolean =>
  t.buffers * t.bk * (t.bm + t.bn + 8) * 4 <= caps.maxWorkgroupMemory && tileThreads(t) <= caps.maxInvocations;

/** Cuts K into about `splits` parts of whole steps; the count that comes out may be smaller. */
function cut(K: number, bk: number, splits: number): Split {
  const kChunk = Math.max(1, Math.ceil(K / splits / bk)) * bk;
  return { splits: Math.max(1, Math.ceil(K / kChunk)), kChunk };
}

/**
 * Estimated microseconds. Compute units each work off ceil(workgroups / units) tiles, at the tile's rate, slower where
 * too few invocations are there to hide latency. A split adds a dispatch and its traffic through scratch.
 */
function cost(g: GpuProduct, t: Tile, { splits, kChunk }: Split): number {
  const batches = g.batch[0] * g.batch[1];
  const groups = Math.ceil(g.M / t.bm) * Math.ceil(g.N / t.bn) * batches * splits;
  const perUnit = Math.ceil(groups / UNITS);
  const busy = Math.min(1, (perUnit * tileThreads(t)) / BUSY);
  const flops = 2 * t.bm * t.bn * (Math.min(kChunk, g.K) + EDGE_K);
  const compute = (perUnit * flops) / (((t.rate * 1e6) / UNITS) * busy);
  if (splits === 1) return compute;
  return compute + SPLIT_US + (splits * batches * g.M * g.N * 8) / SPLIT_BYTES;
}

/** Counts of parts worth trying for tile t: 1, and those that give every unit one to four workgroups. */
function splitCounts(g: GpuProduct, t: Tile): number[] {
  const batches = g.batch[0] * g.batch[1];
  const groups = Math.ceil(g.M / t.bm) * Math.ceil(g.N / t.bn) * batches;
  const room = Math.min(g.K / (4 * t.bk), SCRATCH_LIMIT / (batches * g.M * g.N), 512);
  const filling = [0.5, 1, 2, 3, 4].map((n) => Math.floor((UNITS * n) / groups));
  return [1, ...filling.filter((n) => n > 1 && n <= room)];
}

/** A tile, and how many parts K is cut into. */
export interface Tiling {
  readonly tile: Tile;
  readonly splits: number;
}

/**
 * The cheapest by `cost` among the tiles that fit and, for each, the splits that fill the device. So large outputs get
 * 128×128, awkward counts of tiles a smaller one, and weight gradients (few tiles, K = tokens) a split.
 */
export function cheapest(g: GpuProduct, caps: GpuCaps): Tiling {
  const candidates = TILES.filter((tile) => fits(tile, caps)).flatMap((tile) =>
    splitCounts(g, tile).map((splits) => ({ tile, splits, price: cost(g, tile, cut(g.K, tile.bk, splits)) })),
  );
  return candidates.reduce((best, c) => (c.price < best.price ? c : best));
}

/** The product by register-tiled kernels: one launch, or two where K is split. */
export function tiled(g: GpuProduct, { tile, splits }: Tiling, device: GpuPlanner): Launch[] {
  const split = cut(g.K, tile.bk, splits);
  if (split.splits === 1) return [launchTiles(g, tileKernel(g, tile), split)];
  const slot = device.scratch([split.splits, g.batch[0] * g.batch[1], g.M, g.N]);
  const sums: Operand = { slot, access: plain('f32'), form: g.N % 4 === 0 ? 'four' : 'one' };
  const parts = { ...g, bias: undefined, activation: undefined, addend: undefined, c: sums };
  return [launchTiles(parts, tileKernel(g, tile), split), launchReduce(device, g, sums, split)];
}

/** One operand's way from storage into the workgroup's tile, which is always [k][r/4] of vec4. */
interface Mover {
  readonly x: 'a' | 'b';
  /** Extent of the tile along r. */
  readonly extent: number;
  /** k-contiguous storage is moved as transposed 4×4 blocks, the other kind as single vec4s. */
  readonly transpose: boolean;
  /** Pieces of the tile, each moved by one thread. */
  readonly pieces: number;
}

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
  const r = `${m.x === 'a' ? 'row' : 'column'} + ${m.x}r_${i} * 4u`;
  return range(m.transpose ? 4 : 1)
    .map((j) => `${reg}${j} = fetch_${m.x}(${m.x}_base, ${r} + ${j}u, ${at} + ${m.x}k_${i}, k_end);\n`)
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
  readonly setup: string;
  fetch(at: string): string;
  readonly place: string;
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

/** Zeroed sums, the walk over k; the next tile is fetched while the current one is multiplied. */
function walk(t: Tile, moves: Pick<Moves, 'fetch' | 'place'>): string {
  const sums = range(t.tm).flatMap((i) => range(t.tn / 4).map((j) => `  var s${i}_${j} = vec4<f32>();\n`));
  const turn = t.buffers === 2 ? '    p = 1u - p;\n' : '    workgroupBarrier();\n';
  return (
    `${sums.join('')}${t.buffers === 2 ? '  var p = 0u;\n' : '  const p = 0u;\n'}` +
    `${moves.fetch('k_begin')}${moves.place}  workgroupBarrier();\n` +
    `  for (var k0 = k_begin; k0 < k_end; k0 += ${t.bk}u) {\n${moves.fetch(`k0 + ${t.bk}u`)}` +
    `${multiply(t)}${turn}${moves.place}    workgroupBarrier();\n  }\n`
  );
}

/**
 * The register-tiled kernel. A workgroup makes one tile, of its part of K; where there are several, each leaves its sums
 * for `launchReduce`.
 */
function tileKernel(g: GpuProduct, t: Tile): TileKernel {
  const threads = tileThreads(t);
  const [a, b] = [moverOf('a', t.bm, t.bk, !g.transA), moverOf('b', t.bn, t.bk, g.transB)];
  const shared = a.transpose && b.transpose && a.pieces + b.pieces === threads;
  const moves = () => (shared ? sharedMoves(a, b, t.bk) : separateMoves(a, b, t.bk, threads));
  const array = (m: Mover) =>
    `var<workgroup> tile_${m.x}: array<array<array<vec4<f32>, ${m.extent / 4 + 1}>, ${t.bk}>, ${t.buffers}>;\n`;
  const [down, across] = [t.bm / t.tm, t.bn / t.tn];
  const put = (i: number, j: number) =>
    `  put_c(c_base, row + (tm + ${(i >> 2) * down}u) * 4u + ${i & 3}u, column + (tn + ${j * across}u) * 4u, s${i}_${j});\n`;
  return {
    name: t.name,
    threads,
    tile: [t.bm, t.bn],
    code: () => {
      const { setup, ...steps } = moves();
      return {
        declarations: array(a) + array(b),
        body:
          '  let k_begin = part * params.k_chunk;\n  let k_end = min(params.K, k_begin + params.k_chunk);\n' +
          threadPlace(t) + setup + walk(t, steps) +
          range(t.tm).flatMap((i) => range(t.tn / 4).map((j) => put(i, j))).join(''),
      };
    },
  };
}

/** The launch that adds the sums of the parts of K, always in the same order: [splits][batches][M][N] become C. */
function launchReduce(device: GpuPlanner, g: GpuProduct, { slot, form }: Operand, { splits }: Split): Launch {
  const wide = form === 'four';
  const [type, width] = wide ? ['vec4<f32>', 4] : ['f32', 1];
  const bias = wide ? `vec4<f32>(${four((j) => `load_bias(n + ${j}u)`)})` : 'load_bias(n)';
  const activate = (x: string) => (g.activation ? `activate_${g.activation}(${x})` : x);
  return launchFold(device, { outer: 1, len: splits, inner: g.c.slot.size / width }, {
    key: `gemm.reduce ${wide} ${g.activation}`,
    reads: { sums: slot, bias: g.bias?.slot, addend: g.addend?.slot },
    writes: { c: g.c.slot },
    wide: wide ? ['sums', 'addend', 'c'] : [],
    params: { columns: g.N },
    fold: { ...sumOver(type, 'load_sums(i)'), helpers: activationsWgsl([g.activation]) },
    body: /* wgsl */ `
  if (at.lane > 0u || at.line >= params.lines) { return; }
  let n = at.line * ${width}u % params.columns;
  let sum = total + ${bias};
  store_c(at.line, ${wide ? `vec4<f32>(${four((j) => activate(`sum[${j}]`))})` : activate('sum')} + load_addend(at.line));`,
  });
}
