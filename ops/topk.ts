import { apply, apply1 } from '../engine/apply.ts';
import { FLAT_INDEX, grid1d, shader } from '../engine/backends/webgpu/launch.ts';
import { expectDType } from '../engine/dtype.ts';
import { ShapeError } from '../engine/errors.ts';
import { defineOp, spec } from '../engine/op.ts';
import type { Tensor } from '../engine/tensor.ts';
import { comesBefore, ORDER } from './order.ts';
import { around, normalizeDim, show } from './shapes.ts';
import code from './topk.wgsl';
import backwardCode from './topk_backward.wgsl';

interface TopkAttrs {
  readonly k: number;
  readonly dim: number;
}

const PARAMS = { lines: 'u32', len: 'u32', inner: 'u32', k: 'u32' } as const;

const topkShader = () =>
  shader('topk', () => ({
    reads: { x: 'f32' },
    writes: { values: 'f32', indices: 'i32' },
    params: PARAMS,
    code: ORDER + FLAT_INDEX + code,
  }));

const backwardShader = () =>
  shader('topk_backward', () => ({
    reads: { indices: 'i32', dy: 'f32' },
    writes: { dx: 'f32' },
    params: PARAMS,
    code: FLAT_INDEX + backwardCode,
  }));

/** Puts dy at the chosen indices of zeros. */
const topkBackward = /* @__PURE__ */ defineOp<TopkAttrs & { shape: readonly number[] }>({
  name: 'topk_backward',
  shape: (_, { shape }) => [spec(shape)],
  reference({ inputs: [indices, dy], outputs: [dx], attrs: { k, dim } }) {
    const { length, inner } = around(dx.shape, dim);
    dx.data.fill(0);
    for (let o = 0; o < dy.size; o++) {
      const outer = Math.floor(o / (k * inner));
      dx.data[(outer * length + indices.data[o]) * inner + (o % inner)] = dy.data[o];
    }
  },
  webgpu({ inputs: [indices, dy], outputs: [dx], attrs: { k, dim } }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const params = [outer * inner, length, inner, k];
    return [{ shader: backwardShader(), args: [indices, dy, dx], params, grid: grid1d(outer * inner, 1) }];
  },
});

export const topkOp = /* @__PURE__ */ defineOp<TopkAttrs>({
  name: 'topk',
  shape([x], { k, dim }) {
    expectDType('topk', 'x', x.dtype, 'f32');
    if (!Number.isInteger(k) || k < 0 || k > (x.shape[dim] ?? 1)) {
      const most = x.shape[dim] ?? 1;
      throw new ShapeError(`topk: k is ${k}, expected at most the ${most} of dim ${dim} of ${show(x.shape)}`);
    }
    const shape = x.shape.map((d, i) => (i === dim ? k : d));
    return [spec(shape), spec(shape, 'i32')];
  },
  reference({ inputs: [x], outputs: [values, indices], attrs: { k, dim } }) {
    const { outer, length, inner } = around(x.shape, dim);
    for (let line = 0; line < outer * inner; line++) {
      const column = line % inner;
      const at = (i: number) => x.data[((line - column) / inner) * length * inner + i * inner + column];
      const order = Array.from({ length }, (_, i) => i);
      order.sort((i, j) => (comesBefore(at(i), i, at(j), j) ? -1 : 1));
      for (let round = 0; round < k; round++) {
        const o = (((line - column) / inner) * k + round) * inner + column;
        values.data[o] = at(order[round]);
        indices.data[o] = order[round];
      }
    }
  },
  webgpu({ inputs: [x], outputs: [values, indices], attrs: { k, dim } }) {
    const { outer, length, inner } = around(x.shape, dim);
    const params = [outer * inner, length, inner, k];
    return [{ shader: topkShader(), args: [x, values, indices], params, grid: grid1d(outer * inner, 1) }];
  },
  saves: { outputs: [1] },
  backward({ output, inputSpecs, grads, attrs }) {
    return [grads[0] && apply1(topkBackward, [output(1), grads[0]], { ...attrs, shape: inputSpecs[0].shape })];
  },
});

/**
 * The k largest elements along `dim`, largest first, and their indices (i32); the lower index first among equals, NaN
 * largest. The values carry a gradient.
 */
export function topk(x: Tensor, k: number, dim = -1): [values: Tensor, indices: Tensor] {
  const [values, indices] = apply(topkOp, [x], { k, dim: normalizeDim('topk', dim, x.shape.length) });
  return [values, indices];
}
