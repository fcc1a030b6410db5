import { apply } from '../../engine/apply.ts';
import { expectNumber } from '../../engine/arguments.ts';
import { expectStorable, FLOATS, isFloat } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise, type Elementwise, INTEGERS, promote } from './define.ts';

interface Scalar {
  readonly c: number;
}

/** Takes whole numbers too, with a number that is one of them. */
const base = (name: string): Pick<Elementwise<Scalar, 'x'>, 'name' | 'inputs' | 'params' | 'result'> => ({
  name,
  inputs: ['x'],
  params: ['c'],
  result(inputs, { c }) {
    const dtype = promote(name, inputs, ...FLOATS, ...INTEGERS);
    if (isFloat(dtype)) expectNumber(name, 'c', c);
    else expectStorable(name, c, dtype);
    return dtype;
  },
});

const mulScalarOp = /* @__PURE__ */ defineElementwise<Scalar, 'x'>(
  {
    ...base('mul_scalar'),
    f: ({ c }, whole) => (whole ? (x) => Math.imul(x, c) : (x) => x * c),
    wgsl: 'x * params.c',
    wasm({ x }, y, { c }, { k }) {
      k.scale_add(x, y, y.size, c, 0);
      return true;
    },
  },
  { backward: ({ grads, attrs }) => ({ x: mulScalar(grads.y!, attrs.c) }) },
);

const addScalarOp = /* @__PURE__ */ defineElementwise<Scalar, 'x'>(
  {
    ...base('add_scalar'),
    f: ({ c }) => (x) => x + c,
    wgsl: 'x + params.c',
    wasm({ x }, y, { c }, { k }) {
      k.fill(y, y.size, c);
      k.scale_add(x, y, y.size, 1, 1);
      return true;
    },
  },
  { backward: ({ grads }) => ({ x: grads.y }) },
);

/** x·c for a number c: x of any shape → the same shape and dtype. Of whole numbers c must be one, and they wrap around. */
export function mulScalar(x: Tensor, c: number): Tensor {
  return apply(mulScalarOp, { x }, { c }).y;
}

/** x + c for a number c: x of any shape → the same shape and dtype. Of whole numbers c must be one, and they wrap around. */
export function addScalar(x: Tensor, c: number): Tensor {
  return apply(addScalarOp, { x }, { c }).y;
}
