import { accessor } from '../../engine/access.ts';
import { apply } from '../../engine/apply.ts';
import { expectOneOf } from '../../engine/arguments.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Channels, expectOneToken, type Range, rangeOf, rowSize } from '../common/channels.ts';
import { expectRank, expectShape, show } from '../common/shapes.ts';
import { MAX_WIDTH } from './causal-conv1d.ts';

const WG = 64;

interface StepAttrs {
  /** The token's channels in a row of x. */
  readonly range: Range;
  readonly silu: boolean;
}

const step = defineOp({
  name: 'causal_conv1d_step',
  inputs: ['x', 'w', 'bias?', 'columns'],
  outputs: ['y'],
  shape({ x, w, bias, columns }, { range }: StepAttrs) {
    for (const [name, arg] of Object.entries({ x, w, bias, columns })) {
      if (arg) expectDType('causal_conv1d_step', name, arg.dtype, ...FLOATS);
    }
    expectRank('causal_conv1d_step', 'w', w, 2);
    const [channels, width] = w.shape;
    const batch = x.shape[0];
    expectOneToken('causal_conv1d_step', 'x', x, batch);
    if (range.size !== channels || width < 1 || width > MAX_WIDTH) {
      throw new ShapeError(
        `causal_conv1d_step: w has shape ${show(w.shape)}, expected [${range.size}, 1…${MAX_WIDTH}] for x's channels`,
      );
    }
    if (bias) expectShape('causal_conv1d_step', 'bias', bias, [channels]);
    expectShape('causal_conv1d_step', 'columns', columns, [batch, width - 1, channels]);
    return { y: spec([batch, 1, channels], x.dtype) };
  },
  reference({ x, w, bias, columns }, { y }, { range, silu }) {
    const [channels, width] = w.shape;
    for (let b = 0; b < x.shape[0]; b++) {
      for (let c = 0; c < channels; c++) {
        const now = x.data[b * rowSize(x) + range.from + c];
        let sum = bias ? bias.data[c] : 0;
        for (let k = 0; k < width; k++) {
          const place = (b * (width - 1) + k) * channels + c;
          const column = k < width - 1 ? columns.data[place] : now;
          sum += w.data[c * width + k] * column;
          if (k > 0) columns.data[place - channels] = column;
        }
        y.data[b * channels + c] = silu ? sum / (1 + Math.exp(-sum)) : sum;
      }
    }
  },
  webgpu({ x, w, bias, columns }, { y }, { range, silu }, { caps }) {
    const [channels, width] = w.shape;
    const given = { xs: x, ws: w, ...(bias && { biases: bias }) };
    const reads = Object.fromEntries(
      Object.entries(given).map(([name, { dtype }]) => [name, accessor(accessOf(dtype, caps), false)]),
    );
    const key = Object.entries(reads).map(([name, { key }]) => `${name}:${key}`);
    const kernel = shader(`causal_conv1d.step.${width}.${silu}.${key}`, () => ({
      reads,
      writes: { ...(width > 1 && { columns: 'f32' }), ys: 'f32' },
      params: { total: 'u32', channels: 'u32', row: 'u32', start: 'u32' },
      constants: { WG, K: width },
      // A thread owns a channel of one sequence.
      code: /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let b = i / params.channels;
  let c = i % params.channels;
  let now = load_xs(b * params.row + params.start + c);
  var sum = ${bias ? 'load_biases(c)' : '0.0'};
  ${width > 1 ? `for (var k = 0u; k + 1u < K; k++) {
    let place = (b * (K - 1u) + k) * params.channels + c;
    let column = columns[place];
    sum += load_ws(c * K + k) * column;
    if (k > 0u) { columns[place - params.channels] = column; }
  }
  columns[(b * (K - 1u) + K - 2u) * params.channels + c] = now;` : ''}
  sum += load_ws(c * K + K - 1u) * now;
  let e = exp(-abs(sum));
  ys[i] = ${silu ? 'sum * select(e, 1.0, sum >= 0.0) / (1.0 + e)' : 'sum'};
}`,
    }));
    return [
      {
        shader: kernel,
        args: [...Object.values(given), ...(width > 1 ? [columns] : []), y],
        params: [y.size, channels, rowSize(x), range.from],
        grid: grid1d(y.size, WG),
      },
    ];
  },
  wasm({ x, w, bias, columns }, { y }, { range, silu }, { k, sizes, scratch }) {
    const [channels, width] = w.shape;
    const room = scratch(sizes.causal_conv1d_scratch(channels, 1, width, 1));
    const token = at(x, 4 * range.from);
    k.causal_conv1d_step(token, w, bias, columns, y, x.shape[0], channels, width, rowSize(x), Number(silu), room);
    return true;
  },
  mutates: ['columns'],
  asStored: { webgpu: ['x', 'w', 'bias'] },
});

/**
 * One token of `causalConv1d`, in place: `columns`, the last K−1 tokens before it, moves on by the token, and nothing
 * but y is allocated. Not recorded: it has no gradient.
 * @param columns (B, K−1, C)
 * @param x (B, 1, C), or C channels of a wider tensor
 * @param w (C, K), K ≤ 8
 * @param bias (C) or null
 * @returns y (B, 1, C), of x's dtype
 */
export function causalConv1dStep_(
  columns: Tensor,
  x: Tensor | Channels,
  w: Tensor,
  bias: Tensor | null,
  { activation = null }: { readonly activation?: null | 'silu' } = {},
): Tensor {
  expectOneOf('causal_conv1d_step', 'activation', activation, null, 'silu');
  const { tensor, range } = rangeOf('causal_conv1d_step', 'x', x);
  return apply(step, { x: tensor, w, bias: bias ?? undefined, columns }, { range, silu: activation === 'silu' }).y;
}
