import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchElements, launchKernel } from '../common/launch-kernel.ts';
import { launchFold, sumOver } from '../reduce/fold.ts';
import backwardCode from './backward.wgsl';
import commonCode from './common.wgsl';
import rowsBackwardCode from './rows-backward.wgsl';
import rowsCode from './rows.wgsl';
import { type Layout, type Layouts, layoutsOf, type SsdGrads, type SsdInputs, type SsdSizes } from './shape.ts';
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

/** Distance of rows in workgroup memory, in vec4: odd. */
export const odd = (vectors: number) => vectors | 1;

/** WGSL: (dt, A, D, slope of the softplus) of a token's head. */
const discretisedCode = /* wgsl */ `
fn discretised_at(token: u32, head: u32) -> vec4<f32> {
  let raw = load_dt(token * params.dt_row + params.dt_from + head) + load_dt_bias(head);
  return vec4<f32>(softplus_(raw), -exp(load_A_log(head)), load_D(head), sigmoid_(raw));
}
`;

/** Launches that make (dt, A, D, slope) of every token and head. */
export function discretise(
  { dt, A_log, D, dt_bias }: Pick<SsdInputs<Slot>, 'dt' | 'A_log' | 'D' | 'dt_bias'>,
  { row, from }: Layout,
  steps: Slot,
  device: GpuPlanner,
): Launch {
  return launchElements(device, steps.size / 4, {
    key: 'ssd discretise',
    reads: { dt, A_log, D, dt_bias },
    writes: { steps },
    wide: ['steps'],
    params: { heads: A_log.size, dt_row: row, dt_from: from },
    declarations: () => discretisedCode,
    body: () => 'store_steps(i, discretised_at(i / params.heads, i % params.heads));',
  });
}

/** What a walk over the chunks reads and writes; `cs` with `ys`, which are read from it. */
type Walked = { readonly [K in 'xs' | 'steps' | 'bs' | 'cs' | 'starts' | 'ys' | 'ends' | 'tiles' | 'decays']?: Slot };
/** What the recurrence reads and writes: `steps`, or else what they are made of. */
type Recurrence = Walked & { readonly [K in 'dt' | 'A_log' | 'D' | 'dt_bias']?: Slot };

/** One token after the other, `lanes` threads for each row of a state. `starts` may be `ends`. */
export function recurrence(
  { xs, bs, cs, steps, dt, A_log, D, dt_bias, starts, ys, ends, tiles }: Recurrence,
  { batch, length, heads, p, n }: SsdSizes,
  layouts: Layouts,
  lanes: number,
  device: GpuPlanner,
): Launch {
  const total = batch * heads * p;
  const placed = Object.entries(layouts).flatMap(([name, layout]) =>
    Object.entries(layout).map(([what, value]) => [`${name}_${what}`, value] as const),
  );
  const inPlace = starts !== undefined && starts === ends;
  const each = Math.ceil(n / lanes);
  const { software } = device.caps;
  const step = steps ? 'load_steps(token * params.heads + head)' : 'discretised_at(token, head)';
  return launchKernel(device, {
    key: `ssd recurrence ${n} ${lanes} ${software} ${inPlace}`,
    reads: { xs, bs, cs, ...(steps ? { steps } : { dt, A_log, D, dt_bias }), ...(!inPlace && { starts }) },
    writes: { ys, ends, tiles },
    wide: ['steps'],
    params: { total, length, heads, p, n, each, ...Object.fromEntries(placed) },
    constants: { LANES: lanes, EACH: each, WANT_Y: ys ? 1 : 0, WANT_TILES: tiles ? 1 : 0 },
    workgroup: 64,
    // Drivers on the CPU would unroll the loops over a row.
    code: () =>
      `fn each() -> u32 { return ${software ? 'params.each' : 'EACH'}; }
${steps ? '' : discretisedCode}
fn step_at(token: u32, head: u32) -> vec4<f32> { return ${step}; }
${inPlace ? 'fn load_starts(i: u32) -> f32 { return load_ends(i); }' : ''}
${rowsCode}`,
    groups: Math.ceil((total * lanes) / 64),
  });
}

/** What the kernels that take a cut are told of it: one workgroup a block and chunk, or a thread for each row. */
function kernelOf({ s, cut }: Task) {
  const { steps, pBlock, blocks, threads, chunk, chunks, tiles, lanes } = cut;
  const total = s.batch * s.heads * chunks * blocks;
  const [NV, PV] = [Math.ceil(s.n / 4), pBlock / 4];
  const exact = s.p === pBlock * blocks;
  const { length, heads, groups, p, n } = s;
  return {
    key: `${n} ${steps} ${pBlock} ${exact} ${threads}`,
    params: { total, length, heads, groups, p, n, chunk, chunks, tiles, blocks },
    constants: { STEPS: steps, P_BLOCK: pBlock, NV, PV, N_STRIDE: odd(NV), P_STRIDE: odd(PV), EXACT: exact ? 1 : 0 },
    workgroup: threads,
    groups: lanes > 0 ? Math.ceil(total / threads) : total,
  };
}

/** What a vec4 is part of, in WGSL: whether it is there, the row it lies in, and its place among the row's vec4. */
const SPANS = {
  /** The i-th of the states, of which e counts the vec4 of the block. */
  state: { inside: 'row_of(at, e / NV) < params.p', row: 'i * params.p + row_of(at, e / NV)', place: 'e % NV' },
  /** Row of token i in B and C. */
  group: { inside: 'i < at.last', row: '(at.batch * params.length + i) * params.groups + at.group', place: 'e' },
  /** What this block adds to token i of them. */
  part: { inside: 'i < at.last', row: 'step_index(at, i) * params.blocks + at.block', place: 'e' },
  /** Rows e, e + PV, … of the block, of token i. */
  token: { inside: 'i < at.last' },
} as const;

/** WGSL of `load_NAME(at, i, e)`, 0 past the end, or `store_NAME(at, i, e, value)`, of the bindings NAMEs. */
function fours(access: 'load' | 'store', names: Record<string, keyof typeof SPANS>, wide: readonly string[]): string {
  const functions = Object.entries(names).map(([name, along]) => {
    const span = SPANS[along];
    const move = (value: string, i: string) =>
      access === 'load' ? `${value} = load_${name}s(${i});` : `store_${name}s(${i}, ${value});`;
    const moves = !('row' in span)
      ? `for (var c = 0u; c < 4u; c++) {
    let p = row_of(at, e + c * PV);
    if (EXACT == 1u || p < params.p) { ${move('value[c]', 'step_index(at, i) * params.p + p')} }
  }`
      : wide.includes(`${name}s`)
        ? move('value', `(${span.row}) * NV + ${span.place}`)
        : `let v = 4u * (${span.place});
  for (var c = 0u; c < min(4u, params.n - v); c++) { ${move('value[c]', `(${span.row}) * params.n + v + c`)} }`;
    const whole = `if (${span.inside}) { ${moves} }`;
    return access === 'load'
      ? `fn load_${name}(at: Place, i: u32, e: u32) -> vec4<f32> { var value = vec4<f32>(); ${whole} return value; }`
      : `fn store_${name}(at: Place, i: u32, e: u32, value: vec4<f32>) { ${whole} }`;
  });
  return functions.join('\n');
}

/** WGSL of `advance(t)`: what is carried over a tile shrinks by it, and of each token j takes in weight · x ⊗ b. */
const advance = (carried: string, x: string, weight: string, b: string): string => /* wgsl */ `
fn advance(t: u32) {
  let shrink = exp(cum[STEPS - 1u]);
  for (var e = t; e < PV * NV; e += WG) {
    let p = e / NV;
    let n = e % NV;
    var s: array<vec4<f32>, 4>;
    for (var q = 0u; q < 4u; q++) { s[q] = ${carried}[(p + q * PV) * N_STRIDE + n] * shrink; }
    for (var j = 0u; j < STEPS; j++) {
      let x = ${x}[j * P_STRIDE + p] * ${weight};
      let b = ${b}[j * N_STRIDE + n];
      for (var q = 0u; q < 4u; q++) { s[q] += x[q] * b; }
    }
    for (var q = 0u; q < 4u; q++) { ${carried}[(p + q * PV) * N_STRIDE + n] = s[q]; }
  }
}
`;

/** The bindings of rows along n that are accessed by fours. */
const wideAlong = ({ n }: SsdSizes, ...names: string[]) => (n % 4 === 0 ? names : []);

/** @param reverse carries the gradient of the state backwards */
export function walk(task: Task, walked: Walked, reverse = false): Launch {
  const { s, cut, device } = task;
  if (cut.lanes > 0) return recurrence(walked, s, layoutsOf(s), cut.lanes, device);
  const { xs, steps, bs, cs, starts, ys, ends, tiles, decays } = walked;
  const wide = wideAlong(s, 'bs', 'cs', 'starts', 'ends', 'tiles');
  const own = kernelOf(task);
  const wants = { WANT_Y: ys ? 1 : 0, WANT_END: ends ? 1 : 0, WANT_TILES: tiles ? 1 : 0 };
  return launchKernel(device, {
    ...own,
    key: `ssd walk ${own.key} ${reverse}`,
    reads: { xs, steps, bs, cs, starts },
    writes: { ys, ends, tiles, decays },
    wide: ['steps', ...wide],
    constants: { ...own.constants, ...wants, BACKWARD_TIME: reverse ? 1 : 0 },
    code: () => {
      const loads = fours('load', { x: 'token', b: 'group', c: 'group', start: 'state' }, wide);
      const stores = fours('store', { y: 'token', end: 'state', tile: 'state' }, wide);
      return [commonCode, loads, stores, advance('state', 'x_tile', 'weight[j]', 'b_tile'), walkCode].join('\n');
    },
  });
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
  return launchElements(device, s.batch * s.heads * plane, {
    key: `ssd pass ${reverse}`,
    reads: { decays, first },
    writes: { states, last },
    params: { plane, chunks: cut.chunks },
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
  });
}

/** Beside x, B and C: states at the tiles' starts, and gradients at the chunks' ends. */
type Given = { readonly [K in 'steps' | 'dys' | 'states' | 'ends']: Slot | undefined };

/** The backward kernel and the sums over heads of a group, blocks of a head, and tokens. */
export function gradLaunches(task: Task, grads: SsdGrads<Slot>, given: Given): Launch[] {
  const { s, cut, device, inputs: { x, dt, B, C } } = task;
  const first = grads.dinitialState;
  const rows = s.batch * cut.chunks * cut.blocks;
  const shared = { inner: s.n, terms: (s.heads / s.groups) * cut.blocks };
  // What the kernel makes: `terms` neighbours, `inner` elements each, add up to the gradient.
  const outputs: Readonly<Record<string, { target?: Slot; size: number; inner: number; terms: number }>> = {
    sums: { size: rows * s.heads * 3, inner: 1, terms: 1 },
    dxs: { target: grads.dx, size: x.size, inner: 1, terms: 1 },
    dbs: { target: grads.dB, size: B.size * shared.terms, ...shared },
    dcs: { target: grads.dC, size: C.size * shared.terms, ...shared },
    ddts: { target: grads.ddt, size: dt.size * cut.blocks, inner: 1, terms: cut.blocks },
    ...(first && { firsts: { target: first, size: first.size, inner: 1, terms: 1 } }),
  };
  const reads = { xs: x, bs: B, cs: C, ...given };
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
  for (const { target: y, inner, terms, from, slot: x } of made) {
    if (!y || x === y) continue;
    const fold = sumOver('f32', 'load_x(params.begin + i)');
    const body = 'if (at.lane == 0u && at.line < params.lines) { store_y(at.line, total); }';
    const kernel = { key: 'ssd sum terms', reads: { x }, writes: { y }, params: { begin: from }, fold, body };
    launches.push(launchFold(device, { outer: y.size / inner, len: terms, inner }, kernel));
  }
  const { dA_log, dD, ddt_bias } = grads;
  if (dA_log || dD || ddt_bias) launches.push(sumHeads(made[0].slot, { dA_log, dD, ddt_bias }, rows, s.heads, device));
  return launches;
}

type Made = readonly { readonly name: string; readonly slot: Slot; readonly from: number }[];

function launchGrad(task: Task, reads: Record<string, Slot | undefined>, made: Made, packed: Slot | undefined): Launch {
  const { s, cut, device } = task;
  const tiled = cut.lanes === 0;
  const separate: Record<string, Slot | undefined> = Object.fromEntries(made.map(({ name, slot }) => [name, slot]));
  const wide = tiled ? wideAlong(s, 'bs', 'cs', 'states', 'ends', ...(packed ? [] : ['dbs', 'dcs', 'firsts'])) : [];
  const own = kernelOf(task);
  return launchKernel(device, {
    ...own,
    key: `ssd backward ${tiled} ${own.key} ${Object.keys(separate)}`,
    reads,
    writes: { ...(packed ? { grads: packed } : separate), ...(!separate.firsts && { firsts: undefined }) },
    wide: ['steps', ...wide],
    params: { ...own.params, ...(packed && Object.fromEntries(made.map(({ name, from }) => [`from_${name}`, from]))) },
    constants: { ...own.constants, WANT_Y: 1, N: s.n },
    code: () => {
      const into = (name: string) => `fn store_${name}(i: u32, v: f32) { store_grads(params.from_${name} + i, v); }`;
      const stores = packed ? made.map(({ name }) => into(name)).join('\n') : '';
      if (!tiled) return stores + putSums + rowsBackwardCode;
      const loads = { x: 'token', b: 'group', c: 'group', dy: 'token', state: 'state', end: 'state' } as const;
      const loading = fours('load', loads, wide);
      const storing = fours('store', { dx: 'token', db: 'part', dc: 'part', first: 'state' }, wide);
      const advancing = advance('grad', 'dy_tile', 'exp(cum[j])', 'c_tile');
      return [stores, putSums, commonCode, loading, storing, advancing, backwardCode].join('\n');
    },
  });
}

const putSums = /* wgsl */ `
fn put_sums(i: u32, v: vec3<f32>) { for (var c = 0u; c < 3u; c++) { store_sums(i * 3u + c, v[c]); } }
`;

/** The sums that workgroups left, (rows, H, 3), over their rows, which are the first of `sums`. */
function sumHeads(sums: Slot, writes: SsdGrads<Slot>, rows: number, heads: number, device: GpuPlanner): Launch {
  const { dA_log, dD, ddt_bias } = writes;
  const load = 'vec3<f32>(load_sums(3u * i), load_sums(3u * i + 1u), load_sums(3u * i + 2u))';
  return launchFold(device, { outer: 1, len: rows, inner: heads }, {
    key: 'ssd sum heads',
    reads: { sums },
    writes: { dA_log, dD, ddt_bias },
    fold: sumOver('vec3<f32>', load),
    body: /* wgsl */ `if (at.lane == 0u && at.line < params.lines) {
    store_dA_log(at.line, total.x);
    store_dD(at.line, total.y);
    store_ddt_bias(at.line, total.z);
  }`,
  });
}
