import { expectNumber } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { inFloat32 } from './half.ts';
import { nanWgsl } from './math.ts';

interface ClampAttrs {
  readonly min: number;
  readonly max: number;
}

const bounds = { min: 'f32', max: 'f32' } as const;
const forwardKernel = /* @__PURE__ */ new Elementwise({
  name: 'clamp',
  reads: { x: 'f32' },
  writes: { y: 'f32' },
  values: { y: 'min_(max_(x, params.min), params.max)' },
  params: bounds,
  helpers: nanWgsl,
});
const backwardKernel = /* @__PURE__ */ new Elementwise({
  name: 'clamp.backward',
  reads: { x: 'f32', dy: 'f32' },
  writes: { dx: 'f32' },
  values: { dx: 'select(0.0, dy, x >= params.min && x <= params.max)' },
  params: bounds,
});

const clampBackward = /* @__PURE__ */ defineOp<ClampAttrs>({
  name: 'clamp_backward',
  shape: ([x]) => [spec(x.shape)],
  reference({ inputs: [x, dy], outputs: [dx], attrs: { min, max } }) {
    for (let i = 0; i < dx.size; i++) dx.data[i] = x.data[i] >= min && x.data[i] <= max ? dy.data[i] : 0;
  },
  webgpu: ({ inputs, outputs, attrs }) => [backwardKernel.launch(inputs, outputs, [attrs.min, attrs.max])],
});

export const clampOp = /* @__PURE__ */ defineOp<ClampAttrs>({
  name: 'clamp',
  shape([x]) {
    expectDType('clamp', 'x', x.dtype, 'f32');
    return [spec(x.shape)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { min, max } }) {
    for (let i = 0; i < y.size; i++) y.data[i] = Math.min(Math.max(x.data[i], min), max);
  },
  webgpu: ({ inputs, outputs, attrs }) => [forwardKernel.launch(inputs, outputs, [attrs.min, attrs.max])],
  saves: { inputs: [0] },
  backward: ({ input, grads, attrs }) => [apply1(clampBackward, [input(0), grads[0]!], attrs)],
});

/** A bound as x's elements have it, so that one that equals an element is no larger and no smaller. */
function bound(name: string, value: number): number {
  expectNumber('clamp', name, value);
  return Math.fround(value);
}

/**
 * x held between `min` and `max`, either of which may be left out: floats of any shape → the same shape and dtype. As
 * torch has it: where min > max the result is max, a bound of NaN makes the whole result NaN, and the gradient passes
 * where x lies within the bounds and nowhere else (a NaN lies within none).
 */
export function clamp(x: Tensor, { min, max }: { min?: number | null; max?: number | null }): Tensor {
  const attrs = { min: bound('min', min ?? -Infinity), max: bound('max', max ?? Infinity) };
  return inFloat32([x], (inputs) => apply1(clampOp, inputs, attrs));
}
