import { expectNumber } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { inFloat32 } from './half.ts';

interface Scalar {
  readonly c: number;
}

const elementwise = (name: string, value: string) =>
  new Elementwise({ name, reads: { x: 'f32' }, writes: { y: 'f32' }, values: { y: value }, params: { c: 'f32' } });

const mulKernel = /* @__PURE__ */ elementwise('mul_scalar', 'x * params.c');
const addKernel = /* @__PURE__ */ elementwise('add_scalar', 'x + params.c');

export const mulScalarOp = /* @__PURE__ */ defineOp<Scalar>({
  name: 'mul_scalar',
  shape([x], { c }) {
    expectDType('mul_scalar', 'x', x.dtype, 'f32');
    expectNumber('mul_scalar', 'c', c);
    return [spec(x.shape)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { c } }) {
    for (let i = 0; i < y.size; i++) y.data[i] = x.data[i] * c;
  },
  webgpu: ({ inputs, outputs, attrs }) => [mulKernel.launch(inputs, outputs, [attrs.c])],
  wasm({ inputs: [x], outputs: [y], attrs: { c }, k }) {
    k.scale_add(x.ptr, y.ptr, y.size, c, 0);
    return true;
  },
  backward: ({ grads, attrs }) => [mulScalar(grads[0]!, attrs.c)],
});

export const addScalarOp = /* @__PURE__ */ defineOp<Scalar>({
  name: 'add_scalar',
  shape([x], { c }) {
    expectDType('add_scalar', 'x', x.dtype, 'f32');
    expectNumber('add_scalar', 'c', c);
    return [spec(x.shape)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { c } }) {
    for (let i = 0; i < y.size; i++) y.data[i] = x.data[i] + c;
  },
  webgpu: ({ inputs, outputs, attrs }) => [addKernel.launch(inputs, outputs, [attrs.c])],
  wasm({ inputs: [x], outputs: [y], attrs: { c }, k }) {
    k.fill(y.ptr, y.size, c);
    k.scale_add(x.ptr, y.ptr, y.size, 1, 1);
    return true;
  },
  backward: ({ grads }) => [grads[0]],
});

/** x·c for a number c: floats of any shape → the same shape and dtype. */
export function mulScalar(x: Tensor, c: number): Tensor {
  return inFloat32([x], (inputs) => apply1(mulScalarOp, inputs, { c }));
}

/** x + c for a number c: floats of any shape → the same shape and dtype. */
export function addScalar(x: Tensor, c: number): Tensor {
  return inFloat32([x], (inputs) => apply1(addScalarOp, inputs, { c }));
}
