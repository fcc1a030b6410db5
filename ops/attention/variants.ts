import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import type { Named } from '../../engine/op.ts';
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

function tileFor(kind: 'forward' | 'backward', { s: { dim }, device }: Task): Tile {
  const { maxWorkgroupMemory } = device.caps;
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
      const tile = tileFor('forward', task);
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
  if (PARTS === 1) return [launch(kernel, cut, task, rows * PARTS)];
  const sums = { parts: device.scratch([rows * PARTS, DV * 4]), part_stats: device.scratch([rows * PARTS, 2]) };
  const shared = { ...task, slots: { ...slots, ...sums } };
  const partly = { ...task, slots: { ...slots, ...sums, o: undefined, stats: undefined } };
  const merged = Math.ceil((rows * DV) / DECODE_CUT.THREADS);
  return [launch(kernel, cut, partly, rows * PARTS), launch(MERGE, cut, shared, merged)];
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

/** A thread for each of the `items` of a problem: for drivers on the CPU, which compile tiles for minutes. */
function direct(kernel: Kernel, task: Task, items: number): Launch {
  const cut = { DV: Math.ceil(task.s.dim / 4), THREADS: 64 };
  return launch(kernel, cut, task, Math.ceil((items * task.problems) / cut.THREADS));
}

function tiled(kernel: Kernel, tile: Tile, task: Task, tiles: number): Launch {
  return launch(kernel, tileCut(tile, task.s.dim), task, tiles * task.problems, tiles);
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

/** The gradient of q by query rows, and those of k and v by keys, where they are wanted. */
function apart(task: Task, byRows: (task: Task) => Launch, byKeys: (task: Task) => Launch): Launch[] {
  const { dq, dk, dv, ...others } = task.slots;
  return [
    ...(dq ? [byRows({ ...task, slots: { ...others, dq } })] : []),
    ...(dk || dv ? [byKeys({ ...task, slots: { ...others, dk, dv } })] : []),
  ];
}

const BACKWARD_VARIANTS: readonly Variant[] = [
  {
    name: 'direct: for drivers on the CPU',
    when: ({ device }) => device.caps.software,
    launches: (task) =>
      apart(task, (one) => direct(DIRECT_BACKWARD, one, one.rows), (one) => direct(DIRECT_BACKWARD, one, one.s.keys)),
  },
  {
    name: 'fused: one tile holds all rows',
    when(task) {
      const { rows, device, slots } = task;
      const bindings = [...ROWS.reads, ...ROWS.writes].filter((name) => slots[name]).length;
      return bindings <= device.caps.maxStorageBuffers && rows <= tileFor('backward', task).rows;
    },
    launches: (task) => [tiled(ROWS, tileFor('backward', task), task, 1)],
  },
  {
    name: 'tiled',
    when: () => true,
    launches(task) {
      const tile = tileFor('backward', task);
      return apart(
        task,
        (one) => tiled(ROWS, tile, one, Math.ceil(one.rows / tile.rows)),
        (one) => tiled(KEYS, tile, one, Math.ceil(one.s.keys / tile.keys)),
      );
    },
  },
];

/** The gradients that are wanted. */
export function backwardLaunches(
  inputs: AttentionInputs<Slot> & { readonly o: Slot; readonly stats: Slot; readonly grad: Slot },
  grads: Named<'dq?' | 'dk?' | 'dv?', Slot>,
  attrs: AttentionAttrs,
  device: GpuPlanner,
): Launch[] {
  // Room for the statistics and Σ do ∘ o of each row.
  const row_stats = device.scratch([...inputs.stats.shape.slice(0, -1), 4]);
  const task = taskOf(inputs, attrs, device, { ...grads, do: inputs.grad, row_stats });
  return [direct(DELTA, task, 8 * task.rows), ...first(BACKWARD_VARIANTS, task)];
}
