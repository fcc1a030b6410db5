import { apply } from '../../engine/apply.ts';
import { expectOneOf } from '../../engine/arguments.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Channels, expectOneToken, type Range, rangeOf, rowSize } from '../common/channels.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { checkTaps, conv, shared, sizesOf } from './causal-conv1d.ts';

interface StepAttrs {
  /** The token's channels in a row of x. */
  readonly range: Range;
  readonly silu: boolean;
}

const step = /* @__PURE__ */ defineOp({
  name: 'causal_conv1d_step',
  inputs: ['x', 'w', 'bias?', 'columns'],
  outputs: ['y'],
  shape({ columns, ...operands }, { range }: StepAttrs) {
    const { x, w } = operands;
    const batch = x.shape[0];
    expectOneToken('causal_conv1d_step', 'x', x, batch);
    checkTaps('causal_conv1d_step', operands, range.size);
    expectFloats('causal_conv1d_step', { columns });
    expectShape('causal_conv1d_step', 'columns', columns, [batch, w.shape[1] - 1, range.size]);
    return { y: spec([batch, 1, range.size], x.dtype) };
  },
  reference({ x, columns, ...taps }, { y }, { range: { from, size }, silu }) {
    const token = { ...y, data: new Float64Array(y.size) };
    const begins = Array.from({ length: x.shape[0] }, (_, b) => b * rowSize(x) + from);
    const rows = begins.map((begin) => x.data.subarray(begin, begin + size));
    rows.forEach((row, b) => token.data.set(row, b * size));
    conv.reference({ x: token, ...taps, initial: columns }, { y }, { layout: 'blc', silu });
    const kept = columns.size / rows.length;
    if (kept === 0) return;
    rows.forEach((row, b) => {
      columns.data.copyWithin(b * kept, b * kept + size, (b + 1) * kept);
      columns.data.set(row, (b + 1) * kept - size);
    });
  },
  webgpu({ x, w, bias, columns }, { y }, { range, silu }, device) {
    const s = sizesOf({ x, w }, 'blc');
    const own = shared(s, { layout: 'blc', silu });
    return [launchElements(device, y.size, {
      ...own,
      key: `${own.key} step`,
      reads: { rows: x, w, bias },
      writes: { columns: s.width > 1 ? columns : undefined, y },
      params: { ...own.params, row: rowSize(x), start: range.from },
      declarations: () => /* wgsl */ `
fn load_x(i: u32) -> f32 { return load_rows(i / params.channels * params.row + params.start + i % params.channels); }
fn load_initial(i: u32) -> f32 { return load_columns(i); }
${own.declarations()}`,
      // A thread owns a channel of one sequence.
      body: () => /* wgsl */ `let at = place(i, 1u);
  var sum = load_bias(at.c);
  for (var k = 0u; k < K; k++) {
    let column = input_at(at.b, at.c, i32(k) - i32(K - 1u));
    sum += load_w(at.c * K + k) * column;
    if (k > 0u) { store_columns(index(at.b, at.c, k - 1u, K - 1u), column); }
  }
  store_y(i, activated(sum));`,
    })];
  },
  wasm({ x, w, bias, columns }, { y }, { range, silu }, { k, sizes, scratch }) {
    const { batch, channels, width } = sizesOf({ x, w }, 'blc');
    const room = scratch(sizes.causal_conv1d_scratch(channels, 1, width, 1));
    const token = at(x, 4 * range.from);
    k.causal_conv1d_step(token, w, bias, columns, y, batch, channels, width, rowSize(x), Number(silu), room);
    return true;
  },
  mutates: ['columns'],
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
