import { type DType, expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { sumTo } from '../reduce/reduce.ts';
import { broadcastIndex, broadcastShapes } from '../common/shapes.ts';

/** One kernel per WGSL type of the condition. */
const perCondition = (make: (type: string) => Elementwise) => {
  const kernels = new Map<DType, Elementwise>();
  return (dtype: DType): Elementwise => {
    let found = kernels.get(dtype);
    if (!found) kernels.set(dtype, (found = make(dtype === 'bool' ? 'u32' : dtype)));
    return found;
  };
};

/** WGSL: whether the condition is not 0; of f32 by the bits, because drivers may take a comparison with NaN for false. */
const holds = (type: string) => (type === 'f32' ? '(bitcast<u32>(cond) << 1u) != 0u' : `cond != ${type}(0)`);

const forwardKernel = /* @__PURE__ */ perCondition(
  (type) =>
    new Elementwise({
      name: `where.${type}`,
      reads: { cond: type, a: 'f32', b: 'f32' },
      writes: { y: 'f32' },
      values: { y: `select(b, a, ${holds(type)})` },
    }),
);

export const whereOp: Op = /* @__PURE__ */ defineOp({
  name: 'where',
  shape([cond, a, b]) {
    expectDType('where', 'cond', cond.dtype, 'bool', 'i32', 'u32', 'f32');
    expectDType('where', 'a', a.dtype, 'f32');
    expectDType('where', 'b', b.dtype, 'f32');
    return [spec(broadcastShapes('where', cond.shape, broadcastShapes('where', a.shape, b.shape)))];
  },
  reference({ inputs: [cond, a, b], outputs: [y] }) {
    const [ic, ia, ib] = [cond, a, b].map((arg) => broadcastIndex(arg.shape, y.shape));
    for (let i = 0; i < y.size; i++) y.data[i] = cond.data[ic[i]] !== 0 ? a.data[ia[i]] : b.data[ib[i]];
  },
  webgpu: ({ inputs, outputs }) => [forwardKernel(inputs[0].dtype).launch(inputs, outputs)],
  saves: { inputs: [0] },
  backward({ input, inputSpecs, grads, needs }) {
    const side = (k: number) =>
      needs[k] ? sumTo(apply1(whereBackward, [input(0), grads[0]!], { where: k === 1 }), inputSpecs[k].shape) : null;
    return [null, side(1), side(2)];
  },
});

const keptKernel = [false, true].map((where) =>
  perCondition(
    (type) =>
      new Elementwise({
        name: `where.backward.${where}.${type}`,
        reads: { cond: type, dy: 'f32' },
        writes: { dx: 'f32' },
        values: { dx: where ? `select(0.0, dy, ${holds(type)})` : `select(dy, 0.0, ${holds(type)})` },
      }),
  ),
);

/** dy where the condition is as `where` says, else 0. */
const whereBackward = /* @__PURE__ */ defineOp<{ where: boolean }>({
  name: 'where_backward',
  shape: ([, dy]) => [spec(dy.shape)],
  reference({ inputs: [cond, dy], outputs: [dx], attrs: { where } }) {
    const from = broadcastIndex(cond.shape, dx.shape);
    for (let i = 0; i < dx.size; i++) dx.data[i] = (cond.data[from[i]] !== 0) === where ? dy.data[i] : 0;
  },
  webgpu: ({ inputs, outputs, attrs }) => [keptKernel[attrs.where ? 1 : 0](inputs[0].dtype).launch(inputs, outputs)],
});

/** a where `cond` is not 0, else b; all three broadcast. `cond` is bool, an integer or f32; a and b are f32. */
export function where(cond: Tensor, a: Tensor, b: Tensor): Tensor {
  return apply1(whereOp, [cond, a, b], {});
}
