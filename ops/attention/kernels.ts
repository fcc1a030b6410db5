import type { GpuCaps, Launch, Shader } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import { type GpuArg } from '../../engine/positional.ts';
import commonCode from './common.wgsl';
import deltaCode from './delta.wgsl';
import directForwardCode from './direct-forward.wgsl';
import directKeysCode from './direct-keys.wgsl';
import directRowsCode from './direct-rows.wgsl';
import forwardCode from './forward.wgsl';
import keysCode from './keys.wgsl';
import rowsCode from './rows.wgsl';
import { NOTHING } from '../common/exp-sum.ts';
import type { AttentionAttrs, AttentionSizes } from './shape.ts';
import { unroll } from './unroll.ts';

/** Query rows and keys of a tile, and how the threads lie over it. */
interface Tile {
  readonly rows: number;
  readonly keys: number;
  readonly rowGroups: number;
  readonly columnGroups: number;
}

/** Best first; the first that fits is taken. Forward measured best with more keys and threads than backward. */
const TILES: readonly Tile[] = [
  { rows: 16, keys: 32, rowGroups: 8, columnGroups: 16 },
  { rows: 16, keys: 16, rowGroups: 8, columnGroups: 8 },
  { rows: 8, keys: 16, rowGroups: 8, columnGroups: 8 },
  { rows: 8, keys: 8, rowGroups: 8, columnGroups: 8 },
  { rows: 4, keys: 4, rowGroups: 16, columnGroups: 4 },
];
const BACKWARD_TILES = TILES.slice(1);

interface Geometry {
  /** vec4 a row, and the pitch of rows in shared memory, odd. */
  readonly vectors: number;
  readonly stride: number;
}

function geometry(dim: number): Geometry {
  const vectors = Math.ceil(dim / 4);
  return { vectors, stride: vectors | 1 };
}

/** Bytes of shared memory: forward keeps q and one of k and v; backward q, do, k, v, p and ds. */
function bytes(kind: 'forward' | 'backward', tile: Tile, g: Geometry): number {
  const rows = kind === 'forward' ? tile.rows + tile.keys : 2 * (tile.rows + tile.keys);
  const planes = kind === 'forward' ? 1 : 2;
  return 4 * (rows * g.stride * 4 + planes * tile.rows * (tile.keys + 4) + 8 * tile.rows + 128);
}

const chosen = new Map<string, Tile>();

function tileFor(kind: 'forward' | 'backward', dim: number, caps: GpuCaps): Tile {
  const key = `${kind}.${dim}.${caps.maxWorkgroupMemory}`;
  let tile = chosen.get(key);
  if (!tile) {
    const g = geometry(dim);
    const tiles = kind === 'forward' ? TILES : BACKWARD_TILES;
    tile = tiles.find((candidate) => bytes(kind, candidate, g) <= caps.maxWorkgroupMemory);
    if (!tile) {
      const need = bytes(kind, TILES[TILES.length - 1], g);
      throw new DeviceError(
        `attention: heads of ${dim} need ${need} bytes of workgroup memory, the adapter has ${caps.maxWorkgroupMemory}`,
      );
    }
    chosen.set(key, tile);
  }
  return tile;
}

const tileCuts = new Map<string, Cut>();

function tileCut(tile: Tile, dim: number): Cut {
  const key = `${tile.rows}.${tile.keys}`;
  let cut = tileCuts.get(`${dim}.${key}`);
  if (!cut) tileCuts.set(`${dim}.${key}`, (cut = { key, constants: tileConstants(tile, dim) }));
  return cut;
}

function tileConstants(tile: Tile, dim: number): Record<string, number> {
  const { vectors, stride } = geometry(dim);
  const threads = tile.rowGroups * tile.columnGroups;
  const outRows = Math.floor(threads / vectors);
  return {
    ROWS: tile.rows,
    KEYS: tile.keys,
    THREADS: threads,
    ROW_GROUPS: tile.rowGroups,
    COLUMN_GROUPS: tile.columnGroups,
    TR: tile.rows / tile.rowGroups,
    TC: tile.keys / tile.columnGroups,
    SCORES: (tile.rows / tile.rowGroups) * (tile.keys / tile.columnGroups),
    DV: vectors,
    STRIDE: stride,
    PITCH: tile.keys + 4,
    LANES: threads / tile.rows,
    OUT_ROWS: outRows,
    TO: Math.ceil(tile.rows / outRows),
    TK: Math.ceil(tile.keys / outRows),
  };
}

/** Threads that keep a GPU busy; with fewer rows, several threads share one. */
const ENOUGH_THREADS = 65536;
const directCuts = new Map<string, Cut & { readonly threads: number; readonly split: number }>();

/**
 * A cut for the kernels without tiles: `items` rows (or keys) that each walk over `others`. Loops over the head are
 * written out, so that rows stay in registers; but not for drivers on the CPU.
 */
function directCut(items: number, others: number, dim: number, caps: GpuCaps) {
  const vectors = Math.ceil(dim / 4);
  const threads = 64 * (vectors * 16 + 8) <= caps.maxWorkgroupMemory ? 64 : 32;
  let split = 1;
  while (!caps.software && split < threads && items * split < ENOUGH_THREADS && others >= split * 8) split *= 2;
  const key = `${threads}.${split}.${caps.software}`;
  let cut = directCuts.get(`${dim}.${key}`);
  if (!cut) {
    const block = caps.software ? 1 : 4;
    const sizes = { DV: vectors, BLOCK: block };
    const constants = { ...sizes, DIRECT: threads, SPLIT: split, MERGED: split === 1 ? 1 : threads };
    cut = { key, constants, threads, split, ...(caps.software ? { rolled: true } : { unrolled: sizes }) };
    directCuts.set(`${dim}.${key}`, cut);
  }
  return cut;
}

/** Whether to hold rows in registers in place of tiles: on drivers on the CPU, and for few rows against many keys. */
function isDirect(dim: number, rows: number, caps: GpuCaps): boolean {
  return caps.software || (dim <= 96 && rows <= 8);
}

/** Reads vec4 d of the row at an offset; heads that are no multiple of 4 are read one by one and padded with zeros. */
function loader(name: string, vectors: boolean): string {
  if (vectors) return `fn load_${name}(at: u32, d: u32) -> vec4<f32> { return ${name}s[at / 4u + d]; }`;
  return `fn load_${name}(at: u32, d: u32) -> vec4<f32> {
  var value = vec4<f32>();
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { value[c] = ${name}s[at + 4u * d + c]; }
  return value;
}`;
}

function storer(name: string, vectors: boolean): string {
  if (vectors) return `fn store_${name}(at: u32, d: u32, value: vec4<f32>) { ${name}s[at / 4u + d] = value; }`;
  return `fn store_${name}(at: u32, d: u32, value: vec4<f32>) {
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { ${name}s[at + 4u * d + c] = value[c]; }
}`;
}

const PARAMS = {
  tiles: 'u32',
  problems: 'u32',
  kv_heads: 'u32',
  group: 'u32',
  length: 'u32',
  keys: 'u32',
  dim: 'u32',
  causal: 'u32',
  q_head: 'u32',
  q_token: 'u32',
  k_head: 'u32',
  k_token: 'u32',
  scale: 'f32',
} as const;

function params(s: AttentionSizes, attrs: AttentionAttrs, tiles: number): number[] {
  return [
    tiles,
    s.batch * s.kvHeads,
    s.kvHeads,
    s.heads / s.kvHeads,
    s.length,
    s.keys,
    s.dim,
    attrs.causal ? 1 : 0,
    s.qHead,
    s.qToken,
    s.kHead,
    s.kToken,
    attrs.scale,
  ];
}

interface Kernel {
  readonly name: string;
  /** Tensors of rows of head vectors, read and written. */
  readonly loads: readonly string[];
  readonly stores: readonly string[];
  /** Other bindings; they follow those of the same access. */
  readonly reads?: Readonly<Record<string, string>>;
  readonly writes?: Readonly<Record<string, string>>;
  readonly code: string;
  readonly constants?: Readonly<Record<string, number>>;
}

/** How a kernel is cut: its part of the shader's key, and its constants. */
interface Cut {
  readonly key: string;
  readonly constants: Readonly<Record<string, number>>;
  /** Loops written out, by the name of their bound. */
  readonly unrolled?: Readonly<Record<string, number>>;
  /** Loops over the head kept from being unrolled. */
  readonly rolled?: boolean;
}

/** Bounds the loops over a head by a number that the compiler does not know. */
const rolled = (code: string) => code.replaceAll('d < DV;', 'd < (params.dim + 3u) / 4u;');

function build(kernel: Kernel, cut: Cut, dim: number, masked: boolean, counted: boolean): Shader {
  return shader(`attention.${kernel.name}.${dim}.${cut.key}.${masked}.${counted}`, () => {
    const vectors = dim % 4 === 0;
    const type = vectors ? 'vec4<f32>' : 'f32';
    const bind = (names: readonly string[]) => Object.fromEntries(names.map((name) => [`${name}s`, type]));
    return {
      reads: {
        ...bind(kernel.loads),
        ...kernel.reads,
        ...(masked && { mask: 'u32' }),
        ...(counted && { count: 'i32' }),
      },
      writes: { ...bind(kernel.stores), ...kernel.writes },
      params: PARAMS,
      constants: { ...cut.constants, ...kernel.constants },
      code: [
        FLAT_INDEX,
        NOTHING,
        ...kernel.loads.map((name) => loader(name, vectors)),
        ...kernel.stores.map((name) => storer(name, vectors)),
        `fn key_count() -> u32 { return ${counted ? 'u32(clamp(count[0], 0, i32(params.keys)))' : 'params.keys'}; }`,
        masked
          ? 'fn key_open(b: u32, key: u32) -> bool { return key < params.keys && mask[b * params.keys + key] != 0u; }'
          : 'fn key_open(b: u32, key: u32) -> bool { return true; }',
        commonCode,
        cut.unrolled ? unroll(kernel.code, cut.unrolled) : cut.rolled ? rolled(kernel.code) : kernel.code,
      ].join('\n'),
    };
  });
}

const FORWARD: Kernel = {
  name: 'forward',
  loads: ['q', 'k', 'v'],
  stores: ['o'],
  writes: { stats: 'vec2<f32>' },
  code: forwardCode,
};

const DIRECT_FORWARD: Kernel = { ...FORWARD, name: 'direct_forward', code: directForwardCode };

const DELTA: Kernel = {
  name: 'delta',
  loads: ['o', 'do'],
  stores: [],
  reads: { stats: 'vec2<f32>' },
  writes: { row_stats: 'vec4<f32>' },
  code: deltaCode,
};

const ROWS: Kernel = {
  name: 'rows',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dq'],
  reads: { row_stats: 'vec4<f32>' },
  code: `fn store_dk(at: u32, d: u32, value: vec4<f32>) {}
fn store_dv(at: u32, d: u32, value: vec4<f32>) {}
${rowsCode}`,
  constants: { FUSED: 0 },
};

const FUSED: Kernel = {
  name: 'fused',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dq', 'dk', 'dv'],
  reads: { row_stats: 'vec4<f32>' },
  code: rowsCode,
  constants: { FUSED: 1 },
};

const KEYS: Kernel = {
  name: 'keys',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dk', 'dv'],
  reads: { row_stats: 'vec4<f32>' },
  code: keysCode,
};

const DIRECT_ROWS: Kernel = { ...ROWS, name: 'direct_rows', code: directRowsCode };
const DIRECT_KEYS: Kernel = { ...KEYS, name: 'direct_keys', code: directKeysCode };

/** o and its statistics from q, k, v and what optional inputs there are. */
export function forwardLaunches(
  s: AttentionSizes,
  attrs: AttentionAttrs,
  inputs: readonly GpuArg[],
  outputs: readonly GpuArg[],
  caps: GpuCaps,
): Launch[] {
  // Heads of size 0 make an empty o, which no statistics are needed for.
  if (s.dim === 0) return [];
  const rows = (s.heads / s.kvHeads) * s.length;
  const problems = s.batch * s.kvHeads;
  const args = [...inputs, ...outputs];
  if (isDirect(s.dim, rows, caps)) {
    const cut = directCut(rows * problems, s.keys, s.dim, caps);
    const kernel = build(DIRECT_FORWARD, cut, s.dim, attrs.masked, attrs.counted);
    const grid = grid1d(rows * problems * cut.split, cut.threads);
    return [{ shader: kernel, args, params: params(s, attrs, 1), grid }];
  }
  const tile = tileFor('forward', s.dim, caps);
  const tiles = Math.ceil(rows / tile.rows);
  const kernel = build(FORWARD, tileCut(tile, s.dim), s.dim, attrs.masked, attrs.counted);
  return [{ shader: kernel, args, params: params(s, attrs, tiles), grid: grid1d(tiles * problems, 1) }];
}

/** What the backward reads and writes; `mask` is there when the attention had one. */
export interface BackwardArgs {
  readonly q: GpuArg;
  readonly k: GpuArg;
  readonly v: GpuArg;
  readonly o: GpuArg;
  readonly stats: GpuArg;
  readonly grad: GpuArg;
  readonly mask?: GpuArg;
  readonly dq: GpuArg;
  /** Absent when neither is wanted. */
  readonly dk?: GpuArg;
  readonly dv?: GpuArg;
  /** Room for the statistics and Σ do ∘ o of each row. */
  readonly rows: GpuArg;
}

export function backwardLaunches(s: AttentionSizes, attrs: AttentionAttrs, a: BackwardArgs, caps: GpuCaps): Launch[] {
  const tile = tileFor('backward', s.dim, caps);
  const problems = s.batch * s.kvHeads;
  const rows = (s.heads / s.kvHeads) * s.length;
  const reads = [a.q, a.k, a.v, a.grad, a.rows, ...(a.mask ? [a.mask] : [])];
  const keyed = a.dk && a.dv ? [a.dk, a.dv] : undefined;
  const tiled = (kernel: Kernel, args: readonly GpuArg[], tiles: number, groups: number): Launch => ({
    shader: build(kernel, tileCut(tile, s.dim), s.dim, attrs.masked && kernel !== DELTA, false),
    args,
    params: params(s, attrs, tiles),
    grid: grid1d(groups, 1),
  });
  const direct = (kernel: Kernel, args: readonly GpuArg[], items: number, others: number): Launch => {
    const cut = directCut(items * problems, others, s.dim, caps);
    return {
      shader: build(kernel, cut, s.dim, attrs.masked, false),
      args,
      params: params(s, attrs, 1),
      grid: grid1d(items * problems * cut.split, cut.threads),
    };
  };
  const launches = [tiled(DELTA, [a.o, a.grad, a.stats, a.rows], 1, Math.ceil((problems * rows) / 32))];
  if (isDirect(s.dim, Infinity, caps)) {
    launches.push(direct(DIRECT_ROWS, [...reads, a.dq], rows, s.keys));
    if (keyed) launches.push(direct(DIRECT_KEYS, [...reads, ...keyed], s.keys, rows));
    return launches;
  }
  const rowTiles = Math.ceil(rows / tile.rows);
  if (keyed && rowTiles === 1 && reads.length + 3 <= caps.maxStorageBuffers) {
    launches.push(tiled(FUSED, [...reads, a.dq, ...keyed], 1, problems));
    return launches;
  }
  launches.push(tiled(ROWS, [...reads, a.dq], rowTiles, rowTiles * problems));
  if (keyed) {
    const keyTiles = Math.ceil(s.keys / tile.keys);
    launches.push(tiled(KEYS, [...reads, ...keyed], keyTiles, keyTiles * problems));
  }
  return launches;
}
