import { grid1d, MAX_GRID } from '../../engine/backends/webgpu/launch.ts';
import { ArgumentError, DeviceError, ShapeError } from '../../engine/errors.ts';
import { DIRECT_TILE, directKernel } from './direct-wgsl.ts';
import { layoutOf, paramsOf } from './parts.ts';
import type { Layout } from './parts.ts';
import { cut, fits, select, skinnyFits } from './select.ts';
import type { Choice } from './select.ts';
import { reduceKernel, reduceWidth, skinnyColumns, skinnyKernel } from './skinny-wgsl.ts';
import { tileKernel } from './tile-wgsl.ts';
import type { Kernel } from './tile-wgsl.ts';
import type { GemmCaps, GemmLaunch, GemmParam, GemmSpec, GemmVariant, Tile } from './types.ts';

export type * from './types.ts';

/** Takes the place of the choice by `select`, for benchmarks and tests. */
export type GemmForce = 'direct' | 'skinny' | { tile: Tile; splits?: number };

/**
 * WGSL for C = epilogue(alpha·A·B + bias) (see `GemmSpec`), as one dispatch or, where K is split, two that share
 * `scratch`. Pure: no device is touched. Sizes, strides and offsets are data in the uniform block, so that the code,
 * and with it `key`, depends only on layout, dtypes, alignment to four and epilogue.
 *
 * Bind group 0 holds `bindings` in order, bind group 1 binding 0 the packed `params` (see `packParams`).
 * Sums are f32 in a fixed order: the same spec on the same device always gives the same bits.
 * @throws ShapeError for sizes below 1, DeviceError without f16.
 */
export function gemmVariant(spec: GemmSpec, caps: GemmCaps, force?: GemmForce): GemmVariant {
  const g = layoutOf(spec);
  check(g, caps);
  const choice = force ? forced(g, caps, force) : select(g, caps);
  const { launches, scratch } = choice.kind === 'tile' ? tiled(g, choice) : whole(g, choice.kind);
  const splits = choice.kind === 'tile' ? choice.splits : 1;
  return { launches, scratch, name: launches[0].key.split('|')[1], splits };
}

/** The uniform block's bytes. */
export function packParams(params: readonly GemmParam[]): ArrayBuffer {
  const bytes = new ArrayBuffer(Math.ceil(params.length / 4) * 16);
  const view = new DataView(bytes);
  params.forEach(({ type, value }, i) => {
    if (type === 'u32') view.setUint32(i * 4, value, true);
    else view.setFloat32(i * 4, value, true);
  });
  return bytes;
}

/** The launch of a kernel over so many tiles across and down and so many products. */
function overTiles(make: (flat: boolean) => Kernel, tiles: [number, number, number], params: GemmParam[]): GemmLaunch {
  const flat = tiles.some((n) => n > MAX_GRID);
  const kernel = make(flat);
  if (!flat) return { ...kernel, grid: tiles, params };
  return { ...kernel, key: `${kernel.key}|flat`, grid: grid1d(tiles[0] * tiles[1] * tiles[2], 1), params };
}

/** The kernels that make a result in one dispatch. */
function whole(g: Layout, kind: 'direct' | 'skinny'): { launches: GemmLaunch[]; scratch: number } {
  const skinny = kind === 'skinny';
  const columns = Math.ceil(g.N / (skinny ? skinnyColumns(g) : DIRECT_TILE));
  const rows = skinny ? 1 : Math.ceil(g.M / DIRECT_TILE);
  const kernel = (flat: boolean) => (skinny ? skinnyKernel : directKernel)(g, flat);
  const tiles: [number, number, number] = [columns, rows, g.batch[0] * g.batch[1]];
  return { launches: [overTiles(kernel, tiles, paramsOf(g, g.K, 1))], scratch: 0 };
}

function tiled(g: Layout, { tile, splits, kChunk }: Choice & { kind: 'tile' }) {
  const batches = g.batch[0] * g.batch[1];
  const params = paramsOf(g, kChunk, splits);
  const tiles: [number, number, number] = [Math.ceil(g.N / tile.bn), Math.ceil(g.M / tile.bm), batches * splits];
  const first = overTiles((flat) => tileKernel(g, tile, splits > 1, flat), tiles, params);
  if (splits === 1) return { launches: [first], scratch: 0 };
  const results = batches * g.M * g.N;
  const grid = grid1d(results, reduceWidth(splits, g.N));
  const second = { ...reduceKernel(g, splits), grid, params };
  return { launches: [first, second], scratch: splits * results };
}

function forced(g: Layout, caps: GemmCaps, force: GemmForce): Choice {
  if (force === 'direct') return { kind: 'direct' };
  if (force === 'skinny') {
    if (!skinnyFits(g, caps)) throw new ArgumentError(`gemm: the skinny kernels take up to 8 rows, got ${g.M}`);
    return { kind: 'skinny' };
  }
  const { tile, splits = 1 } = force;
  if (!fits(tile, caps)) {
    const limits = `${caps.maxWorkgroupMemory} bytes of workgroup memory, ${caps.maxInvocations} invocations`;
    throw new DeviceError(`gemm: tile ${tile.name} exceeds the device (${limits}); choose a smaller tile`);
  }
  return { kind: 'tile', tile, ...cut(g.K, tile.bk, splits) };
}

function check(g: Layout, caps: GemmCaps): void {
  const sizes = [g.M, g.N, g.K, ...g.batch];
  if (!sizes.every((n) => Number.isInteger(n) && n >= 0)) {
    throw new ShapeError(`gemm: M, N, K and batch must be integers of at least 0, got ${sizes.join(', ')}`);
  }
  if (!caps.f16 && [g.a.dtype, g.b.dtype, g.c.dtype, g.bias].includes('f16')) {
    throw new DeviceError('gemm: f16 operands need the feature shader-f16, which this device lacks; use f32');
  }
}
