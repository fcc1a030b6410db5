import { expectFinite } from '../../engine/arguments.ts';
import type { Backend } from '../../engine/backend.ts';
import { type DType, encoder, expectStorable, isFloat } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { launchFill } from './fill-kernel.ts';

interface FillAttrs {
  readonly shape: readonly number[];
  readonly value: number;
  readonly dtype: DType;
}

export const fillOp = /* @__PURE__ */ defineOp<FillAttrs>({
  name: 'fill',
  shape(_, { shape, value, dtype }) {
    expectStorable('fill', value, dtype);
    return [spec(shape, dtype)];
  },
  reference({ outputs: [y], attrs: { value, dtype } }) {
    y.data.fill(isFloat(dtype) ? value : encoder(dtype)(value));
  },
  webgpu: ({ outputs: [y], attrs: { value } }) => [launchFill(y, value)],
});

/** A tensor of `shape` with `value` everywhere. @throws ArgumentError for a value that the dtype cannot hold */
export function fill(backend: Backend, shape: readonly number[], value: number, dtype: DType = 'f32'): Tensor {
  return apply1(fillOp, [], { shape, value, dtype }, backend);
}

export function zeros(backend: Backend, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  return fill(backend, shape, 0, dtype);
}

export function ones(backend: Backend, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  return fill(backend, shape, 1, dtype);
}

/** Zeros of x's shape and dtype on its backend. */
export function zerosLike(x: Tensor): Tensor {
  return fill(x.backend, x.shape, 0, x.dtype);
}

interface ArangeAttrs {
  readonly start: number;
  readonly step: number;
  readonly size: number;
  readonly dtype: DType;
}

const arangeKernels = {
  f32: /* @__PURE__ */ arangeKernel('f32'),
  i32: /* @__PURE__ */ arangeKernel('i32'),
};

function arangeKernel(type: 'f32' | 'i32'): Elementwise {
  return new Elementwise({
    name: `arange.${type}`,
    reads: {},
    writes: { y: type },
    values: { y: `params.start + ${type}(i) * params.step` },
    params: { start: type, step: type },
  });
}

export const arangeOp = /* @__PURE__ */ defineOp<ArangeAttrs>({
  name: 'arange',
  shape: (_, { size, dtype }) => [spec([size], dtype)],
  reference({ outputs: [y], attrs: { start, step } }) {
    for (let i = 0; i < y.size; i++) y.data[i] = start + i * step;
  },
  webgpu: ({ outputs, attrs: { start, step, dtype } }) => [
    arangeKernels[dtype === 'f32' ? 'f32' : 'i32'].launch([], outputs, [start, step]),
  ],
});

/**
 * start, start + step, … below `end` (above it for a negative step), as a vector.
 * @throws ArgumentError for a dtype other than f32 and i32, what is no finite number, a step of 0, or elements that i32
 * cannot hold
 */
export function arange(
  backend: Backend,
  end: number,
  { start = 0, step = 1, dtype = 'i32' }: { start?: number; step?: number; dtype?: DType } = {},
): Tensor {
  for (const [name, value] of Object.entries({ end, start, step })) expectFinite('arange', name, value);
  if (step === 0 || (dtype !== 'f32' && dtype !== 'i32')) {
    throw new ArgumentError(`arange: step ${step} of dtype ${dtype}, expected a step other than 0 of f32 or i32`);
  }
  if (dtype === 'i32' && !(Number.isInteger(start) && Number.isInteger(step))) {
    throw new ArgumentError(`arange: start ${start} and step ${step} are no whole numbers; give dtype f32`);
  }
  const size = Math.max(0, Math.ceil((end - start) / step));
  if (size > 0) for (const value of [start, start + (size - 1) * step]) expectStorable('arange', value, dtype);
  return apply1(arangeOp, [], { start, step, size, dtype }, backend);
}
