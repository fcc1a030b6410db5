import { apply } from '../../engine/apply.ts';
import { expectFinite } from '../../engine/arguments.ts';
import type { Backend } from '../../engine/backend.ts';
import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { byteLength, type DType, encoder, expectElements, expectStorable, isFloat } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise } from './define.ts';
import { onWords } from './kernel.ts';

const word = /* @__PURE__ */ new DataView(new ArrayBuffer(4));

/** The 32-bit word that fills a GPU buffer with the value. */
function wordOf(value: number, dtype: DType): number {
  if (dtype === 'f32') word.setFloat32(0, value);
  else word.setUint32(0, encoder(dtype)(value) * (byteLength(dtype, 1) === 2 ? 0x10001 : 1));
  return word.getUint32(0);
}

/** Writes the value everywhere in y, of any dtype but block formats. */
export function launchFill(y: Slot, value: number): Launch {
  return onWords({ name: 'fill', reads: {}, result: y, value: 'params.word', params: { word: wordOf(value, y.dtype) } });
}

const fillOp = /* @__PURE__ */ defineOp({
  name: 'fill',
  inputs: [],
  outputs: ['y'],
  shape(_, { shape, value, dtype }: { shape: readonly number[]; value: number; dtype: DType }) {
    expectElements('fill', 'y', dtype);
    expectStorable('fill', value, dtype);
    return { y: spec(shape, dtype) };
  },
  reference(_, { y }, { value, dtype }) {
    y.data.fill(isFloat(dtype) ? value : encoder(dtype)(value));
  },
  webgpu: (_, { y }, { value }) => [launchFill(y, value)],
  asStored: { webgpu: ['y'] },
});

/** A tensor of `shape` with `value` everywhere. @throws ArgumentError for a value that the dtype cannot hold */
export function fill(backend: Backend, shape: readonly number[], value: number, dtype: DType = 'f32'): Tensor {
  return apply(fillOp, {}, { shape, value, dtype }, backend).y;
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

const arangeOp = /* @__PURE__ */ defineElementwise<ArangeAttrs, never>({
  name: 'arange',
  inputs: [],
  result: (_, { dtype }) => dtype,
  shape: ({ size }) => [size],
  f: ({ start, step }) => (i) => start + i * step,
  params: ['start', 'step'],
  wgsl: ({ result }) => `params.start + ${result}(i) * params.step`,
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
  return apply(arangeOp, {}, { start, step, size, dtype }, backend).y;
}
