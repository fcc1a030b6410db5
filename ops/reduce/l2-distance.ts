import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectShape } from '../common/shapes.ts';
import { ratioWgsl } from '../common/squares.ts';
import { defineElementwise } from '../elementwise/define.ts';
import { foldLaunches, NORM } from './fold.ts';

const l2DistanceOp = /* @__PURE__ */ defineOp({
  name: 'l2_distance',
  inputs: ['a', 'b'],
  outputs: ['y'],
  asStored: { webgpu: ['a', 'b'] },
  shape({ a, b }) {
    expectDType('l2_distance', 'a', a.dtype, ...FLOATS);
    expectDType('l2_distance', 'b', b.dtype, ...FLOATS);
    expectShape('l2_distance', 'b', b, a.shape);
    return { y: spec([]) };
  },
  reference({ a, b }, { y }) {
    let sum = 0;
    for (let i = 0; i < a.size; i++) sum += (a.data[i] - b.data[i]) ** 2;
    y.data[0] = Math.sqrt(sum);
  },
  webgpu({ a, b }, { y }, _, device) {
    const value = { type: 'f32', load: 'load_a(i) - load_b(i)' };
    return foldLaunches({ name: 'l2_distance', ...NORM, inputs: { a, b }, value }, y, a.shape.map((_, i) => i), device);
  },
  wasm({ a, b }, { y }, _, { k }) {
    k.l2_distance(a, b, y, a.size);
    return true;
  },
  saves: ['a', 'b', 'y'],
  backward({ needs, saved: { a, b, y }, grads }) {
    const toward = (from: Tensor, to: Tensor) => apply(l2DistanceBackward, { a: from, b: to, norm: y, dy: grads.y! }, {}).y;
    return { a: needs.a ? toward(a, b) : null, b: needs.b ? toward(b, a) : null };
  },
});

/** da = dy·(a − b)/‖a − b‖, and 0 where both are the same. */
const l2DistanceBackward = /* @__PURE__ */ defineElementwise<object, 'a' | 'b' | 'norm' | 'dy'>({
  name: 'l2_distance_backward',
  inputs: ['a', 'b', 'norm', 'dy'],
  result: ({ a }) => a.dtype,
  f: () => (a, b, norm, dy) => (norm === 0 ? 0 : dy * ((a - b) / norm)),
  wgsl: 'select(dy * ratio_of(a - b, norm), 0.0, norm == 0.0)',
  helpers: ratioWgsl,
  wasm({ a, b, norm, dy }, da, _, { k }) {
    k.l2_distance_backward(a, b, norm, dy, da, da.size);
    return true;
  },
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): floats of one shape → f32 []. Its gradient at a = b
 * is 0.
 */
export function l2Distance(a: Tensor, b: Tensor): Tensor {
  return apply(l2DistanceOp, { a, b }, {}).y;
}
