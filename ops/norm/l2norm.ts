import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from '../elementwise/elementwise.ts';
import { inFloat32 } from '../elementwise/half.ts';
import { reduceLaunches } from '../reduce/kernels.ts';
import { ratioWgsl } from '../common/squares.ts';

const backwardKernel = /* @__PURE__ */ new Elementwise({
  name: 'norm.backward',
  reads: { x: 'f32', y: 'f32', dy: 'f32' },
  writes: { dx: 'f32' },
  values: { dx: 'select(dy * ratio_of(x, y), 0.0, y == 0.0)' },
  helpers: ratioWgsl,
});

/** dx = dy·x/‖x‖, and 0 for the zero tensor. */
const normBackward = /* @__PURE__ */ defineOp({
  name: 'norm_backward',
  shape: ([x]) => [spec(x.shape)],
  reference({ inputs: [x, y, dy], outputs: [dx] }) {
    const norm = y.data[0] === 0 ? Infinity : y.data[0];
    for (let i = 0; i < dx.size; i++) dx.data[i] = dy.data[0] * (x.data[i] / norm);
  },
  webgpu: ({ inputs, outputs }) => [backwardKernel.launch(inputs, outputs)],
});

export const normOp = /* @__PURE__ */ defineOp({
  name: 'norm',
  shape([x]) {
    expectDType('norm', 'x', x.dtype, 'f32');
    return [spec([])];
  },
  reference({ inputs: [x], outputs: [y] }) {
    let sum = 0;
    for (let i = 0; i < x.size; i++) sum += x.data[i] * x.data[i];
    y.data[0] = Math.sqrt(sum);
  },
  webgpu: ({ inputs: [x], outputs: [y], scratch }) =>
    reduceLaunches('norm', x, y, x.shape.map((_, i) => i), scratch),
  wasm({ inputs: [x], outputs: [y], k }) {
    k.l2_distance(x.ptr, undefined, y.ptr, x.size);
    return true;
  },
  saves: { inputs: [0], outputs: [0] },
  backward: ({ input, output, grads }) => [apply1(normBackward, [input(0), output(0), grads[0]!], {})],
});

/** √Σx², the L2 norm of all elements: floats of any shape → [] of the same dtype. */
export function norm(x: Tensor): Tensor {
  return inFloat32([x], (inputs) => apply1(normOp, inputs, {}));
}
