import { FLAT_INDEX, type GpuPlanner, grid1d, type Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchElements, launchKernel } from '../common/launch-kernel.ts';
import { launchRows } from '../common/rows.ts';
import backwardCode from './backward.wgsl';
import commonCode from './common.wgsl';
import discretisedCode from './discretised.wgsl';
import rowsBackwardCode from './rows-backward.wgsl';
import rowsCode from './rows.wgsl';
import type { SsdGrads, SsdInputs, SsdSizes } from './shape.ts';
import walkCode from './walk.wgsl';

/** How a kernel cuts a head: tokens of a tile, rows of the state of a workgroup, and the chunks of the sequence. */
export interface Cut {
  readonly steps: number;
  readonly pBlock: number;
  readonly blocks: number;
  readonly threads: number;
  readonly chunk: number;
  readonly chunks: number;
  /** Tiles of a chunk. */
  readonly tiles: number;
  /** Threads a row in the kernels that take one token at a time; 0: the tiled kernels. */
  readonly lanes: number;
}

/** A scan to be launched. */
export interface Task {
  readonly inputs: SsdInputs<Slot>;
  readonly s: SsdSizes;
  readonly cut: Cut;
  readonly device: GpuPlanner;
}

/** Where an operand's values lie: elements between tokens, where they begin, and how many heads share what they read. */
export interface Layout {
  readonly row: number;
  readonly from: number;
  readonly share: number;
}

type Layouts = { readonly [K in 'x' | 'dt' | 'B' | 'C']: Layout };
type Params = Record<string, readonly ['u32', number]>;

/** Loops that stop at `upto` stay rolled, for drivers on the CPU, whose compilers unroll what they can. */
const upto = ({ caps }: GpuPlanner) =>
  `fn upto(n: u32) -> u32 { return ${caps.software ? 'min(n, params.limit)' : 'n'}; }\n`;
const NO_LIMIT = 0xffffffff;

/** Distance of rows in workgroup memory, in vec4: odd. */
export const odd = (vectors: number) => vectors | 1;

/** Launches that make (dt, A, D, slope) of every token and head. */
export function discretise(
  { dt, A_log, D, dt_bias }: Pick<SsdInputs<Slot>, 'dt' | 'A_log' | 'D' | 'dt_bias'>,
  { row, from }: Layout,
  steps: Slot,
  device: GpuPlanner,
): Launch {
  const kernel = {
    key: 'ssd discretise',
    reads: { dt, A_log, D, dt_bias },
    writes: { steps },
    wide: ['steps'],
    params: { heads: ['u32', A_log.size], dt_row: ['u32', row], dt_from: ['u32', from] },
    declarations: () => discretisedCode,
    body: () => 'store_steps(i, discretised_at(i / params.heads, i % params.heads));',
  } as const;
  return launchElements(steps.size / 4, kernel, device);
}

/** What the recurrence reads: `steps`, or else what they are made of. */
interface Recurrence extends Walked {
  readonly dt?: Slot;
  readonly A_log?: Slot;
  readonly D?: Slot;
  readonly dt_bias?: Slot;
}

/** One token after the other, `lanes` threads for each row of a state. What starts may be where the ends go: `ends`. */
export function recurrence(
  { x, b, c, steps, dt, A_log, D, dt_bias, start, y, end, tiles }: Recurrence,
  { batch, length, heads, p, n }: Omit<SsdSizes, 'groups'>,
  layouts: Layouts,
  lanes: number,
  device: GpuPlanner,
): Launch {
  const total = batch * heads * p;
  const sizes = { total, length, heads, p, n, limit: NO_LIMIT };
  const placed = Object.entries(layouts).flatMap(([name, layout]) =>
    Object.entries(layout).map(([what, value]) => [`${name}_${what}`, value] as const),
  );
  const inPlace = start !== undefined && start === end;
  const step = steps ? 'load_steps(token * params.heads + head)' : 'discretised_at(token, head)';
  const kernel = {
    key: `ssd recurrence ${n} ${lanes} ${device.caps.software} ${inPlace}`,
    reads: { xs: x, bs: b, cs: c, ...(steps ? { steps } : { dt, A_log, D, dt_bias }), ...(!inPlace && { starts: start }) },
    writes: { ys: y, ends: end, tiles },
    wide: ['steps'],
    params: asParams({ ...sizes, ...Object.fromEntries(placed) }),
    constants: {
      ...{ WG: 64, LANES: lanes, EACH: Math.ceil(n / lanes) },
      ...{ WANT_Y: Number(y !== undefined), WANT_TILES: Number(tiles !== undefined) },
    },
    code: () =>
      `${FLAT_INDEX}${upto(device)}${steps ? '' : discretisedCode}
fn step_at(token: u32, head: u32) -> vec4<f32> { return ${step}; }
${inPlace ? 'fn load_starts(i: u32) -> f32 { return load_ends(i); }' : ''}
${rowsCode}`,
    grid: grid1d(total * lanes, 64),
  };
  return launchKernel(kernel, device);
}

const asParams = (values: Readonly<Record<string, number>>): Params =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, ['u32', value]]));

/** What kernels are told of a cut. */
function cutParams({ s, cut }: Task): Params {
  const total = s.batch * s.heads * cut.chunks * cut.blocks;
  const { chunk, chunks, tiles, blocks } = cut;
  const sizes = { length: s.length, heads: s.heads, groups: s.groups, p: s.p, n: s.n };
  return asParams({ total, ...sizes, chunk, chunks, tiles, blocks, limit: NO_LIMIT });
}

function cutConstants({ s, cut }: Task): Record<string, number> {
  const [NV, PV] = [Math.ceil(s.n / 4), cut.pBlock / 4];
  const sizes = { STEPS: cut.steps, P_BLOCK: cut.pBlock, THREADS: cut.threads, EACH: 2, PAIRS: 4 };
  return { ...sizes, NV, PV, N_STRIDE: odd(NV), P_STRIDE: odd(PV) };
}

/** Whether blocks have no more rows than heads have. */
const isExact = ({ s, cut }: Task) => s.p === cut.pBlock * cut.blocks;

const cutKey = (task: Task) => {
  const { s, cut, device } = task;
  return `${s.n} ${cut.steps} ${cut.pBlock} ${isExact(task)} ${cut.threads} ${device.caps.software}`;
};

/**
 * WGSL: `load_NAME` or `store_NAME` of four elements of the binding NAMEs, of a row along n, or of a token's columns p,
 * p + PV, … of the block.
 */
function four(access: 'load' | 'store', name: string, along: 'n' | 'p', task: Task, wide: boolean): string {
  const place = along === 'n' ? 'row: u32, v: u32' : 'at: Place, l: u32, v: u32';
  const load = access === 'load';
  const move = (value: string, i: string) =>
    load ? `${value} = load_${name}s(${i});` : `store_${name}s(${i}, ${value});`;
  const inside = isExact(task) ? '' : 'if (p < params.p) ';
  const moves = wide
    ? move('value', 'row * NV + v')
    : along === 'n'
      ? `for (var c = 0u; c < min(4u, params.n - 4u * v); c++) { ${move('value[c]', 'row * params.n + 4u * v + c')} }`
      : `for (var c = 0u; c < 4u; c++) {
    let p = row_of(at, v + c * PV);
    ${inside}{ ${move('value[c]', 'step_index(at, l) * params.p + p')} }
  }`;
  return load
    ? `fn load_${name}(${place}) -> vec4<f32> {\n  var value = vec4<f32>();\n  ${moves}\n  return value;\n}\n`
    : `fn store_${name}(${place}, value: vec4<f32>) {\n  ${moves}\n}\n`;
}

/** The bindings of rows along n that are accessed by fours. */
const wideAlong = ({ n }: SsdSizes, ...names: string[]) => (n % 4 === 0 ? names : []);

/** What a walk over the chunks reads and writes. */
export interface Walked {
  readonly x: Slot;
  readonly steps?: Slot;
  readonly b: Slot;
  /** With y: what y is read from. */
  readonly c?: Slot;
  readonly y?: Slot;
  readonly start?: Slot;
  readonly end?: Slot;
  readonly tiles?: Slot;
  readonly decay?: Slot;
  /** Carries the gradient of the state backwards. */
  readonly reverse?: boolean;
}

export function walk(task: Task, w: Walked): Launch {
  const { s, cut, device } = task;
  if (cut.lanes > 0) {
    const bc = { row: s.groups * s.n, from: 0, share: s.heads / s.groups };
    const own = { x: { row: s.heads * s.p, from: 0, share: 1 }, dt: { row: s.heads, from: 0, share: 1 }, B: bc, C: bc };
    return recurrence(w, s, own, cut.lanes, device);
  }
  const wide = wideAlong(s, 'bs', 'cs', 'starts', 'ends', 'tiles');
  const kernel = {
    key: `ssd walk ${cutKey(task)} ${w.reverse ?? false}`,
    reads: { xs: w.x, steps: w.steps, bs: w.b, cs: w.c, starts: w.start },
    writes: { ys: w.y, ends: w.end, tiles: w.tiles, decays: w.decay },
    wide: ['steps', ...wide],
    params: cutParams(task),
    constants: {
      ...cutConstants(task),
      ...{ WANT_Y: Number(w.y !== undefined), WANT_END: Number(w.end !== undefined) },
      ...{ WANT_TILES: Number(w.tiles !== undefined), BACKWARD_TIME: Number(w.reverse ?? false) },
    },
    code: () => {
      const fours = [['load', 'x', 'p'], ['load', 'b', 'n'], ['load', 'c', 'n'], ['load', 'start', 'n']] as const;
      const stores = [['store', 'y', 'p'], ['store', 'end', 'n'], ['store', 'tile', 'n']] as const;
      const access = [...fours, ...stores].map(([how, name, along]) =>
        four(how, name, along, task, wide.includes(`${name}s`)),
      );
      return [FLAT_INDEX, upto(device), commonCode, ...access, walkCode].join('');
    },
    grid: groupsOf(task),
  };
  return launchKernel(kernel, device);
}

/** Workgroups: one a block and chunk, or as many as the rows of all states need. */
function groupsOf({ s, cut }: Task): [number, number, number] {
  const total = s.batch * s.heads * cut.chunks * cut.blocks;
  return cut.lanes > 0 ? grid1d(total * cut.lanes, cut.threads) : grid1d(total, 1);
}

/**
 * Hands the state over the chunks of a head: what each chunk made from zero becomes the state each chunk starts from
 * (or, in reverse, the gradient of the state each chunk ends in). `first` and `last` are a whole state each.
 */
export function pass(
  { s, cut, device }: Task,
  states: Slot,
  decays: Slot,
  { first, last, reverse }: { readonly first?: Slot; readonly last?: Slot; readonly reverse: boolean },
): Launch {
  const plane = s.p * s.n;
  const kernel = {
    key: `ssd pass ${reverse}`,
    reads: { decays, first },
    writes: { states, last },
    params: asParams({ plane, chunks: cut.chunks }),
    body: () => /* wgsl */ `let head = i / params.plane;
  var carried = load_first(i);
  for (var k = 0u; k < params.chunks; k++) {
    let chunk = head * params.chunks + ${reverse ? 'params.chunks - 1u - k' : 'k'};
    let at = chunk * params.plane + i % params.plane;
    let made = load_states(at);
    store_states(at, carried);
    carried = exp(load_decays(chunk)) * carried + made;
  }
  store_last(i, carried);`,
  };
  return launchElements(s.batch * s.heads * plane, kernel, device);
}

interface GradArgs {
  readonly steps: Slot;
  readonly dy?: Slot;
  /** States at the tiles' starts and gradients at the chunks' ends; absent: zeros. */
  readonly start?: Slot;
  readonly end?: Slot;
  readonly dinitialState?: Slot;
}

/** The backward kernel and the sums over heads of a group, blocks of a head, and tokens. */
export function gradLaunches(task: Task, grads: SsdGrads<Slot>, a: GradArgs): Launch[] {
  const { s, cut, device, inputs: { x, dt, B, C } } = task;
  const rows = s.batch * cut.chunks * cut.blocks;
  const shared = { inner: s.n, terms: (s.heads / s.groups) * cut.blocks };
  // What the kernel makes: `terms` neighbours, `inner` elements each, add up to the gradient.
  const outputs: Readonly<Record<string, { target?: Slot; size: number; inner: number; terms: number }>> = {
    sums: { size: rows * s.heads * 3, inner: 1, terms: 1 },
    dxs: { target: grads.dx, size: x.size, inner: 1, terms: 1 },
    dbs: { target: grads.dB, size: B.size * shared.terms, ...shared },
    dcs: { target: grads.dC, size: C.size * shared.terms, ...shared },
    ddts: { target: grads.ddt, size: dt.size * cut.blocks, inner: 1, terms: cut.blocks },
    ...(a.dinitialState && { firsts: { target: a.dinitialState, size: a.dinitialState.size, inner: 1, terms: 1 } }),
  };
  const reads = { xs: x, steps: a.steps, bs: B, cs: C, dys: a.dy, states: a.start, ends: a.end };
  const bindings = Object.values(reads).filter((slot) => slot).length + Object.keys(outputs).length;
  const all = Object.values(outputs).reduce((sum, { size }) => sum + size, 0);
  const packed = bindings > device.caps.maxStorageBuffers ? device.scratch([all]) : undefined;
  let end = 0;
  const made = Object.entries(outputs).map(([name, { target, size, inner, terms }]) => {
    const from = packed ? end : 0;
    end += size;
    // What needs no further sum goes straight to its gradient.
    const slot = packed ?? (terms === 1 && target ? target : device.scratch([size]));
    return { name, target, inner, terms, from, slot };
  });
  const launches = [launchGrad(task, reads, made, packed)];
  for (const { target, inner, terms, from, slot } of made) {
    if (target && slot !== target) launches.push(sumTerms({ slot, from, inner, terms }, target, device));
  }
  const { dA_log, dD, ddt_bias } = grads;
  if (dA_log || dD || ddt_bias) launches.push(sumHeads(made[0].slot, { dA_log, dD, ddt_bias }, rows, s.heads, device));
  return launches;
}

type Made = readonly { readonly name: string; readonly slot: Slot; readonly from: number }[];

function launchGrad(task: Task, reads: Record<string, Slot | undefined>, made: Made, packed: Slot | undefined): Launch {
  const { s, cut, device } = task;
  const tiled = cut.lanes === 0;
  const separate = Object.fromEntries(made.map(({ name, slot }) => [name, slot]));
  const wide = tiled ? wideAlong(s, 'bs', 'cs', 'states', 'ends', ...(packed ? [] : ['dbs', 'dcs', 'firsts'])) : [];
  const names = made.map(({ name }) => name).join();
  const offsets = packed ? Object.fromEntries(made.map(({ name, from }) => [`from_${name}`, from])) : {};
  const into = packed
    ? made.map(({ name }) => `fn store_${name}(i: u32, v: f32) { store_grads(params.from_${name} + i, v); }\n`)
    : [];
  const sums = 'fn put_sums(i: u32, v: vec3<f32>) { for (var c = 0u; c < 3u; c++) { store_sums(i * 3u + c, v[c]); } }\n';
  const noFirsts = packed && !separate.firsts ? 'fn store_firsts(i: u32, v: f32) {}\n' : '';
  const kernel = {
    key: tiled ? `ssd backward ${cutKey(task)} ${names}` : `ssd rows backward ${s.n} ${names}`,
    reads,
    writes: packed ? { grads: packed } : { ...separate, firsts: separate.firsts },
    wide: ['steps', ...wide],
    params: { ...cutParams(task), ...asParams(offsets) },
    constants: tiled ? cutConstants(task) : { WG: 64, EACH: s.n },
    code: () => {
      const scalar = [FLAT_INDEX, ...into, noFirsts, sums].join('');
      if (!tiled) return scalar + rowsBackwardCode;
      const along = { x: 'p', b: 'n', c: 'n', dy: 'p', state: 'n', end: 'n' } as const;
      const loads = Object.entries(along).map(([name, d]) => four('load', name, d, task, wide.includes(`${name}s`)));
      const to = { dx: 'p', db: 'n', dc: 'n', first: 'n' } as const;
      const stores = Object.entries(to).map(([name, d]) => four('store', name, d, task, wide.includes(`${name}s`)));
      return [scalar, upto(device), commonCode, ...loads, ...stores, backwardCode].join('');
    },
    grid: groupsOf(task),
  };
  return launchKernel(kernel, device);
}

interface Terms {
  readonly slot: Slot;
  readonly from: number;
  readonly inner: number;
  readonly terms: number;
}

/** y[r, i] = Σ_k x[from + (r·terms + k)·inner + i]: over the heads of a group and the blocks of a head. */
function sumTerms({ slot: x, from, inner, terms }: Terms, y: Slot, device: GpuPlanner): Launch {
  const kernel = {
    key: 'ssd sum terms',
    reads: { x },
    writes: { y },
    params: asParams({ begin: from, inner, terms }),
    body: () => /* wgsl */ `let first = params.begin + i / params.inner * params.terms * params.inner + i % params.inner;
  var sum = 0.0;
  for (var k = 0u; k < params.terms; k++) { sum += load_x(first + k * params.inner); }
  store_y(i, sum);`,
  };
  return launchElements(y.size, kernel, device);
}

/** The sums that workgroups left, (rows, H, 3), over their rows, which are the first of `sums`. */
function sumHeads(sums: Slot, writes: SsdGrads<Slot>, rows: number, heads: number, device: GpuPlanner): Launch {
  const kernel = {
    key: 'ssd sum heads',
    reads: { sums },
    writes: { dA_log: writes.dA_log, dD: writes.dD, ddt_bias: writes.ddt_bias },
    body: () => /* wgsl */ `var sum = vec3<f32>();
  for (var r = lane; r < params.columns; r += LANES) {
    let at = (r * params.rows + min(row, params.rows - 1u)) * 3u;
    sum += vec3<f32>(load_sums(at), load_sums(at + 1u), load_sums(at + 2u));
  }
  let first = row_sum2(sum.xy, local);
  let third = row_sum(sum.z, local);
  if (lane == 0u && row < params.rows) {
    store_dA_log(row, first.x);
    store_dD(row, first.y);
    store_ddt_bias(row, third);
  }`,
  };
  return launchRows(heads, rows, kernel, device);
}
