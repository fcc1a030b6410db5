import { apply } from '../../engine/apply.ts';
import { FLOATS } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { defineElementwise } from '../elementwise/define.ts';
import { zeros } from '../elementwise/fill.ts';
import { unsqueeze } from '../movement/reshape.ts';
import { defineReduction, type ReduceOptions } from './define.ts';
import { foldLaunches, SQUARES } from './fold.ts';

interface Weighted {
  readonly weighted: boolean;
}

/** da = dy·w·(a − b)/‖a − b‖, and 0 where both are the same or w is 0. */
const l2Backward = /* @__PURE__ */ defineElementwise<Weighted, 'a' | 'b' | 'norm' | 'dy' | 'weights?'>({
  name: 'l2_distance_backward',
  inputs: ['a', 'b', 'norm', 'dy', 'weights?'],
  result: ({ a }) => a.dtype,
  f: ({ weighted }) => (a, b, norm, dy, w) => {
    const weight = weighted ? w : 1;
    return norm === 0 || weight === 0 ? 0 : dy * weight * ((a - b) / norm);
  },
  wgsl: ({ weights }) =>
    weights
      ? 'select(dy * weights * ratio_of(a - b, norm), 0.0, norm == 0.0 || weights == 0.0)'
      : 'select(dy * ratio_of(a - b, norm), 0.0, norm == 0.0)',
  wasm({ a, b, norm, dy }, da, { weighted }, { k }) {
    const fits = a.size === da.size && b.size === da.size && norm.size === 1 && !weighted;
    if (fits) k.l2_distance_backward(a, b, norm, dy, da, da.size);
    return fits;
  },
});

/** √Σx², the L2 norm, over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const norm: (x: Tensor, options?: ReduceOptions) => Tensor = /* @__PURE__ */ defineReduction('norm', {
  takes: FLOATS,
  of: (values) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0)),
  result: 'norm_of(a)',
  empty: 0,
  fold: () => SQUARES,
  wasm(x, y, [outer, reduced, inner], { k }) {
    if (outer * inner === 1) k.l2_distance(x, undefined, y, reduced);
    return outer * inner === 1;
  },
  saves: ['x', 'y'],
  gradient: ({ x, y, dy }) => apply(l2Backward, { a: x, b: zeros(x.backend, []), norm: y, dy }, { weighted: false }).y,
});

const l2DistanceOp = /* @__PURE__ */ defineOp({
  name: 'l2_distance',
  inputs: ['a', 'b', 'weights?'],
  outputs: ['y'],
  asStored: { webgpu: ['a', 'b', 'weights'] },
  shape({ a, b, weights }) {
    expectFloats('l2_distance', { a, b, weights });
    expectShape('l2_distance', 'b', b, a.shape);
    if (weights) expectShape('l2_distance', 'weights', weights, [...a.shape.slice(0, -1), 1]);
    return { y: spec([]) };
  },
  reference({ a, b, weights }, { y }) {
    const columns = a.shape.at(-1)!;
    let sum = 0;
    for (let i = 0; i < a.size; i++) {
      const weight = weights ? weights.data[Math.floor(i / columns)] : 1;
      if (weight !== 0) sum += weight * (a.data[i] - b.data[i]) ** 2;
    }
    y.data[0] = Math.sqrt(sum);
  },
  webgpu({ a, b, weights }, { y }, _, device) {
    const weight = 'load_weights(i / params.columns)';
    const difference = 'load_a(i) - load_b(i)';
    const load = weights ? `select(sqrt(${weight}) * (${difference}), 0.0, ${weight} == 0.0)` : difference;
    const kernel = {
      name: `l2_distance.${weights !== undefined}`,
      reads: { a, b, weights },
      writes: { y },
      params: { columns: a.shape.at(-1) ?? 1 },
      fold: { type: 'f32', load, ...SQUARES },
      store: 'store_y(o, norm_of(a));',
    };
    return foldLaunches(kernel, a.shape.map((_, i) => i), device);
  },
  wasm({ a, b, weights }, { y }, _, { k }) {
    if (!weights) k.l2_distance(a, b, y, a.size);
    return !weights;
  },
  saves: ['a', 'b', 'weights', 'y'],
  backward({ needs, saved: { a, b, weights, y }, grads }) {
    const toward = (from: Tensor, to: Tensor) =>
      apply(l2Backward, { a: from, b: to, norm: y, dy: grads.y!, weights }, { weighted: weights !== undefined }).y;
    return { a: needs.a ? toward(a, b) : null, b: needs.b ? toward(b, a) : null };
  },
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): floats of one shape → f32 []. Its gradient at a = b
 * is 0.
 * @param weights floats, of the shape without its last dimension: factors of the squares, which get no gradient
 */
export function l2Distance(a: Tensor, b: Tensor, weights?: Tensor): Tensor {
  return apply(l2DistanceOp, { a, b, weights: weights && unsqueeze(weights, -1) }, {}).y;
}
