import { apply } from '../../engine/apply.ts';
import { FLOATS } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { mul, sub } from '../elementwise/binary.ts';
import { cast } from '../elementwise/cast.ts';
import { logicalNot } from '../elementwise/compare.ts';
import { defineElementwise } from '../elementwise/define.ts';
import { sqrt } from '../elementwise/unary.ts';
import { maskedFill } from '../elementwise/where.ts';
import { unsqueeze } from '../movement/reshape.ts';
import { defineReduction, type ReduceOptions } from './define.ts';
import { SQUARES } from './fold.ts';

/** dx = dy·x/‖x‖, and 0 where the norm is. */
const normBackward = /* @__PURE__ */ defineElementwise<object, 'x' | 'norm' | 'dy'>({
  name: 'norm_backward',
  inputs: ['x', 'norm', 'dy'],
  result: ({ x }) => x.dtype,
  f: () => (x, norm, dy) => (norm === 0 ? 0 : dy * (x / norm)),
  wgsl: 'select(dy * ratio_of(x, norm), 0.0, norm == 0.0)',
  wasm({ x, norm, dy }, dx, _, { k }) {
    if (norm.size !== 1) return false;
    k.fill(dx, dx.size, 0);
    k.l2_distance_backward(x, dx, norm, dy, dx, dx.size);
    return true;
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
  gradient: ({ x, y, dy }) => apply(normBackward, { x, norm: y, dy }, {}).y,
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): floats of one shape → f32 []. Its gradient at a = b
 * is 0.
 * @param weights floats, of the shape without its last dimension: factors of the squares, which get no gradient; what
 *   has none may hold anything
 */
export function l2Distance(a: Tensor, b: Tensor, weights?: Tensor): Tensor {
  expectFloats('l2_distance', { a, b, weights });
  expectShape('l2_distance', 'b', b, a.shape);
  if (weights) expectShape('l2_distance', 'weights', weights, a.shape.slice(0, -1));
  return scope(() => {
    const apart = sub(cast(a, 'f32'), cast(b, 'f32'));
    if (!weights) return norm(apart);
    const factors = unsqueeze(cast(weights.detach(), 'f32'), -1);
    return norm(maskedFill(mul(apart, sqrt(factors)), logicalNot(factors), 0));
  });
}
