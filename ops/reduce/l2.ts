import { apply } from '../../engine/apply.ts';
import { FLOATS } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import squaresWgsl from '../common/squares.wgsl';
import { defineElementwise } from '../elementwise/define.ts';
import { zeros } from '../elementwise/fill.ts';
import { defineReduction, type ReduceOptions } from './define.ts';
import { foldLaunches } from './fold.ts';

const L2 = { fold: { acc: 'vec3<f32>', lift: 'squares(v)', join: 'a + b', helpers: squaresWgsl }, result: 'norm_of(a)', empty: 0 };

/** da = dy·(a − b)/‖a − b‖, and 0 where both are the same. */
const l2Backward = /* @__PURE__ */ defineElementwise<object, 'a' | 'b' | 'norm' | 'dy'>({
  name: 'l2_distance_backward',
  inputs: ['a', 'b', 'norm', 'dy'],
  result: ({ a }) => a.dtype,
  f: () => (a, b, norm, dy) => (norm === 0 ? 0 : dy * ((a - b) / norm)),
  wgsl: 'select(dy * ratio_of(a - b, norm), 0.0, norm == 0.0)',
  wasm({ a, b, norm, dy }, da, _, { k }) {
    const fits = a.size === da.size && b.size === da.size && norm.size === 1;
    if (fits) k.l2_distance_backward(a, b, norm, dy, da, da.size);
    return fits;
  },
});

/** √Σx², the L2 norm, over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const norm: (x: Tensor, options?: ReduceOptions) => Tensor = /* @__PURE__ */ defineReduction('norm', {
  takes: FLOATS,
  of: (values) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0)),
  result: L2.result,
  empty: L2.empty,
  fold: () => L2.fold,
  wasm(x, y, [outer, reduced, inner], { k }) {
    if (outer * inner === 1) k.l2_distance(x, undefined, y, reduced);
    return outer * inner === 1;
  },
  saves: ['x', 'y'],
  gradient: ({ x, y, dy }) => apply(l2Backward, { a: x, b: zeros(x.backend, []), norm: y, dy }, {}).y,
});

const l2DistanceOp = /* @__PURE__ */ defineOp({
  name: 'l2_distance',
  inputs: ['a', 'b'],
  outputs: ['y'],
  asStored: { webgpu: ['a', 'b'] },
  shape({ a, b }) {
    expectFloats('l2_distance', { a, b });
    expectShape('l2_distance', 'b', b, a.shape);
    return { y: spec([]) };
  },
  reference({ a, b }, { y }) {
    let sum = 0;
    for (let i = 0; i < a.size; i++) sum += (a.data[i] - b.data[i]) ** 2;
    y.data[0] = Math.sqrt(sum);
  },
  webgpu({ a, b }, { y }, _, device) {
    const fold = { type: 'f32', load: 'load_a(i) - load_b(i)', ...L2.fold };
    return foldLaunches({ name: 'l2_distance', ...L2, reads: { a, b }, fold }, y, a.shape.map((_, i) => i), device);
  },
  wasm({ a, b }, { y }, _, { k }) {
    k.l2_distance(a, b, y, a.size);
    return true;
  },
  saves: ['a', 'b', 'y'],
  backward({ needs, saved: { a, b, y }, grads }) {
    const toward = (from: Tensor, to: Tensor) => apply(l2Backward, { a: from, b: to, norm: y, dy: grads.y! }, {}).y;
    return { a: needs.a ? toward(a, b) : null, b: needs.b ? toward(b, a) : null };
  },
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): floats of one shape → f32 []. Its gradient at a = b
 * is 0.
 */
export function l2Distance(a: Tensor, b: Tensor): Tensor {
  return apply(l2DistanceOp, { a, b }, {}).y;
}
