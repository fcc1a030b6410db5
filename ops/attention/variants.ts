import { type GpuCaps, type GpuPlanner, grid1d, type Launch } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { DECODE, DELTA, DIRECT, DIRECT_BACKWARD, FORWARD, type Kernel, KEYS, launch, MERGE, ROWS } from './kernels.ts';
import { stepKernel, type Task, taskOf } from './kernels.ts';
import { attending, type AttentionAttrs, type AttentionInputs, type StepAttrs } from './shape.ts';

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

/** vec4 from one row to the next in shared memory: odd. */
const strideOf = (dim: number) => Math.ceil(dim / 4) | 1;

/** Bytes of shared memory: forward keeps q, one of k and v, and scores; backward q, do, k, v, p and ds. */
function bytes(kind: 'forward' | 'backward', { rows, keys }: Tile, dim: number): number {
  const copies = kind === 'forward' ? 1 : 2;
  return 4 * (copies * ((rows + keys) * strideOf(dim) * 4 + rows * (keys + 4)) + 8 * rows + 128);
}

function tileFor(kind: 'forward' | 'backward', dim: number, { maxWorkgroupMemory }: GpuCaps): Tile {
  const tiles = kind === 'forward' ? TILES : BACKWARD_TILES;
  const tile = tiles.find((candidate) => bytes(kind, candidate, dim) <= maxWorkgroupMemory);
  if (tile) return tile;
  const need = bytes(kind, TILES[TILES.length - 1], dim);
  throw new DeviceError(
    `attention: heads of ${dim} need ${need} bytes of workgroup memory, the adapter has ${maxWorkgroupMemory}`,
  );
}

/** The constants of a tiled kernel. */
function tileCut({ rows, keys, rowGroups, columnGroups }: Tile, dim: number): Record<string, number> {
  const [threads, vectors] = [rowGroups * columnGroups, Math.ceil(dim / 4)];
  const outRows = Math.floor(threads / vectors);
  const [TR, TC] = [rows / rowGroups, keys / columnGroups];
  const sizes = { ROWS: rows, KEYS: keys, THREADS: threads, ROW_GROUPS: rowGroups, COLUMN_GROUPS: columnGroups };
  const shares = { TR, TC, SCORES: TR * TC, LANES: threads / rows, OUT_ROWS: outRows };
  const outs = { TO: Math.ceil(rows / outRows), TK: Math.ceil(keys / outRows) };
  return { ...sizes, ...shares, ...outs, DV: vectors, STRIDE: strideOf(dim), PITCH: keys + 4 };
}

/** Keys at a time, threads that share one, and threads of a workgroup. */
const DECODE_CUT = { CHUNK: 64, LANES: 8, THREADS: 128 };
/** Query rows that are better taken one by one, by `decode`. */
const FEW_ROWS = 8;
/** Workgroups that keep a GPU busy; where there are fewer, several share the keys of a row, each at least so many. */
const ENOUGH_WORKGROUPS = 512;
const PART_KEYS = 128;

/** A way to run a task; of a table, the first whose `when` holds is taken. */
interface Variant {
  readonly name: string;
  when(task: Task): boolean;
  launches(task: Task): Launch[];
}

const FORWARD_VARIANTS: readonly Variant[] = [
  {
    name: 'nothing: heads of size 0 make an empty o, which no statistics are needed for',
    when: ({ s }) => s.dim === 0,
    launches: () => [],
  },
  {
    name: 'decode: few rows, each by workgroups of its own',
    when: ({ s, rows, device }) => rows <= FEW_ROWS && (!device.caps.software || s.keys >= 2 * PART_KEYS),
    launches: (task) => decode(DECODE, task),
  },
  {
    name: 'direct: for drivers on the CPU',
    when: ({ device }) => device.caps.software,
    launches: (task) => [direct(DIRECT, task, task.rows)],
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

/** Of a task with few rows, each a workgroup, or as many as keep a GPU busy. */
function decode(kernel: Kernel, task: Task): Launch[] {
  const { s, device, slots } = task;
  const rows = task.rows * task.problems;
  let PARTS = 1;
  while (rows * PARTS < ENOUGH_WORKGROUPS && s.keys > 2 * PARTS * PART_KEYS) PARTS *= 2;
  const DV = Math.ceil(s.dim / 4);
  const cut = { ...DECODE_CUT, DV, PARTS };
  const grid = grid1d(rows * PARTS, 1);
  if (PARTS === 1) return [launch(kernel, cut, task, grid)];
  const sums = { parts: device.scratch([rows * PARTS, DV * 4]), part_stats: device.scratch([rows * PARTS, 2]) };
  const shared = { ...task, slots: { ...slots, ...sums } };
  const partly = { ...task, slots: { ...slots, ...sums, o: undefined, stats: undefined } };
  return [launch(kernel, cut, partly, grid), launch(MERGE, cut, shared, grid1d(rows * DV, DECODE_CUT.THREADS))];
}

/** `attentionStep_`. */
export function stepLaunches(
  { q, k, v, keys, values, first }: Readonly<Record<'q' | 'k' | 'v' | 'keys' | 'values' | 'first', Slot>>,
  { o }: { readonly o: Slot },
  attrs: StepAttrs,
  device: GpuPlanner,
): Launch[] {
  const task = taskOf({ q, k: keys, v: values }, attending(attrs), device, { k, v, keys, values, first, o });
  return decode(stepKernel(attrs), task);
}

/** A thread for each of the `items` of a problem, rows or keys: drivers on the CPU compile tiles for minutes. */
function direct(kernel: Kernel, task: Task, items: number): Launch {
  const cut = { DV: Math.ceil(task.s.dim / 4), THREADS: 64 };
  return launch(kernel, cut, task, grid1d(items * task.problems, cut.THREADS));
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

/** The task of the gradient of q alone, and of those of k and v alone. */
const ofRows = (task: Task): Task => ({ ...task, slots: { ...task.slots, dk: undefined, dv: undefined } });
const ofKeys = (task: Task): Task => ({ ...task, slots: { ...task.slots, dq: undefined } });

const BACKWARD_VARIANTS: readonly Variant[] = [
  {
    name: 'direct: for drivers on the CPU',
    when: ({ device }) => device.caps.software,
    launches: (task) => [
      direct(DIRECT_BACKWARD, ofRows(task), task.rows),
      ...(task.slots.dk ? [direct(DIRECT_BACKWARD, ofKeys(task), task.s.keys)] : []),
    ],
  },
  {
    name: 'fused: one tile holds all rows',
    when(task) {
      const { s, rows, device, slots } = task;
      const bindings = [...ROWS.reads, ...ROWS.writes].filter((name) => slots[name]).length;
      if (!slots.dk || bindings > device.caps.maxStorageBuffers) return false;
      return rows <= tileFor('backward', s.dim, device.caps).rows;
    },
    launches: (task) => [tiled(ROWS, tileFor('backward', task.s.dim, task.device.caps), task, 1)],
  },
  {
    name: 'tiled',
    when: () => true,
    launches(task) {
      const tile = tileFor('backward', task.s.dim, task.device.caps);
      return [
        tiled(ROWS, tile, ofRows(task), Math.ceil(task.rows / tile.rows)),
        ...(task.slots.dk ? [tiled(KEYS, tile, ofKeys(task), Math.ceil(task.s.keys / tile.keys))] : []),
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
  const cut = { DV: Math.ceil(task.s.dim / 4), THREADS: 256 };
  const delta = launch(DELTA, cut, task, grid1d(task.problems * task.rows, cut.THREADS / 8));
  return [delta, ...first(BACKWARD_VARIANTS, task)];
}
