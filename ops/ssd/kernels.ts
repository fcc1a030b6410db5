import type { GpuCaps, Launch, Shader } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { DeviceError } from '../../engine/errors.ts';
import { type GpuArg, type GpuCall } from '../../engine/positional.ts';
import backwardCode from './backward.wgsl';
import commonCode from './common.wgsl';
import passCode from './pass.wgsl';
import prepareCode from './discretised.wgsl';
import rowsBackwardCode from './rows-backward.wgsl';
import rowsCode from './rows.wgsl';
import type { SsdAttrs, SsdSizes } from './shape.ts';
import walkCode from './walk.wgsl';

const WG = 256;
/** With so many workgroups there is enough to do without cutting sequences into chunks. */
const ENOUGH_WORKGROUPS = 256;

/** How a kernel cuts a head: tokens of a tile, rows of the state of a workgroup, and the chunks of the sequence. */
interface Plan {
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

/** Tokens of a tile and rows of a block at most, best first. */
const CUTS = [
  [16, 32],
  [16, 16],
  [8, 32],
  [8, 16],
  [16, 8],
  [8, 8],
  [4, 8],
  [4, 4],
] as const;

/** Distance of rows in workgroup memory, in vec4: odd. */
const odd = (vectors: number) => vectors | 1;

function workgroupBytes(kind: 'walk' | 'backward', steps: number, pBlock: number, n: number): number {
  const nRow = 4 * odd(Math.ceil(n / 4));
  const pRow = 4 * odd(pBlock / 4);
  const tiles = (pBlock + 2 * steps) * nRow + steps * pRow + steps * (steps + 1);
  if (kind === 'walk') return 4 * (tiles + 3 * steps);
  const more = pBlock * nRow + steps * pRow + steps * (steps + 1) + (steps + 1) ** 2;
  return 4 * (tiles + more + steps * (nRow / 4 + pRow / 4 + 9) + 256);
}

/** One token at a time: on drivers on the CPU, which take half a minute to compile the tiled kernels. */
function rowPlan(s: SsdSizes, lanes: number): Plan {
  return { steps: 1, pBlock: 1, blocks: s.p, threads: 64, chunk: s.length, chunks: 1, tiles: s.length, lanes };
}

function planFor(kind: 'walk' | 'backward', s: SsdSizes, chunkSize: number, caps: GpuCaps): Plan {
  if (caps.software) return rowPlan(s, 1);
  if (kind === 'walk' && s.length === 1) return rowPlan(s, 8);
  const cut = CUTS.find(([steps, rows]) => {
    return workgroupBytes(kind, steps, evenBlock(s.p, rows), s.n) <= caps.maxWorkgroupMemory;
  });
  if (!cut) {
    const need = workgroupBytes(kind, 4, 4, s.n);
    throw new DeviceError(
      `ssd_scan: N ${s.n} needs ${need} bytes of workgroup memory, the adapter has ${caps.maxWorkgroupMemory}`,
    );
  }
  const [steps, rows] = cut;
  const pBlock = evenBlock(s.p, rows);
  const blocks = Math.ceil(s.p / pBlock);
  const items = (steps / 2) * Math.max(pBlock / 4, Math.ceil(s.n / 4), steps / 2);
  const whole = s.batch * s.heads * blocks >= ENOUGH_WORKGROUPS;
  const wanted = Math.ceil(Math.min(whole ? s.length : chunkSize, s.length) / steps);
  const chunk = wanted * steps;
  return {
    ...{ steps, pBlock, blocks, chunk },
    threads: kind === 'walk' || items > 64 ? 128 : 64,
    chunks: Math.ceil(s.length / chunk),
    tiles: wanted,
    lanes: 0,
  };
}

/** The rows of a block, a multiple of 4, when p rows go into as few blocks of at most `rows` as can be. */
function evenBlock(p: number, rows: number): number {
  const blocks = Math.ceil(p / rows);
  return 4 * Math.ceil(p / blocks / 4);
}

/** A tensor whose rows lie along n, or (B, L, H, P) tensors read by columns of a block; null reads as zeros. */
interface Port {
  readonly name: string;
  readonly along: 'n' | 'p';
}

function loader(port: Port, bound: boolean, s: SsdSizes, exact: boolean): string {
  const { name, along } = port;
  const head = along === 'n' ? `fn load_${name}(row: u32, v: u32)` : `fn load_${name}(at: Place, l: u32, v: u32)`;
  if (!bound) return `${head} -> vec4<f32> { return vec4<f32>(); }`;
  if (along === 'n' && s.n % 4 === 0) return `${head} -> vec4<f32> { return ${name}s[row * NV + v]; }`;
  if (along === 'n') {
    return `${head} -> vec4<f32> {
  var value = vec4<f32>();
  for (var c = 0u; c < min(4u, params.n - 4u * v); c++) { value[c] = ${name}s[row * params.n + 4u * v + c]; }
  return value;
}`;
  }
  return `${head} -> vec4<f32> {
  var value = vec4<f32>();
  for (var c = 0u; c < 4u; c++) {
    let p = row_of(at, v + c * PV);
    ${exact ? '' : 'if (p < params.p)'} { value[c] = ${name}s[step_index(at, l) * params.p + p]; }
  }
  return value;
}`;
}

/** Writes to the output of that name, or, with an offset's name, into `grads`, where all outputs lie. */
function storer(port: Port, bound: boolean, s: SsdSizes, exact: boolean, offset?: string): string {
  const { name, along } = port;
  const target = (i: string) => (offset ? `grads[params.${offset} + ${i}]` : `${name}s[${i}]`);
  const args = along === 'n' ? 'row: u32, v: u32' : 'at: Place, l: u32, v: u32';
  const head = `fn store_${name}(${args}, value: vec4<f32>)`;
  if (!bound) return `${head} {}`;
  if (along === 'n' && s.n % 4 === 0 && !offset) return `${head} { ${name}s[row * NV + v] = value; }`;
  if (along === 'n') {
    return `${head} {
  for (var c = 0u; c < min(4u, params.n - 4u * v); c++) { ${target('row * params.n + 4u * v + c')} = value[c]; }
}`;
  }
  return `${head} {
  for (var c = 0u; c < 4u; c++) {
    let p = row_of(at, v + c * PV);
    ${exact ? '' : 'if (p < params.p)'} { ${target('step_index(at, l) * params.p + p')} = value[c]; }
  }
}`;
}

const PARAMS = {
  total: 'u32',
  length: 'u32',
  heads: 'u32',
  groups: 'u32',
  p: 'u32',
  n: 'u32',
  chunk: 'u32',
  chunks: 'u32',
  tiles: 'u32',
  blocks: 'u32',
  /** No limit, but compilers do not know it: keeps loops rolled where that pays. */
  limit: 'u32',
} as const;

function params(s: SsdSizes, plan: Plan): number[] {
  const total = s.batch * s.heads * plan.chunks * plan.blocks;
  return [total, s.length, s.heads, s.groups, s.p, s.n, plan.chunk, plan.chunks, plan.tiles, plan.blocks, 0xffffffff];
}

/** Workgroups: one a block and chunk, or as many as the rows of all states need. */
function groupsOf(s: SsdSizes, plan: Plan): [number, number, number] {
  const total = s.batch * s.heads * plan.chunks * plan.blocks;
  return plan.lanes > 0 ? grid1d(total * plan.lanes, plan.threads) : grid1d(total, 1);
}

function planConstants(s: SsdSizes, plan: Plan): Record<string, number> {
  const nv = Math.ceil(s.n / 4);
  const pv = plan.pBlock / 4;
  return {
    STEPS: plan.steps,
    P_BLOCK: plan.pBlock,
    THREADS: plan.threads,
    EACH: 2,
    PAIRS: 4,
    NV: nv,
    PV: pv,
    N_STRIDE: odd(nv),
    P_STRIDE: odd(pv),
  };
}

const upto = (caps: GpuCaps) => `fn upto(n: u32) -> u32 { return ${caps.software ? 'min(n, params.limit)' : 'n'}; }`;

function planKey(s: SsdSizes, plan: Plan, caps: GpuCaps): string {
  return `${s.n}.${plan.steps}.${plan.pBlock}.${s.p === plan.pBlock * plan.blocks}.${plan.threads}.${caps.software}`;
}

const nType = (s: SsdSizes) => (s.n % 4 === 0 ? 'vec4<f32>' : 'f32');

/** Scalar access to an optional tensor: reads give 0, writes nothing where it is absent. */
const reader = (name: string, bound: unknown) =>
  `fn ${name}_at(i: u32) -> f32 { return ${bound ? `${name}s[i]` : '0.0'}; }`;
const writer = (name: string, target: string | undefined) =>
  `fn store_${name}(i: u32, value: f32) { ${target ? `${target}i] = value;` : ''} }`;

/** What a walk over the chunks reads and writes. */
interface Walk {
  readonly x: GpuArg;
  readonly steps: GpuArg;
  readonly b: GpuArg;
  /** With y: what y is read from. */
  readonly c?: GpuArg;
  readonly y?: GpuArg;
  readonly start?: GpuArg;
  readonly end?: GpuArg;
  readonly tiles?: GpuArg;
  readonly decay?: GpuArg;
  /** Carries the gradient of the state backwards. */
  readonly reverse?: boolean;
}

function walkBindings(w: Walk, n: string) {
  return {
    reads: { xs: 'f32', steps: 'vec4<f32>', bs: n, ...(w.c && { cs: n }), ...(w.start && { starts: n }) },
    writes: {
      ...(w.y && { ys: 'f32' }),
      ...(w.end && { ends: n }),
      ...(w.tiles && { tiles: n }),
      ...(w.decay && { decays: 'f32' }),
    },
  };
}

const walkFlags = (w: Walk) => [w.c, w.start, w.end, w.tiles, w.decay, w.reverse].map((f) => (f ? 1 : 0)).join('');

function walkShader(s: SsdSizes, plan: Plan, caps: GpuCaps, w: Walk): Shader {
  return shader(`ssd.walk.${planKey(s, plan, caps)}.${walkFlags(w)}`, () => {
    const exact = s.p === plan.pBlock * plan.blocks;
    const load = (name: string, along: 'n' | 'p', bound: unknown) => loader({ name, along }, !!bound, s, exact);
    const store = (name: string, along: 'n' | 'p', bound: unknown) => storer({ name, along }, !!bound, s, exact);
    return {
      ...walkBindings(w, nType(s)),
      params: PARAMS,
      constants: {
        ...planConstants(s, plan),
        WANT_Y: w.y ? 1 : 0,
        WANT_END: w.end ? 1 : 0,
        WANT_TILES: w.tiles ? 1 : 0,
        BACKWARD_TIME: w.reverse ? 1 : 0,
      },
      code: [
        FLAT_INDEX,
        upto(caps),
        commonCode,
        load('x', 'p', true),
        load('b', 'n', true),
        load('c', 'n', w.c),
        load('start', 'n', w.start),
        store('y', 'p', w.y),
        store('end', 'n', w.end),
        store('tile', 'n', w.tiles),
        `fn store_decay(i: u32, value: f32) { ${w.decay ? 'decays[i] = value;' : ''} }`,
        walkCode,
      ].join('\n'),
    };
  });
}

function rowsShader(s: SsdSizes, plan: Plan, caps: GpuCaps, w: Walk): Shader {
  return shader(`ssd.rows.${s.n}.${plan.lanes}.${caps.software}.${walkFlags(w)}`, () => ({
    ...walkBindings(w, 'f32'),
    params: PARAMS,
    constants: {
      WG: plan.threads,
      LANES: plan.lanes,
      EACH: Math.ceil(s.n / plan.lanes),
      WANT_Y: w.y ? 1 : 0,
      WANT_TILES: w.tiles ? 1 : 0,
    },
    code: [
      FLAT_INDEX,
      upto(caps),
      reader('start', w.start),
      `fn step_at(token: u32, head: u32) -> vec4<f32> { return steps[token * params.heads + head]; }
fn x_at(token: u32, head: u32, p: u32) -> f32 { return xs[(token * params.heads + head) * params.p + p]; }
fn group_of(head: u32) -> u32 { return head / (params.heads / params.groups); }
fn b_at(token: u32, head: u32, n: u32) -> f32 { return bs[(token * params.groups + group_of(head)) * params.n + n]; }
fn c_at(token: u32, head: u32, n: u32) -> f32 {
  return ${w.c ? 'cs[(token * params.groups + group_of(head)) * params.n + n]' : '0.0'};
}`,
      writer('y', w.y && 'ys['),
      writer('end', w.end && 'ends['),
      writer('tile', w.tiles && 'tiles['),
      rowsCode,
    ].join('\n'),
  }));
}

function walk(s: SsdSizes, plan: Plan, caps: GpuCaps, w: Walk): Launch {
  const args = [w.x, w.steps, w.b, w.c, w.start, w.y, w.end, w.tiles, w.decay];
  return {
    shader: plan.lanes > 0 ? rowsShader(s, plan, caps, w) : walkShader(s, plan, caps, w),
    args: args.filter((a) => a !== undefined),
    params: params(s, plan),
    grid: groupsOf(s, plan),
  };
}

/** (dt, A, D, slope) of every token and head. */
function prepare(inputs: readonly GpuArg[], steps: GpuArg, heads: number): Launch {
  const [, dt, aLog, , , d, bias] = inputs;
  const kernel = shader('ssd.prepare', () => ({
    reads: { dts: 'f32', a_log: 'f32', d_skip: 'f32', dt_bias: 'f32' },
    writes: { steps: 'vec4<f32>' },
    params: { total: 'u32', heads: 'u32' },
    constants: { WG },
    code: `${FLAT_INDEX}
${prepareCode}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let h = i % params.heads;
  steps[i] = discretised(dts[i] + dt_bias[h], a_log[h], d_skip[h]);
}`,
  }));
  return {
    shader: kernel,
    args: [dt, aLog, d, bias, steps],
    params: [dt.size, heads],
    grid: grid1d(dt.size, WG),
  };
}

/** Turns what chunks made from zero into what they start from; `first` and `last` are a whole state each. */
function pass(
  s: SsdSizes,
  plan: Plan,
  states: GpuArg,
  decays: GpuArg,
  ends: { first?: GpuArg; last?: GpuArg; reverse: boolean },
): Launch {
  const { first, last, reverse } = ends;
  const kernel = shader(`ssd.pass.${first !== undefined}.${last !== undefined}.${reverse}`, () => ({
    reads: { decays: 'f32', ...(first && { firsts: 'f32' }) },
    writes: { states: 'f32', ...(last && { lasts: 'f32' }) },
    params: { total: 'u32', plane: 'u32', chunks: 'u32' },
    constants: { WG, BACKWARD_TIME: reverse ? 1 : 0 },
    code: `${FLAT_INDEX}
fn load_first(i: u32) -> f32 { return ${first ? 'firsts[i]' : '0.0'}; }
fn store_last(i: u32, value: f32) { ${last ? 'lasts[i] = value;' : ''} }
${passCode}`,
  }));
  const plane = s.p * s.n;
  const total = s.batch * s.heads * plane;
  return {
    shader: kernel,
    args: [decays, ...(first ? [first] : []), states, ...(last ? [last] : [])],
    params: [total, plane, plan.chunks],
    grid: grid1d(total, WG),
  };
}

/** Room for one state a chunk, and for the chunks' decays. */
function chunkScratch(s: SsdSizes, plan: Plan, scratch: GpuCall<unknown>['scratch']) {
  return {
    states: scratch([s.batch, s.heads, plan.chunks, s.p, s.n]),
    decays: scratch([s.batch, s.heads, plan.chunks]),
  };
}

/** y and the final state. */
export function scanLaunches(s: SsdSizes, call: GpuCall<SsdAttrs>): Launch[] {
  const { inputs, outputs, attrs, caps, scratch } = call;
  const [x, dt, , b, c] = inputs;
  const [y, final] = outputs;
  const initial = attrs.initial ? inputs[7] : undefined;
  const plan = planFor('walk', s, attrs.chunkSize, caps);
  const steps = scratch([dt.size, 4]);
  const launches = [prepare(inputs, steps, s.heads)];
  if (plan.chunks === 1) {
    launches.push(walk(s, plan, caps, { x, steps, b, c, y, start: initial, end: final }));
    return launches;
  }
  const { states, decays } = chunkScratch(s, plan, scratch);
  launches.push(
    walk(s, plan, caps, { x, steps, b, end: states, decay: decays }),
    pass(s, plan, states, decays, { first: initial, last: final, reverse: false }),
    walk(s, plan, caps, { x, steps, b, c, y, start: states }),
  );
  return launches;
}

export interface ScanGrads {
  readonly inputs: readonly GpuArg[];
  readonly dy?: GpuArg;
  readonly dfinal?: GpuArg;
  /** Gradients wanted, in the order of the inputs. */
  readonly grads: readonly (GpuArg | undefined)[];
}

export function scanBackwardLaunches(s: SsdSizes, call: GpuCall<SsdAttrs>, g: ScanGrads): Launch[] {
  const { attrs, caps, scratch } = call;
  const [x, dt, , b, c] = g.inputs;
  const plan = planFor('backward', s, attrs.chunkSize, caps);
  const initial = attrs.initial ? g.inputs[7] : undefined;
  const steps = scratch([dt.size, 4]);
  const launches = [prepare(g.inputs, steps, s.heads)];
  let start = initial;
  let end = g.dfinal;
  let dinitial = g.grads[7];
  if (plan.chunks > 1) {
    const { states, decays } = chunkScratch(s, plan, scratch);
    launches.push(walk(s, plan, caps, { x, steps, b, end: states, decay: decays }));
    launches.push(pass(s, plan, states, decays, { first: initial, reverse: false }));
    start = states;
    const ends = scratch(states.shape);
    if (g.dy) launches.push(walk(s, plan, caps, { x: g.dy, steps, b: c, end: ends, reverse: true }));
    else launches.push(zero(ends));
    launches.push(pass(s, plan, ends, decays, { first: g.dfinal, last: dinitial, reverse: true }));
    end = ends;
    dinitial = undefined;
  }
  if (plan.tiles > 1) {
    const tiles = scratch([s.batch, s.heads, plan.chunks, plan.tiles, s.p, s.n]);
    launches.push(walk(s, plan, caps, { x, steps, b, start, tiles }));
    start = tiles;
  }
  launches.push(...gradLaunches(s, plan, call, g, { steps, start, end, dinitial }));
  return launches;
}

function zero(target: GpuArg): Launch {
  const kernel = shader('ssd.zero', () => ({
    writes: { ys: 'f32' },
    params: { total: 'u32' },
    constants: { WG },
    code: `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i < params.total) { ys[i] = 0.0; }
}`,
  }));
  return { shader: kernel, args: [target], params: [target.size], grid: grid1d(target.size, WG) };
}

interface GradArgs {
  readonly steps: GpuArg;
  /** States at the tiles' starts and gradients at the chunks' ends; absent: zeros. */
  readonly start?: GpuArg;
  readonly end?: GpuArg;
  readonly dinitial?: GpuArg;
}

/** Output of the backward kernel, in the order they are bound or packed. */
const OUTPUTS = ['dx', 'db', 'dc', 'ddt', 'sum', 'first'] as const;
const ALONG: Record<string, 'n' | 'p'> = { dx: 'p', db: 'n', dc: 'n', first: 'n' };

/** The backward kernel and the sums over heads of a group, blocks of a head, and tokens. */
function gradLaunches(s: SsdSizes, plan: Plan, call: GpuCall<unknown>, g: ScanGrads, a: GradArgs): Launch[] {
  const { caps, scratch } = call;
  const [x, dt, , b, c] = g.inputs;
  const [dx, ddt, daLog, db, dc, dd, dbias] = g.grads;
  const reads = [x, a.steps, b, c, g.dy, a.start, a.end];
  const present = reads.filter((r) => r !== undefined);
  const parts = (s.heads / s.groups) * plan.blocks;
  const rows = s.batch * plan.chunks * plan.blocks;
  const sizes = [
    x.size,
    b.size * parts,
    c.size * parts,
    dt.size * plan.blocks,
    rows * s.heads * 3,
    a.dinitial ? a.dinitial.size : 0,
  ];
  const packed = present.length + 5 + (a.dinitial ? 1 : 0) > caps.maxStorageBuffers;
  const all = packed ? scratch([sizes.reduce((sum, n) => sum + n, 0)]) : undefined;
  const offsets = sizes.map((_, i) => (packed ? sizes.slice(0, i).reduce((sum, n) => sum + n, 0) : 0));
  // What needs no further sum goes straight to its gradient.
  const direct = [dx, parts === 1 ? db : undefined, parts === 1 ? dc : undefined, plan.blocks === 1 ? ddt : undefined];
  const made = sizes.map((n, i) => all ?? (i === 5 ? a.dinitial : (direct[i] ?? scratch([n]))));
  const variant = { reads, packed, first: a.dinitial !== undefined };
  const launches: Launch[] = [
    {
      shader: plan.lanes > 0 ? rowsGradShader(s, variant) : gradShader(s, plan, caps, variant),
      args: [...present, ...(all ? [all] : made.filter((m) => m !== undefined))],
      params: [...params(s, plan), ...offsets],
      grid: groupsOf(s, plan),
    },
  ];
  const finish = (i: number, target: GpuArg | undefined, inner: number, terms: number) => {
    if (target && made[i] !== target) launches.push(sumTerms(made[i]!, offsets[i], target, inner, terms));
  };
  finish(0, dx, 1, 1);
  finish(1, db, s.n, parts);
  finish(2, dc, s.n, parts);
  finish(3, ddt, 1, plan.blocks);
  finish(5, a.dinitial, 1, 1);
  if (daLog || dd || dbias) {
    const targets = [daLog, dd, dbias].map((t) => t ?? scratch([s.heads]));
    launches.push(sumHeads(made[4]!, offsets[4], targets, rows, s.heads));
  }
  return launches;
}

interface GradVariant {
  /** x, steps, B, C, dy, states, ends. */
  readonly reads: readonly (GpuArg | undefined)[];
  readonly packed: boolean;
  readonly first: boolean;
}

function gradFlags(variant: GradVariant): string {
  const [, , , , dy, state, end] = variant.reads;
  return [dy, state, end, variant.packed, variant.first].map((f) => (f ? 1 : 0)).join('');
}

function gradBindings(variant: GradVariant, n: string) {
  const [, , , , dy, state, end] = variant.reads;
  const outputs = OUTPUTS.filter((name) => name !== 'first' || variant.first);
  return {
    reads: {
      ...{ xs: 'f32', steps: 'vec4<f32>', bs: n, cs: n },
      ...(dy && { dys: 'f32' }),
      ...(state && { states: n }),
      ...(end && { ends: n }),
    },
    writes: variant.packed
      ? { grads: 'f32' }
      : Object.fromEntries(outputs.map((name) => [`${name}s`, ALONG[name] === 'n' ? n : 'f32'])),
    params: { ...PARAMS, ...Object.fromEntries(OUTPUTS.map((name) => [name, 'u32' as const])) },
  };
}

/** What both backward kernels write number by number. */
function scalarStores(variant: GradVariant, names: readonly string[]): string {
  const target = (name: string) => (variant.packed ? `grads[params.${name} + ` : `${name}s[`);
  const stores = names.map((name) => writer(name, name !== 'first' || variant.first ? target(name) : undefined));
  return [
    ...stores,
    `fn store_sums(i: u32, value: vec3<f32>) {
  for (var c = 0u; c < 3u; c++) { ${target('sum')}i * 3u + c] = value[c]; }
}`,
  ].join('\n');
}

function gradShader(s: SsdSizes, plan: Plan, caps: GpuCaps, variant: GradVariant): Shader {
  const [, , , , dy, state, end] = variant.reads;
  return shader(`ssd.backward.${planKey(s, plan, caps)}.${gradFlags(variant)}`, () => {
    const exact = s.p === plan.pBlock * plan.blocks;
    const load = (name: string, along: 'n' | 'p', bound: unknown) => loader({ name, along }, !!bound, s, exact);
    const vectorStores = ['dx', 'db', 'dc', 'first'].map((name) => {
      const bound = name !== 'first' || variant.first;
      return storer({ name, along: ALONG[name] }, bound, s, exact, variant.packed ? name : undefined);
    });
    return {
      ...gradBindings(variant, nType(s)),
      constants: planConstants(s, plan),
      code: [
        FLAT_INDEX,
        upto(caps),
        commonCode,
        load('x', 'p', true),
        load('b', 'n', true),
        load('c', 'n', true),
        load('dy', 'p', dy),
        load('state', 'n', state),
        load('end', 'n', end),
        ...vectorStores,
        scalarStores(variant, ['ddt']),
        backwardCode,
      ].join('\n'),
    };
  });
}

function rowsGradShader(s: SsdSizes, variant: GradVariant): Shader {
  const [, , , , dy, state, end] = variant.reads;
  return shader(`ssd.rows_backward.${s.n}.${gradFlags(variant)}`, () => ({
    ...gradBindings(variant, 'f32'),
    constants: { WG: 64, EACH: s.n },
    code: [
      FLAT_INDEX,
      reader('dy', dy),
      reader('state', state),
      reader('end', end),
      scalarStores(variant, OUTPUTS.filter((name) => name !== 'sum')),
      rowsBackwardCode,
    ].join('\n'),
  }));
}

/** y[r, i] = Σ_k x[from + (r·terms + k)·inner + i]: over the heads of a group and the blocks of a head. */
function sumTerms(x: GpuArg, from: number, y: GpuArg, inner: number, terms: number): Launch {
  const kernel = shader('ssd.sum_terms', () => ({
    reads: { xs: 'f32' },
    writes: { ys: 'f32' },
    params: { total: 'u32', start: 'u32', inner: 'u32', terms: 'u32' },
    constants: { WG },
    code: `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let first = params.start + (i / params.inner) * params.terms * params.inner + i % params.inner;
  var sum = 0.0;
  for (var k = 0u; k < params.terms; k++) { sum += xs[first + k * params.inner]; }
  ys[i] = sum;
}`,
  }));
  return { shader: kernel, args: [x, y], params: [y.size, from, inner, terms], grid: grid1d(y.size, WG) };
}

/** dA_log, dD and ddt_bias: the sums that workgroups left, (rows, H, 3), over their rows. A workgroup a head. */
function sumHeads(sums: GpuArg, from: number, targets: readonly GpuArg[], rows: number, heads: number): Launch {
  const kernel = shader('ssd.sum_heads', () => ({
    reads: { sums: 'f32' },
    writes: { a_logs: 'f32', ds: 'f32', biases: 'f32' },
    params: { start: 'u32', rows: 'u32', heads: 'u32' },
    constants: { WG },
    code: `${FLAT_INDEX}
var<workgroup> parts: array<vec3<f32>, WG>;
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let head = flat_group(group, groups);
  if (head >= params.heads) { return; }
  var sum = vec3<f32>();
  for (var r = t; r < params.rows; r += WG) {
    let at = params.start + (r * params.heads + head) * 3u;
    sum += vec3<f32>(sums[at], sums[at + 1u], sums[at + 2u]);
  }
  parts[t] = sum;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (t < half) { parts[t] += parts[t + half]; }
  }
  if (t == 0u) {
    a_logs[head] = parts[0].x;
    ds[head] = parts[0].y;
    biases[head] = parts[0].z;
  }
}`,
  }));
  return { shader: kernel, args: [sums, ...targets], params: [from, rows, heads], grid: grid1d(heads, 1) };
}
