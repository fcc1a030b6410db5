import { accessor } from '../../engine/access.ts';
import type { Binding, GpuCaps, GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import { DeviceError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { NOTHING } from '../common/exp-sum.ts';
import commonCode from './common.wgsl';
import deltaCode from './delta.wgsl';
import directForwardCode from './direct-forward.wgsl';
import directKeysCode from './direct-keys.wgsl';
import directRowsCode from './direct-rows.wgsl';
import forwardCode from './forward.wgsl';
import keysCode from './keys.wgsl';
import mergeCode from './merge.wgsl';
import rowsCode from './rows.wgsl';
import { type AttentionAttrs, type AttentionInputs, type AttentionSizes, attentionSizes, countStep } from './shape.ts';
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

function tileFor(kind: 'forward' | 'backward', dim: number, caps: GpuCaps): Tile {
  const g = geometry(dim);
  const tiles = kind === 'forward' ? TILES : BACKWARD_TILES;
  const tile = tiles.find((candidate) => bytes(kind, candidate, g) <= caps.maxWorkgroupMemory);
  if (tile) return tile;
  const need = bytes(kind, TILES[TILES.length - 1], g);
  throw new DeviceError(
    `attention: heads of ${dim} need ${need} bytes of workgroup memory, the adapter has ${caps.maxWorkgroupMemory}`,
  );
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

/** How a kernel is cut: its part of the shader's key, and its constants. */
interface Cut {
  readonly key: string;
  readonly constants: Readonly<Record<string, number>>;
  /** Rewrites loops over the head. */
  readonly loops?: (code: string) => string;
}

function tileCut(tile: Tile, dim: number): Cut {
  return { key: `${tile.rows}.${tile.keys}`, constants: tileConstants(tile, dim) };
}

/** Threads that keep a GPU busy; with fewer rows, several threads share one. */
const ENOUGH_THREADS = 65536;

/**
 * A cut for the kernels without tiles: `items` rows (or keys) that each walk over `others`. Loops over the head are
 * written out, so that rows stay in registers; but for drivers on the CPU they are bounded by a number that the compiler
 * does not know, which keeps it from unrolling them.
 */
function directCut(items: number, others: number, dim: number, caps: GpuCaps) {
  const vectors = Math.ceil(dim / 4);
  const threads = 64 * (vectors * 16 + 8) <= caps.maxWorkgroupMemory ? 64 : 32;
  let split = 1;
  while (!caps.software && split < threads && items * split < ENOUGH_THREADS && others >= split * 8) split *= 2;
  const sizes = { DV: vectors, BLOCK: caps.software ? 1 : 4 };
  const loops = (code: string) =>
    caps.software ? code.replaceAll('d < DV;', 'd < (params.dim + 3u) / 4u;') : unroll(code, sizes);
  const constants = { ...sizes, DIRECT: threads, SPLIT: split, MERGED: split === 1 ? 1 : threads };
  return { key: `${threads}.${split}.${caps.software}`, constants, loops, threads, split };
}

/** Reads vec4 d of the row at an offset; heads that are no multiple of 4 are read one by one and padded with zeros. */
function loader(name: string, vectors: boolean): string {
  if (vectors) return `fn load_${name}(at: u32, d: u32) -> vec4<f32> { return load_${name}s(at / 4u + d); }`;
  return `fn load_${name}(at: u32, d: u32) -> vec4<f32> {
  var value = vec4<f32>();
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { value[c] = load_${name}s(at + 4u * d + c); }
  return value;
}`;
}

function storer(name: string, vectors: boolean): string {
  if (vectors) return `fn store_${name}(at: u32, d: u32, value: vec4<f32>) { store_${name}s(at / 4u + d, value); }`;
  return `fn store_${name}(at: u32, d: u32, value: vec4<f32>) {
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { store_${name}s(at + 4u * d + c, value[c]); }
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
  count_step: 'u32',
  scale: 'f32',
} as const;

interface Kernel {
  readonly name: string;
  /** Bindings in order: what `PLAIN` names, and tensors of heads, which `load_NAME` and `store_NAME` access. */
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly code: string;
  readonly constants?: Readonly<Record<string, number>>;
}

/** Bindings other than tensors of heads. */
const PLAIN: Readonly<Record<string, string>> = {
  stats: 'vec2<f32>',
  row_stats: 'vec4<f32>',
  parts: 'vec4<f32>',
  part_stats: 'vec2<f32>',
  mask: 'u32',
  count: 'i32',
};

/** An attention to be launched: what kernels are chosen by, and the operands that there are, by the bindings' names. */
interface Task {
  readonly s: AttentionSizes;
  readonly attrs: AttentionAttrs;
  readonly device: GpuPlanner;
  /** Query rows of a problem, which is one key head of one row of the batch, and problems. */
  readonly rows: number;
  readonly problems: number;
  readonly slots: Readonly<Record<string, Slot | undefined>>;
}

function taskOf(inputs: AttentionInputs<Slot>, attrs: AttentionAttrs, device: GpuPlanner, slots: Task['slots']): Task {
  const s = attentionSizes(inputs, attrs.layout);
  const { mask, keyCount: count } = inputs;
  const [rows, problems] = [(s.heads / s.kvHeads) * s.length, s.batch * s.kvHeads];
  return { s, attrs, device, rows, problems, slots: { ...inputs, mask, count, ...slots } };
}

function launch(kernel: Kernel, cut: Cut, task: Task, grid: Launch['grid'], tiles = 1): Launch {
  const { s, attrs, device, slots } = task;
  const vectors = s.dim % 4 === 0;
  const { mask, count } = slots;
  const reads = [...kernel.reads, ...(mask ? ['mask'] : []), ...(count ? ['count'] : [])];
  const slotOf = (name: string) => slots[name]!;
  const bind = (names: readonly string[]): Record<string, Binding> =>
    Object.fromEntries(
      names.map((name) =>
        name in PLAIN ? [name, PLAIN[name]] : [`${name}s`, accessor(accessOf(slotOf(name).dtype, device.caps), vectors)],
      ),
    );
  const heads = (names: readonly string[]) => names.filter((name) => !(name in PLAIN));
  const formats = heads(reads).map((name) => accessOf(slotOf(name).dtype, device.caps).key);
  const key = `attention.${kernel.name}.${s.dim}.${cut.key}.${!!mask}.${!!count}.${formats.join('.')}`;
  const made = shader(key, () => ({
    reads: bind(reads),
    writes: bind(kernel.writes),
    params: PARAMS,
    constants: { ...cut.constants, ...kernel.constants },
    code: [
      FLAT_INDEX,
      NOTHING,
      ...heads(kernel.reads).map((name) => loader(name, vectors)),
      ...heads(kernel.writes).map((name) => storer(name, vectors)),
      `fn key_count(b: u32) -> u32 { return ${
        count ? 'u32(clamp(count[b * params.count_step], 0, i32(params.keys)))' : 'params.keys'
      }; }`,
      mask
        ? 'fn key_open(b: u32, key: u32) -> bool { return key < params.keys && mask[b * params.keys + key] != 0u; }'
        : 'fn key_open(b: u32, key: u32) -> bool { return true; }',
      commonCode,
      cut.loops?.(kernel.code) ?? kernel.code,
    ].join('\n'),
  }));
  const sizes = [tiles, task.problems, s.kvHeads, s.heads / s.kvHeads, s.length, s.keys, s.dim, attrs.causal ? 1 : 0];
  const params = [...sizes, s.qHead, s.qToken, s.kHead, s.kToken, countStep(count), attrs.scale];
  return { shader: made, args: [...reads, ...kernel.writes].map(slotOf), params, grid };
}

const FORWARD: Kernel = { name: 'forward', reads: ['q', 'k', 'v'], writes: ['o', 'stats'], code: forwardCode };

const DIRECT_FORWARD: Kernel = {
  ...FORWARD,
  name: 'direct_forward',
  constants: { PARTS: 1 },
  code: `fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { store_o(at, d, value * inverse(sum)); }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { stats[row] = stats_of(top, sum); }
${directForwardCode}`,
};

const partsForward = (parts: number): Kernel => ({
  name: `parts_forward.${parts}`,
  reads: FORWARD.reads,
  writes: ['parts', 'part_stats'],
  constants: { PARTS: parts },
  code: `fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { parts[share * DV + d] = value; }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { part_stats[share] = vec2<f32>(top, sum); }
${directForwardCode}`,
});

const merge = (parts: number): Kernel => ({
  name: `merge.${parts}`,
  reads: ['parts', 'part_stats'],
  writes: FORWARD.writes,
  constants: { PARTS: parts },
  code: mergeCode,
});

const DELTA: Kernel = { name: 'delta', reads: ['o', 'do', 'stats'], writes: ['row_stats'], code: deltaCode };

const BACKWARD_READS = ['q', 'k', 'v', 'do', 'row_stats'];

const ROWS: Kernel = {
  name: 'rows',
  reads: BACKWARD_READS,
  writes: ['dq'],
  code: `fn store_dk(at: u32, d: u32, value: vec4<f32>) {}
fn store_dv(at: u32, d: u32, value: vec4<f32>) {}
${rowsCode}`,
  constants: { FUSED: 0 },
};

const FUSED: Kernel = {
  name: 'fused',
  reads: BACKWARD_READS,
  writes: ['dq', 'dk', 'dv'],
  code: rowsCode,
  constants: { FUSED: 1 },
};

const KEYS: Kernel = { name: 'keys', reads: BACKWARD_READS, writes: ['dk', 'dv'], code: keysCode };
const DIRECT_ROWS: Kernel = { name: 'direct_rows', reads: BACKWARD_READS, writes: ['dq'], code: directRowsCode };
const DIRECT_KEYS: Kernel = { name: 'direct_keys', reads: BACKWARD_READS, writes: ['dk', 'dv'], code: directKeysCode };

/** A way to run a task; of a table, the first whose `when` holds is taken. */
interface Variant {
  readonly name: string;
  when(task: Task): boolean;
  launches(task: Task): Launch[];
}

/** Few rows, whose keys are walked at the same time by threads that hold a row in registers. */
const FEW_ROWS = 8;
/** Heads that registers hold. */
const SMALL_DIM = 96;
/** Keys that are worth a workgroup of their own. */
const PART_KEYS = 64;

function partsOf({ s, rows, problems, device }: Task): number {
  const { split } = directCut(rows * problems, s.keys, s.dim, device.caps);
  let parts = 1;
  while (rows * problems * split * parts < ENOUGH_THREADS && s.keys >= 2 * parts * PART_KEYS) parts *= 2;
  return parts;
}

const FORWARD_VARIANTS: readonly Variant[] = [
  {
    name: 'nothing: heads of size 0 make an empty o, which no statistics are needed for',
    when: ({ s }) => s.dim === 0,
    launches: () => [],
  },
  {
    name: 'parts: a long row of keys is shared out among workgroups, and what they make of it merged',
    when: (task) => task.rows <= FEW_ROWS && task.s.dim <= SMALL_DIM && task.s.keys >= 4 * PART_KEYS && partsOf(task) > 1,
    launches(task) {
      const { s, rows, problems, device } = task;
      const cut = directCut(rows * problems, s.keys, s.dim, device.caps);
      const count = partsOf(task);
      const parts = device.scratch([rows * problems * count, cut.constants.DV * 4]);
      const part_stats = device.scratch([rows * problems * count, 2]);
      const shared = { ...task, slots: { ...task.slots, parts, part_stats } };
      const merged = { ...shared, slots: { ...shared.slots, mask: undefined, count: undefined } };
      return [
        launch(partsForward(count), cut, shared, grid1d(rows * problems * count * cut.split, cut.threads)),
        launch(merge(count), cut, merged, grid1d(rows * problems * cut.constants.DV, 64)),
      ];
    },
  },
  {
    name: 'direct: no tiles, for few rows, and for drivers on the CPU',
    when: ({ s, rows, device }) => device.caps.software || (rows <= FEW_ROWS && s.dim <= SMALL_DIM),
    launches: (task) => [direct(DIRECT_FORWARD, task, task.rows, task.s.keys)],
  },
  {
    name: 'tiled',
    when: () => true,
    launches: (task) => {
      const tile = tileFor('forward', task.s.dim, task.device.caps);
      return [tiled(FORWARD, tile, task, Math.ceil(task.rows / tile.rows))];
    },
  },
];

/** `items` of a problem, rows or keys, that each walk over `others`. */
function direct(kernel: Kernel, task: Task, items: number, others: number): Launch {
  const cut = directCut(items * task.problems, others, task.s.dim, task.device.caps);
  return launch(kernel, cut, task, grid1d(items * task.problems * cut.split, cut.threads));
}

function tiled(kernel: Kernel, tile: Tile, task: Task, tiles: number): Launch {
  return launch(kernel, tileCut(tile, task.s.dim), task, grid1d(tiles * task.problems, 1), tiles);
}

const first = (variants: readonly Variant[], task: Task) => variants.find(({ when }) => when(task))!.launches(task);

/** o and its statistics. */
export function forwardLaunches(
  inputs: AttentionInputs<Slot>,
  outputs: { readonly o: Slot; readonly stats: Slot },
  attrs: AttentionAttrs,
  device: GpuPlanner,
): Launch[] {
  return first(FORWARD_VARIANTS, taskOf(inputs, attrs, device, { ...outputs }));
}

const BACKWARD_VARIANTS: readonly Variant[] = [
  {
    name: 'direct: for drivers on the CPU',
    when: ({ device }) => device.caps.software,
    launches: (task) => [
      direct(DIRECT_ROWS, task, task.rows, task.s.keys),
      ...(task.slots.dk ? [direct(DIRECT_KEYS, task, task.s.keys, task.rows)] : []),
    ],
  },
  {
    name: 'fused: one tile holds all rows',
    when(task) {
      const { s, rows, device, slots } = task;
      const bindings = FUSED.reads.length + FUSED.writes.length + (slots.mask ? 1 : 0);
      return !!slots.dk && rows <= tileFor('backward', s.dim, device.caps).rows && bindings <= device.caps.maxStorageBuffers;
    },
    launches: (task) => [tiled(FUSED, tileFor('backward', task.s.dim, task.device.caps), task, 1)],
  },
  {
    name: 'tiled',
    when: () => true,
    launches(task) {
      const tile = tileFor('backward', task.s.dim, task.device.caps);
      return [
        tiled(ROWS, tile, task, Math.ceil(task.rows / tile.rows)),
        ...(task.slots.dk ? [tiled(KEYS, tile, task, Math.ceil(task.s.keys / tile.keys))] : []),
      ];
    },
  },
];

/** The gradients that are wanted. */
export function backwardLaunches(
  inputs: AttentionInputs<Slot> & { readonly o: Slot; readonly stats: Slot; readonly grad: Slot },
  { dq, dk, dv }: { readonly dq?: Slot; readonly dk?: Slot; readonly dv?: Slot },
  attrs: AttentionAttrs,
  device: GpuPlanner,
): Launch[] {
  const { q, k, v, o, stats, grad } = inputs;
  const keyed = dk !== undefined || dv !== undefined;
  const task = taskOf(inputs, attrs, device, {
    ...{ o, stats, do: grad, dq: dq ?? device.scratch(q.shape) },
    dk: keyed ? (dk ?? device.scratch(k.shape)) : undefined,
    dv: keyed ? (dv ?? device.scratch(v.shape)) : undefined,
    // Room for the statistics and Σ do ∘ o of each row.
    row_stats: device.scratch([...stats.shape.slice(0, -1), 4]),
  });
  const tile = tileFor('backward', task.s.dim, device.caps);
  const unmasked = { ...task, slots: { ...task.slots, mask: undefined } };
  const grid = grid1d(Math.ceil((task.problems * task.rows) / 32), 1);
  return [launch(DELTA, tileCut(tile, task.s.dim), unmasked, grid), ...first(BACKWARD_VARIANTS, task)];
}
