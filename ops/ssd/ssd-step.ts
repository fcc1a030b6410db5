import type { Spec } from '../../engine/backend.ts';
import { accessor } from '../../engine/access.ts';
import { apply } from '../../engine/apply.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { FLAT_INDEX, type GpuCaps, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Named, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Channels, expectOneToken, type Range, rangeOf, rowSize } from '../common/channels.ts';
import { expectRank, expectShape, show } from '../common/shapes.ts';
import discretisedCode from './discretised.wgsl';
import { softplus } from './reference.ts';
import rowsCode from './rows.wgsl';

/** What `ssdStep_` reads of a token: each a tensor, or some channels of one. */
export interface SsdToken {
  /** (B, 1, Hx, P): Hx divides H, and head h reads head ⌊h / (H/Hx)⌋ */
  readonly x: Tensor | Channels;
  /** (B, 1, H), before bias and softplus */
  readonly dt: Tensor | Channels;
  /** (B, 1, G, N), G any divisor of H */
  readonly B: Tensor | Channels;
  /** (B, 1, G, N), G any divisor of H, not necessarily that of B */
  readonly C: Tensor | Channels;
  /** (H) */
  readonly A_log: Tensor;
  /** (H) */
  readonly D: Tensor;
  /** (H) */
  readonly dt_bias: Tensor;
}

const TOKEN = ['x', 'dt', 'B', 'C'] as const;
const HEADS = ['A_log', 'D', 'dt_bias'] as const;
const INPUTS = [...TOKEN, ...HEADS, 'state'] as const;
type Input = (typeof INPUTS)[number];
type Ranges = { readonly [K in (typeof TOKEN)[number]]: Range };

/** For each of x, dt, B and C: elements between sequences, where they begin, and how many heads share what they read. */
function layouts(inputs: Named<Input, Spec>, ranges: Ranges) {
  const [, heads, p, n] = inputs.state.shape;
  const per = { x: p, dt: 1, B: n, C: n };
  const of = (name: keyof Ranges) => {
    const { from, size } = ranges[name];
    return { row: rowSize(inputs[name]), from, heads: size / per[name], share: heads / (size / per[name]) };
  };
  return { x: of('x'), dt: of('dt'), B: of('B'), C: of('C') };
}

const step = defineOp({
  name: 'ssd_step',
  inputs: INPUTS,
  outputs: ['y'],
  shape(inputs, ranges: Ranges) {
    const { state, x } = inputs;
    for (const name of [...TOKEN, ...HEADS]) expectDType('ssd_step', name, inputs[name].dtype, ...FLOATS);
    expectDType('ssd_step', 'state', state.dtype, 'f32');
    expectRank('ssd_step', 'state', state, 4);
    const [batch, heads, p, n] = state.shape;
    if (heads < 1 || p < 1 || n < 1) {
      throw new ShapeError(`ssd_step: state has shape ${show(state.shape)}, expected heads, P and N of at least 1`);
    }
    const own = layouts(inputs, ranges);
    for (const name of TOKEN) {
      expectOneToken('ssd_step', name, inputs[name], batch);
      const { heads: given, share } = own[name];
      if (given >= 1 && Number.isInteger(given) && Number.isInteger(share) && (name !== 'dt' || share === 1)) continue;
      const want = name === 'dt' ? `${heads}` : `a divisor of ${heads}, times ${name === 'x' ? p : n}`;
      throw new ShapeError(`ssd_step: ${name} has ${ranges[name].size} values a token, expected ${want}`);
    }
    for (const name of HEADS) expectShape('ssd_step', name, inputs[name], [heads]);
    return { y: spec([batch, 1, heads, p], x.dtype) };
  },
  reference({ x, dt, B, C, A_log, D, dt_bias, state }, { y }, ranges) {
    const [batch, heads, P, N] = state.shape;
    const own = layouts({ x, dt, B, C, A_log, D, dt_bias, state }, ranges);
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const begin = ({ row, from, share }: (typeof own)['x'], size: number) => b * row + from + Math.floor(h / share) * size;
        const [xAt, bAt, cAt] = [begin(own.x, P), begin(own.B, N), begin(own.C, N)];
        const size = softplus(dt.data[begin(own.dt, 1)] + dt_bias.data[h]);
        const decay = Math.exp(-size * Math.exp(A_log.data[h]));
        for (let p = 0; p < P; p++) {
          const from = ((b * heads + h) * P + p) * N;
          let sum = D.data[h] * x.data[xAt + p];
          for (let n = 0; n < N; n++) {
            const next = decay * state.data[from + n] + size * x.data[xAt + p] * B.data[bAt + n];
            state.data[from + n] = next;
            sum += next * C.data[cAt + n];
          }
          y.data[(b * heads + h) * P + p] = sum;
        }
      }
    }
  },
  webgpu: (inputs, { y }, ranges, { caps, scratch }) => launches(inputs, y, ranges, caps, scratch),
  wasm({ x, dt, B, C, A_log, D, dt_bias, state }, { y }, ranges, { k }) {
    const [batch, heads, p, n] = state.shape;
    const own = layouts({ x, dt, B, C, A_log, D, dt_bias, state }, ranges);
    const begin = (slot: Slot, { from }: Range) => at(slot, 4 * from);
    const token = [begin(x, ranges.x), begin(dt, ranges.dt), begin(B, ranges.B), begin(C, ranges.C)] as const;
    const rows = [own.x.row, own.dt.row, own.B.row, own.C.row] as const;
    k.ssd_step(...token, A_log, D, dt_bias, state, y, batch, heads, p, n, ...rows, own.x.share, own.B.share, own.C.share);
    return true;
  },
  mutates: ['state'],
  asStored: { webgpu: [...TOKEN, ...HEADS] },
});

const PARAMS = [
  'total', 'length', 'heads', 'p', 'n', 'limit', 'dt_row', 'dt_from',
  ...['x', 'b', 'c'].flatMap((name) => [`${name}_row`, `${name}_from`, `${name}_share`]),
];
const WG = 64;

function launches(
  inputs: Named<Input, Slot>,
  y: Slot,
  ranges: Ranges,
  caps: GpuCaps,
  scratch: (shape: readonly number[]) => Slot,
): Launch[] {
  const { x, dt, B, C, A_log, D, dt_bias, state } = inputs;
  const [batch, heads, p, n] = state.shape;
  const own = layouts(inputs, ranges);
  const lanes = caps.software ? 1 : 8;
  const head = { dts: dt, a_logs: A_log, ds: D, biases: dt_bias };
  const token = { xs: x, bs: B, cs: C };
  // Where a kernel cannot bind as much, one before it makes the steps.
  const apart = Object.keys(inputs).length + 1 > caps.maxStorageBuffers;
  const steps = apart ? scratch([batch * heads, 4]) : undefined;
  const reading = (slots: Readonly<Record<string, Slot>>) => {
    const reads = Object.entries(slots).map(([name, { dtype }]) => [name, accessor(accessOf(dtype, caps), false)] as const);
    return { reads: Object.fromEntries(reads), key: reads.map(([, { key }]) => key).join('.') };
  };
  const discretised = `${FLAT_INDEX}${discretisedCode}
fn discretised_at(token: u32, head: u32) -> vec4<f32> {
  let raw = load_dts(token * params.dt_row + params.dt_from + head) + load_biases(head);
  return discretised(raw, load_a_logs(head), load_ds(head));
}`;
  const made: Launch[] = [];
  if (steps) {
    const { reads, key } = reading(head);
    made.push({
      shader: shader(`ssd.step.discretise.${key}`, () => ({
        reads,
        writes: { steps: 'vec4<f32>' },
        params: { total: 'u32', heads: 'u32', dt_row: 'u32', dt_from: 'u32' },
        constants: { WG },
        code: `${discretised}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i < params.total) { steps[i] = discretised_at(i / params.heads, i % params.heads); }
}`,
      })),
      args: [...Object.values(head), steps],
      params: [batch * heads, heads, own.dt.row, own.dt.from],
      grid: grid1d(batch * heads, WG),
    });
  }
  const bound = steps ? token : { ...head, ...token };
  const { reads, key } = reading(bound);
  const total = batch * heads * p;
  made.push({
    shader: shader(`ssd.step.${n}.${lanes}.${caps.software}.${apart}.${key}`, () => ({
      reads: { ...(steps && { steps: 'vec4<f32>' }), ...reads },
      writes: { states: 'f32', ys: 'f32' },
      params: Object.fromEntries(PARAMS.map((name) => [name, 'u32'])),
      constants: { WG, LANES: lanes, EACH: Math.ceil(n / lanes), WANT_Y: 1, WANT_TILES: 0 },
      code: `${apart ? FLAT_INDEX : discretised}
fn upto(n: u32) -> u32 { return ${caps.software ? 'min(n, params.limit)' : 'n'}; }
fn step_at(token: u32, head: u32) -> vec4<f32> {
  return ${apart ? 'steps[token * params.heads + head]' : 'discretised_at(token, head)'};
}
fn x_at(token: u32, head: u32, p: u32) -> f32 {
  return load_xs(token * params.x_row + params.x_from + head / params.x_share * params.p + p);
}
fn b_at(token: u32, head: u32, n: u32) -> f32 {
  return load_bs(token * params.b_row + params.b_from + head / params.b_share * params.n + n);
}
fn c_at(token: u32, head: u32, n: u32) -> f32 {
  return load_cs(token * params.c_row + params.c_from + head / params.c_share * params.n + n);
}
fn start_at(i: u32) -> f32 { return states[i]; }
fn store_end(i: u32, value: f32) { states[i] = value; }
fn store_tile(i: u32, value: f32) {}
fn store_y(i: u32, value: f32) { ys[i] = value; }
${rowsCode}`,
    })),
    args: [...(steps ? [steps] : []), ...Object.values(bound), state, y],
    params: [
      ...[total, 1, heads, p, n, 0xffffffff, own.dt.row, own.dt.from],
      ...[own.x, own.B, own.C].flatMap(({ row, from, share }) => [row, from, share]),
    ],
    grid: grid1d(total * lanes, WG),
  });
  return made;
}

/**
 * One token of `ssdScan`, in place: `state` (B, H, P, N) f32 becomes the state after the token, and nothing but y is
 * allocated. Not recorded: it has no gradient. Besides whole tensors it takes channels of wider ones, and x, B and C
 * of fewer heads than H, which neighbouring heads share.
 * @returns y (B, 1, H, P), of x's dtype
 */
export function ssdStep_(state: Tensor, token: SsdToken): Tensor {
  const ranged = TOKEN.map((name) => [name, rangeOf('ssd_step', name, token[name])] as const);
  const tensors = Object.fromEntries(ranged.map(([name, { tensor }]) => [name, tensor])) as Record<keyof Ranges, Tensor>;
  const ranges = Object.fromEntries(ranged.map(([name, { range }]) => [name, range])) as unknown as Ranges;
  const { A_log, D, dt_bias } = token;
  return apply(step, { ...tensors, A_log, D, dt_bias, state }, ranges).y;
}
