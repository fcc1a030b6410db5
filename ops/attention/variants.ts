import { type GpuCaps, type GpuPlanner, grid1d, type Launch } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { type Cut, DELTA, DIRECT_FORWARD, DIRECT_KEYS, DIRECT_ROWS, FORWARD, FUSED, type Kernel } from './kernels.ts';
import { KEYS, launch, mergedForward, partsForward, ROWS, type Task, taskOf } from './kernels.ts';
import type { AttentionAttrs, AttentionInputs } from './shape.ts';
import { unrollLoops } from './unroll-loops.ts';

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
    caps.software ? code.replaceAll('d < DV;', 'd < (params.dim + 3u) / 4u;') : unrollLoops(code, sizes);
  const constants = { ...sizes, DIRECT: threads, SPLIT: split, MERGED: split === 1 ? 1 : threads };
  return { key: `${threads}.${split}.${caps.software}`, constants, loops, threads, split };
}

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
      return [
        launch(partsForward(count), cut, shared, grid1d(rows * problems * count * cut.split, cut.threads)),
        launch(mergedForward(count), cut, shared, grid1d(rows * problems * cut.constants.DV, 64)),
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
      const bindings = [...FUSED.reads, ...FUSED.writes].filter((name) => slots[name]).length;
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
  const grid = grid1d(Math.ceil((task.problems * task.rows) / 32), 1);
  return [launch(DELTA, tileCut(tile, task.s.dim), task, grid), ...first(BACKWARD_VARIANTS, task)];
}
