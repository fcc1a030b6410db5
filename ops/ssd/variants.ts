import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchFill } from '../elementwise/fill.ts';
import { type Cut, discretise, gradLaunches, odd, pass, type Task, walk } from './kernels.ts';
import { type SsdAttrs, type SsdGrads, type SsdInputs, type SsdSizes, ssdSizes } from './shape.ts';

/** With so many workgroups there is enough to do without cutting sequences into chunks. */
const ENOUGH_WORKGROUPS = 256;

interface Question {
  readonly kind: 'walk' | 'backward';
  readonly s: SsdSizes;
  readonly chunkSize: number;
  readonly caps: GpuPlanner['caps'];
}

/** A way to cut a scan, and so the kernels that take it; the first whose `when` holds is taken. */
interface Variant {
  readonly name: string;
  when(question: Question): boolean;
  cut(question: Question): Cut;
}

const VARIANTS: readonly Variant[] = [
  {
    name: 'one token at a time: on drivers on the CPU, which take half a minute to compile the tiled kernels',
    when: ({ caps }) => caps.software,
    cut: ({ s }) => byToken(s, 1),
  },
  {
    name: 'a single token',
    when: ({ kind, s }) => kind === 'walk' && s.length === 1,
    cut: ({ s }) => byToken(s, 8),
  },
  { name: 'tiled', when: () => true, cut: tiled },
];

function byToken(s: SsdSizes, lanes: number): Cut {
  return { steps: 1, pBlock: 1, blocks: s.p, threads: 64, chunk: s.length, chunks: 1, tiles: s.length, lanes };
}

/** Tokens of a tile and rows of a block at most, best first. */
const TILES = [[16, 32], [16, 16], [8, 32], [8, 16], [16, 8], [8, 8], [4, 8], [4, 4]] as const;

function tiled({ kind, s, chunkSize, caps }: Question): Cut {
  const bytes = ([steps, rows]: (typeof TILES)[number]) => workgroupBytes(kind, steps, evenBlock(s.p, rows), s.n);
  const tile = TILES.find((candidate) => bytes(candidate) <= caps.maxWorkgroupMemory);
  if (!tile) {
    const need = `needs ${workgroupBytes(kind, 4, 4, s.n)} bytes of workgroup memory`;
    throw new DeviceError(`ssd_scan: N ${s.n} ${need}, the adapter has ${caps.maxWorkgroupMemory}`);
  }
  const [steps, rows] = tile;
  const pBlock = evenBlock(s.p, rows);
  const blocks = Math.ceil(s.p / pBlock);
  const items = (steps / 2) * Math.max(pBlock / 4, Math.ceil(s.n / 4), steps / 2);
  const threads = kind === 'walk' || items > 64 ? 128 : 64;
  const whole = s.batch * s.heads * blocks >= ENOUGH_WORKGROUPS;
  const tiles = Math.ceil(Math.min(whole ? s.length : chunkSize, s.length) / steps);
  const chunk = tiles * steps;
  return { steps, pBlock, blocks, threads, chunk, chunks: Math.ceil(s.length / chunk), tiles, lanes: 0 };
}

function workgroupBytes(kind: Question['kind'], steps: number, pBlock: number, n: number): number {
  const nRow = 4 * odd(Math.ceil(n / 4));
  const pRow = 4 * odd(pBlock / 4);
  const tiles = (pBlock + 2 * steps) * nRow + steps * pRow + steps * (steps + 1);
  if (kind === 'walk') return 4 * (tiles + 3 * steps);
  const more = pBlock * nRow + steps * pRow + steps * (steps + 1) + (steps + 1) ** 2;
  return 4 * (tiles + more + steps * (nRow / 4 + pRow / 4 + 9) + 256);
}

/** The rows of a block, a multiple of 4, when p rows go into as few blocks of at most `rows` as can be. */
function evenBlock(p: number, rows: number): number {
  const blocks = Math.ceil(p / rows);
  return 4 * Math.ceil(p / blocks / 4);
}

/** The task, and the steps of its tokens with what makes them. */
function prepare(kind: Question['kind'], inputs: SsdInputs<Slot>, { chunkSize }: SsdAttrs, device: GpuPlanner) {
  const s = ssdSizes(inputs);
  const question = { kind, s, chunkSize, caps: device.caps };
  const task: Task = { inputs, s, device, cut: VARIANTS.find(({ when }) => when(question))!.cut(question) };
  const steps = device.scratch([inputs.dt.size, 4]);
  return { task, steps, first: discretise(inputs, { row: s.heads, from: 0, share: 1 }, steps, device) };
}

/** Room for one state a chunk, and for the chunks' decays. */
function chunkScratch({ s, cut, device }: Task) {
  const chunks = [s.batch, s.heads, cut.chunks];
  return { states: device.scratch([...chunks, s.p, s.n]), decays: device.scratch(chunks) };
}

/** y and the final state. */
export function scanLaunches(
  inputs: SsdInputs<Slot>,
  { y, final }: { readonly y: Slot; readonly final: Slot },
  attrs: SsdAttrs,
  device: GpuPlanner,
): Launch[] {
  const { x: xs, B: bs, C: cs, initialState } = inputs;
  const { task, steps, first } = prepare('walk', inputs, attrs, device);
  const whole = { xs, steps, bs, cs, ys: y };
  if (task.cut.chunks === 1) return [first, walk(task, { ...whole, starts: initialState, ends: final })];
  const { states, decays } = chunkScratch(task);
  return [
    first,
    walk(task, { xs, steps, bs, ends: states, decays }),
    pass(task, states, decays, { first: initialState, last: final, reverse: false }),
    walk(task, { ...whole, starts: states }),
  ];
}

/** The gradients that are there, for those of y and of the final state, of which one may be absent. */
export function scanBackwardLaunches(
  { dy, dfinal, ...inputs }: SsdInputs<Slot> & { readonly dy?: Slot; readonly dfinal?: Slot },
  grads: SsdGrads<Slot>,
  attrs: SsdAttrs,
  device: GpuPlanner,
): Launch[] {
  const { x: xs, B: bs, C: cs, initialState } = inputs;
  const { task, steps, first } = prepare('backward', inputs, attrs, device);
  const { s, cut } = task;
  const launches = [first];
  let [states, ends, wanted] = [initialState, dfinal, grads];
  if (cut.chunks > 1) {
    const { states: starts, decays } = chunkScratch(task);
    const ended = device.scratch(starts.shape);
    launches.push(
      walk(task, { xs, steps, bs, ends: starts, decays }),
      pass(task, starts, decays, { first: initialState, reverse: false }),
      dy ? walk(task, { xs: dy, steps, bs: cs, ends: ended }, true) : launchFill(ended, 0),
      pass(task, ended, decays, { first: dfinal, last: grads.dinitialState, reverse: true }),
    );
    [states, ends, wanted] = [starts, ended, { ...grads, dinitialState: undefined }];
  }
  if (cut.tiles > 1) {
    const tiles = device.scratch([s.batch, s.heads, cut.chunks, cut.tiles, s.p, s.n]);
    launches.push(walk(task, { xs, steps, bs, starts: states, tiles }));
    states = tiles;
  }
  launches.push(...gradLaunches(task, wanted, { steps, dys: dy, states, ends }));
  return launches;
}
