import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectShape } from '../common/shapes.ts';
import { ratioWgsl } from '../common/squares.ts';
import { elementwise } from '../elementwise/kernel.ts';
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
    const toward = (from: Tensor, to: Tensor) => apply(l2DistanceBackward, { a: from, b: to, y, dy: grads.y! }, {}).da;
    return { a: needs.a ? toward(a, b) : null, b: needs.b ? toward(b, a) : null };
  },
});

/** da = dy·(a − b)/‖a − b‖, and 0 where both are the same. */
const l2DistanceBackward = /* @__PURE__ */ defineOp({
  name: 'l2_distance_backward',
  inputs: ['a', 'b', 'y', 'dy'],
  outputs: ['da'],
  shape: ({ a }) => ({ da: spec(a.shape, a.dtype) }),
  reference({ a, b, y, dy }, { da }) {
    const norm = y.data[0] === 0 ? Infinity : y.data[0];
    for (let i = 0; i < da.size; i++) da.data[i] = dy.data[0] * ((a.data[i] - b.data[i]) / norm);
  },
  webgpu(reads, { da }, _, { caps }) {
    const values = { da: 'select(dy * ratio_of(a - b, y), 0.0, y == 0.0)' };
    return [elementwise({ name: 'l2_distance_backward', reads, writes: { da }, values, helpers: ratioWgsl }, caps)];
  },
  asStored: { webgpu: ['a', 'b', 'y', 'dy', 'da'] },
  wasm({ a, b, y, dy }, { da }, _, { k }) {
    k.l2_distance_backward(a, b, y, dy, da, da.size);
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
