import { apply } from '../../engine/apply.ts';
import { expectOneOf } from '../../engine/arguments.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Channels, expectOneToken, type Range, rangeOf, rowSize } from '../common/channels.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectFloats, expectRank, expectShape, show } from '../common/shapes.ts';
import { MAX_WIDTH } from './causal-conv1d.ts';

interface StepAttrs {
  /** The token's channels in a row of x. */
  readonly range: Range;
  readonly silu: boolean;
}

const step = /* @__PURE__ */ defineOp({
  name: 'causal_conv1d_step',
  inputs: ['x', 'w', 'bias?', 'columns'],
  outputs: ['y'],
  shape({ x, w, bias, columns }, { range }: StepAttrs) {
    expectFloats('causal_conv1d_step', { x, w, bias, columns });
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
  webgpu({ x, w, bias, columns }, { y }, { range, silu }, device) {
    const [channels, width] = w.shape;
    const kernel = {
      key: `causal_conv1d step ${width} ${silu}`,
      reads: { x, w, bias },
      writes: { columns: width > 1 ? columns : undefined, y },
      params: { channels: ['u32', channels], row: ['u32', rowSize(x)], start: ['u32', range.from] },
      constants: { LAST: width - 1 },
      // A thread owns a channel of one sequence.
      body: () => /* wgsl */ `let b = i / params.channels;
  let c = i % params.channels;
  let first = b * LAST * params.channels + c;
  let now = load_x(b * params.row + params.start + c);
  var sum = load_bias(c);
  for (var k = 0u; k < LAST; k++) {
    let column = load_columns(first + k * params.channels);
    sum += load_w(c * (LAST + 1u) + k) * column;
    if (k > 0u) { store_columns(first + (k - 1u) * params.channels, column); }
  }
  ${width > 1 ? 'store_columns(first + (LAST - 1u) * params.channels, now);' : ''}
  sum += load_w(c * (LAST + 1u) + LAST) * now;
  let e = exp(-abs(sum));
  store_y(i, ${silu ? 'sum * select(e, 1.0, sum >= 0.0) / (1.0 + e)' : 'sum'});`,
    } as const;
    return [launchElements(y.size, kernel, device)];
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
