import type { GpuArg, GpuCaps, Launch, Shader } from '../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, grid1d, shader } from '../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../engine/errors.ts';
import commonCode from './attention-common.wgsl';
import deltaCode from './attention-delta.wgsl';
import forwardCode from './attention-forward.wgsl';
import keysCode from './attention-keys.wgsl';
import rowsCode from './attention-rows.wgsl';
import type { AttentionAttrs, AttentionSizes } from './attention-shape.ts';

/** Query rows and keys of a tile, and how the threads lie over it. */
interface Tile {
  readonly rows: number;
  readonly keys: number;
  readonly rowGroups: number;
  readonly columnGroups: number;
}

const TILES: readonly Tile[] = [
  { rows: 16, keys: 32, rowGroups: 8, columnGroups: 8 },
  { rows: 16, keys: 16, rowGroups: 8, columnGroups: 8 },
  { rows: 8, keys: 16, rowGroups: 8, columnGroups: 8 },
  { rows: 8, keys: 8, rowGroups: 8, columnGroups: 8 },
  { rows: 4, keys: 4, rowGroups: 16, columnGroups: 4 },
];

/** For drivers on the CPU, which compile long unrolled code for half a minute: no registers blocked, no loop unrolled. */
const SOFTWARE_TILES: readonly Tile[] = [
  { rows: 16, keys: 16, rowGroups: 16, columnGroups: 16 },
  { rows: 8, keys: 8, rowGroups: 8, columnGroups: 8 },
];

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
  const key = `${kind}.${dim}.${caps.maxWorkgroupMemory}.${caps.software}`;
  let tile = chosen.get(key);
  if (!tile) {
    const g = geometry(dim);
    const tiles = caps.software ? SOFTWARE_TILES : TILES;
    tile = tiles.find((candidate) => bytes(kind, candidate, g) <= caps.maxWorkgroupMemory);
    if (!tile) {
      const need = bytes(kind, tiles[tiles.length - 1], g);
      throw new DeviceError(
        `attention: heads of ${dim} need ${need} bytes of workgroup memory, the adapter has ${caps.maxWorkgroupMemory}`,
      );
    }
    chosen.set(key, tile);
  }
  return tile;
}

function constants(tile: Tile, dim: number): Record<string, number> {
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
    DV: vectors,
    STRIDE: stride,
    PITCH: tile.keys + 4,
    LANES: threads / tile.rows,
    OUT_ROWS: outRows,
    TO: Math.ceil(tile.rows / outRows),
    TK: Math.ceil(tile.keys / outRows),
  };
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
  /** No limit, but compilers do not know it: keeps loops rolled where that pays. */
  limit: 'u32',
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
    0xffffffff,
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

function build(kernel: Kernel, tile: Tile, dim: number, masked: boolean, counted: boolean): Shader {
  const key = `attention.${kernel.name}.${dim}.${tile.rows}.${tile.keys}.${masked}.${counted}`;
  return shader(key, () => {
    const vectors = dim % 4 === 0;
    const type = vectors ? 'vec4<f32>' : 'f32';
    const bind = (names: readonly string[]) => Object.fromEntries(names.map((name) => [`${name}s`, type]));
    return {
      reads: {
        ...bind(kernel.loads),
        ...kernel.reads,
        ...(masked && { mask: 'u32' }),
        ...(counted && { count: 'u32' }),
      },
      writes: { ...bind(kernel.stores), ...kernel.writes },
      params: PARAMS,
      constants: { ...constants(tile, dim), ...kernel.constants },
      code: [
        FLAT_INDEX,
        ...kernel.loads.map((name) => loader(name, vectors)),
        ...kernel.stores.map((name) => storer(name, vectors)),
        `fn upto(n: u32) -> u32 { return ${tile.rowGroups === tile.rows ? 'min(n, params.limit)' : 'n'}; }`,
        `fn key_count() -> u32 { return ${counted ? 'min(count[0], params.keys)' : 'params.keys'}; }`,
        masked
          ? 'fn key_open(b: u32, key: u32) -> bool { return key < params.keys && mask[b * params.keys + key] != 0u; }'
          : 'fn key_open(b: u32, key: u32) -> bool { return true; }',
        commonCode,
        kernel.code,
      ].join('\n'),
    };
  });
}

const FORWARD: Kernel = {
  name: 'forward',
  loads: ['q', 'k', 'v'],
  stores: ['o'],
  writes: { lse: 'f32' },
  code: forwardCode,
};

const DELTA: Kernel = {
  name: 'delta',
  loads: ['o', 'do'],
  stores: [],
  reads: { lse: 'f32' },
  writes: { stats: 'vec2<f32>' },
  code: deltaCode,
};

const ROWS: Kernel = {
  name: 'rows',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dq'],
  reads: { stats: 'vec2<f32>' },
  code: `fn store_dk(at: u32, d: u32, value: vec4<f32>) {}
fn store_dv(at: u32, d: u32, value: vec4<f32>) {}
${rowsCode}`,
  constants: { FUSED: 0 },
};

const FUSED: Kernel = {
  name: 'fused',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dq', 'dk', 'dv'],
  reads: { stats: 'vec2<f32>' },
  code: rowsCode,
  constants: { FUSED: 1 },
};

const KEYS: Kernel = {
  name: 'keys',
  loads: ['q', 'k', 'v', 'do'],
  stores: ['dk', 'dv'],
  reads: { stats: 'vec2<f32>' },
  code: keysCode,
};

/** o and lse from q, k, v and what optional inputs there are. */
export function forwardLaunches(
  s: AttentionSizes,
  attrs: AttentionAttrs,
  inputs: readonly GpuArg[],
  outputs: readonly GpuArg[],
  caps: GpuCaps,
): Launch[] {
  const tile = tileFor('forward', s.dim, caps);
  const rows = (s.heads / s.kvHeads) * s.length;
  const tiles = Math.ceil(rows / tile.rows);
  return [
    {
      shader: build(FORWARD, tile, s.dim, attrs.masked, attrs.counted),
      args: [...inputs, ...outputs],
      params: params(s, attrs, tiles),
      grid: grid1d(tiles * s.batch * s.kvHeads, 1),
    },
  ];
}

/** What the backward reads and writes; `mask` is there when the attention had one. */
export interface BackwardArgs {
  readonly q: GpuArg;
  readonly k: GpuArg;
  readonly v: GpuArg;
  readonly o: GpuArg;
  readonly lse: GpuArg;
  readonly grad: GpuArg;
  readonly mask?: GpuArg;
  readonly dq: GpuArg;
  /** Absent when neither is wanted. */
  readonly dk?: GpuArg;
  readonly dv?: GpuArg;
  readonly stats: GpuArg;
}

export function backwardLaunches(s: AttentionSizes, attrs: AttentionAttrs, a: BackwardArgs, caps: GpuCaps): Launch[] {
  const tile = tileFor('backward', s.dim, caps);
  const problems = s.batch * s.kvHeads;
  const rows = (s.heads / s.kvHeads) * s.length;
  const mask = a.mask ? [a.mask] : [];
  const reads = [a.q, a.k, a.v, a.grad, a.stats, ...mask];
  const launch = (kernel: Kernel, args: readonly GpuArg[], tiles: number, groups: number): Launch => ({
    shader: build(kernel, tile, s.dim, attrs.masked && kernel !== DELTA, false),
    args,
    params: params(s, attrs, tiles),
    grid: grid1d(groups, 1),
  });
  const launches = [launch(DELTA, [a.o, a.grad, a.lse, a.stats], 1, Math.ceil((problems * rows) / 32))];
  const rowTiles = Math.ceil(rows / tile.rows);
  if (a.dk && a.dv && rowTiles === 1 && reads.length + 3 <= caps.maxStorageBuffers) {
    launches.push(launch(FUSED, [...reads, a.dq, a.dk, a.dv], 1, problems));
    return launches;
  }
  launches.push(launch(ROWS, [...reads, a.dq], rowTiles, rowTiles * problems));
  if (a.dk && a.dv) {
    const keyTiles = Math.ceil(s.keys / tile.keys);
    launches.push(launch(KEYS, [...reads, a.dk, a.dv], keyTiles, keyTiles * problems));
  }
  return launches;
}
