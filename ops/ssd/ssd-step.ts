import type { Spec } from '../../engine/backend.ts';
import { apply } from '../../engine/apply.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Named, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Channels, expectOneToken, type Range, rangeOf, rowSize } from '../common/channels.ts';
import { expectFloats, expectRank, expectShape, show } from '../common/shapes.ts';
import { discretise, recurrence } from './kernels.ts';
import { scanReference } from './reference.ts';
import type { Layouts, SsdSizes } from './shape.ts';
import type { SsdInputTensors } from './ssd-scan.ts';

const TOKEN = ['x', 'dt', 'B', 'C'] as const;
const HEADS = ['A_log', 'D', 'dt_bias'] as const;
type Input = (typeof TOKEN)[number] | (typeof HEADS)[number] | 'state';
type Ranges = { readonly [K in (typeof TOKEN)[number]]: Range };

function sizesOf({ shape: [batch, heads, p, n] }: Spec): SsdSizes {
  return { batch, length: 1, heads, p, groups: heads, n };
}

function layouts(inputs: Named<Input, Spec>, ranges: Ranges): Layouts {
  const [, heads, p, n] = inputs.state.shape;
  const per = { x: p, dt: 1, B: n, C: n };
  const of = (name: keyof Ranges) => {
    const { from, size } = ranges[name];
    return { row: rowSize(inputs[name]), from, share: heads / (size / per[name]) };
  };
  return { x: of('x'), dt: of('dt'), B: of('B'), C: of('C') };
}

const step = defineOp({
  name: 'ssd_step',
  inputs: [...TOKEN, ...HEADS, 'state'],
  outputs: ['y'],
  shape(inputs, ranges: Ranges) {
    const { state, x } = inputs;
    expectFloats('ssd_step', inputs);
    expectDType('ssd_step', 'state', state.dtype, 'f32');
    expectRank('ssd_step', 'state', state, 4);
    const [batch, heads, p, n] = state.shape;
    if (heads < 1 || p < 1 || n < 1) {
      throw new ShapeError(`ssd_step: state has shape ${show(state.shape)}, expected heads, P and N of at least 1`);
    }
    const own = layouts(inputs, ranges);
    for (const name of TOKEN) {
      expectOneToken('ssd_step', name, inputs[name], batch);
      const { share } = own[name];
      const given = heads / share;
      if (given >= 1 && Number.isInteger(given) && Number.isInteger(share) && (name !== 'dt' || share === 1)) continue;
      const want = name === 'dt' ? `${heads}` : `a divisor of ${heads}, times ${name === 'x' ? p : n}`;
      throw new ShapeError(`ssd_step: ${name} has ${ranges[name].size} values a token, expected ${want}`);
    }
    for (const name of HEADS) expectShape('ssd_step', name, inputs[name], [heads]);
    return { y: spec([batch, 1, heads, p], x.dtype) };
  },
  reference({ state, ...inputs }, { y }, ranges) {
    const own = layouts({ ...inputs, state }, ranges);
    scanReference({ ...inputs, initialState: state }, y, state, sizesOf(state), own);
  },
  webgpu(inputs, { y }, ranges, device) {
    const { x, dt, B, C, A_log, D, dt_bias, state } = inputs;
    const own = layouts(inputs, ranges);
    const s = sizesOf(state);
    const lanes = device.caps.software ? 1 : 8;
    const token = { xs: x, bs: B, cs: C, starts: state, ends: state, ys: y };
    const step = { dt, A_log, D, dt_bias };
    if (Object.keys(inputs).length + 1 <= device.caps.maxStorageBuffers) {
      return [recurrence({ ...token, ...step }, s, own, lanes, device)];
    }
    // Where a kernel cannot bind as much, one before it makes the steps.
    const steps = device.scratch([s.batch * s.heads, 4]);
    return [discretise(step, own.dt, steps, device), recurrence({ ...token, steps }, s, own, lanes, device)];
  },
  wasm({ x, dt, B, C, A_log, D, dt_bias, state }, { y }, ranges, { k }) {
    const [batch, heads, p, n] = state.shape;
    const own = layouts({ x, dt, B, C, A_log, D, dt_bias, state }, ranges);
    const begin = (slot: Slot, { from }: Range) => at(slot, 4 * from);
    const token = [begin(x, ranges.x), begin(dt, ranges.dt), begin(B, ranges.B), begin(C, ranges.C)] as const;
    const layout = [own.x.row, own.dt.row, own.B.row, own.C.row, own.x.share, own.B.share, own.C.share] as const;
    k.ssd_step(...token, A_log, D, dt_bias, state, y, batch, heads, p, n, ...layout);
    return true;
  },
  mutates: ['state'],
});

/**
 * One token of `ssdScan`, in place: `state` (B, H, P, N) f32 becomes the state after the token, and nothing but y is
 * allocated. Not recorded: it has no gradient. Besides whole tensors it takes channels of wider ones for x, dt, B and
 * C, and x, B and C of any numbers of heads that divide H, which neighbouring heads share.
 * @returns y (B, 1, H, P), of x's dtype
 */
export function ssdStep_(state: Tensor, token: SsdInputTensors<Tensor | Channels>): Tensor {
  const [x, dt, B, C] = TOKEN.map((name) => rangeOf('ssd_step', name, token[name]));
  const tensors = { x: x.tensor, dt: dt.tensor, B: B.tensor, C: C.tensor };
  const ranges = { x: x.range, dt: dt.range, B: B.range, C: C.range };
  const { A_log, D, dt_bias } = token;
  return apply(step, { ...tensors, A_log, D, dt_bias, state }, ranges).y;
}
