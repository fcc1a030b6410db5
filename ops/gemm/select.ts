import type { Layout } from './parts.ts';
import { tileMemory, tileThreads } from './tile-wgsl.ts';
import type { GemmCaps, Tile } from './types.ts';

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

/** What `select` answers: a kernel for few rows or for CPUs, or a tile and how many parts K is cut into. */
export type Choice = { kind: 'skinny' | 'direct' } | { kind: 'tile'; tile: Tile; splits: number; kChunk: number };

/** Rows up to which the kernels that only stream B are taken. */
const SKINNY_ROWS = 8;
/** K that a tile's start and end (first fetch, epilogue) cost as much as. */
const EDGE_K = 24;
/** Microseconds that a second dispatch costs, and bytes a microsecond at which partial sums are written and read. */
const SPLIT_US = 3;
const SPLIT_BYTES = 2.5e6;
/** Largest scratch worth having, f32 elements. */
const SCRATCH_LIMIT = 1 << 25;
/** Invocations a compute unit needs to reach a tile's rate. */
const BUSY = 256;

/** True where the device can run the tile. */
export const fits = (t: Tile, caps: GemmCaps): boolean =>
  tileMemory(t) <= caps.maxWorkgroupMemory && tileThreads(t) <= caps.maxInvocations;

/** True where `skinnyKernel` takes the product. */
export const skinnyFits = (g: Layout, caps: GemmCaps): boolean =>
  g.M <= SKINNY_ROWS && !g.transA && caps.maxInvocations >= 256;

/** Cuts K into about `splits` parts of whole steps; the count that comes out may be smaller. */
export function cut(K: number, bk: number, splits: number): { splits: number; kChunk: number } {
  const kChunk = Math.max(1, Math.ceil(K / splits / bk)) * bk;
  return { splits: Math.max(1, Math.ceil(K / kChunk)), kChunk };
}

/**
 * Estimated microseconds. Compute units each work off ceil(workgroups / units) tiles, at the tile's rate, slower where
 * too few invocations are there to hide latency. A split adds a dispatch and its traffic through scratch.
 */
function cost(g: Layout, t: Tile, splits: number, kChunk: number, units: number): number {
  const batches = g.batch[0] * g.batch[1];
  const groups = Math.ceil(g.M / t.bm) * Math.ceil(g.N / t.bn) * batches * splits;
  const perUnit = Math.ceil(groups / units);
  const busy = Math.min(1, (perUnit * tileThreads(t)) / BUSY);
  const flops = 2 * t.bm * t.bn * (Math.min(kChunk, g.K) + EDGE_K);
  const compute = (perUnit * flops) / (((t.rate * 1e6) / 132) * busy);
  if (splits === 1) return compute;
  return compute + SPLIT_US + (splits * batches * g.M * g.N * 8) / SPLIT_BYTES;
}

/** Counts of parts worth trying for tile t: 1, and those that give every unit one to four workgroups. */
function splitCounts(g: Layout, t: Tile, units: number): number[] {
  const batches = g.batch[0] * g.batch[1];
  const groups = Math.ceil(g.M / t.bm) * Math.ceil(g.N / t.bn) * batches;
  const room = Math.min(g.K / (4 * t.bk), SCRATCH_LIMIT / (batches * g.M * g.N), 512);
  const filling = [0.5, 1, 2, 3, 4].map((n) => Math.floor((units * n) / groups));
  return [1, ...filling.filter((n) => n > 1 && n <= room)];
}

/**
 * Chooses the kernel for a product.
 * 1. On software adapters the kernel without workgroup memory.
 * 2. M ≤ 8 and A not transposed: the kernels that stream B once (decoding).
 * 3. Otherwise the cheapest by `cost` among the tiles that fit and, for each, the splits that fill the device. So large
 *    outputs get 128×128, awkward counts of tiles a smaller one, and weight gradients (few tiles, K = tokens) a split.
 */
export function select(g: Layout, caps: GemmCaps): Choice {
  if (caps.cpu || g.K === 0) return { kind: 'direct' };
  if (skinnyFits(g, caps)) return { kind: 'skinny' };
  const units = caps.computeUnits ?? 132;
  const candidates = TILES.filter((t) => fits(t, caps)).flatMap((t) =>
    splitCounts(g, t, units).map((n) => ({ kind: 'tile' as const, tile: t, ...cut(g.K, t.bk, n) })),
  );
  const price = (c: (typeof candidates)[number]) => cost(g, c.tile, c.splits, c.kChunk, units);
  return candidates.reduce((best, c) => (price(c) < price(best) ? c : best));
}
