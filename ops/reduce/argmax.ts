import { grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import code from './argmax.wgsl';
import { layoutFor, LINE_WG, LINES } from './lines.ts';
import { comesBefore, ORDER } from './order.ts';
import { reshape } from '../movement/reshape.ts';
import { around, normalizeDim, show } from '../common/shapes.ts';

export const argmaxOp = /* @__PURE__ */ defineOp<{ dim: number }>({
  name: 'argmax',
  shape([x], { dim }) {
    expectDType('argmax', 'x', x.dtype, 'f32');
    if (x.shape[dim] === 0) throw new ShapeError(`argmax: x has shape ${show(x.shape)}, expected dim ${dim} above 0`);
    return [spec(x.shape.filter((_, i) => i !== dim), 'i32')];
  },
  reference({ inputs: [x], outputs: [y], attrs: { dim } }) {
    const { outer, length, inner } = around(x.shape, dim);
    for (let line = 0; line < outer * inner; line++) {
      const base = Math.floor(line / inner) * length * inner + (line % inner);
      let best = 0;
      for (let k = 1; k < length; k++) {
        if (comesBefore(x.data[base + k * inner], k, x.data[base + best * inner], best)) best = k;
      }
      y.data[line] = best;
    }
  },
  webgpu({ inputs: [x], outputs: [y], attrs: { dim } }) {
    const { outer, length, inner } = around(x.shape, dim);
    const lines = outer * inner;
    const layout = layoutFor(length, inner);
    const kernel = shader(`argmax.${layout.key}`, () => ({
      reads: { x: 'f32' },
      writes: { y: 'i32' },
      params: { lines: 'u32', len: 'u32', inner: 'u32' },
      constants: layout.constants,
      code: ORDER + LINES + code,
    }));
    return [
      { shader: kernel, args: [x, y], params: [lines, length, inner], grid: grid1d(lines * layout.lanes, LINE_WG) },
    ];
  },
});

/** Index (i32) of the largest element along `dim`, or in all of x when left out; the first of equals, NaN largest. */
export function argmax(x: Tensor, dim?: number | null): Tensor {
  if (dim === undefined || dim === null) return argmax(reshape(x, [x.size]), 0);
  return apply1(argmaxOp, [x], { dim: normalizeDim('argmax', dim, x.shape.length) });
}
