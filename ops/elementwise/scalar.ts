import { apply } from '../../engine/apply.ts';
import { expectNumber } from '../../engine/arguments.ts';
import { expectStorable, FLOATS, isFloat } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise, type Elementwise, INTEGERS, promote } from './define.ts';

type Scalar = { readonly c: number };

/** A function of a tensor and a number. @param dx its gradient */
function scalarOp(
  row: Pick<Elementwise<Scalar>, 'name' | 'f' | 'wgsl' | 'integers' | 'wasm'>,
  dx: (dy: Tensor, c: number) => Tensor,
): (x: Tensor, c: number) => Tensor {
  const { name } = row;
  const result: Elementwise<Scalar>['result'] = (inputs, { c }) => {
    const dtype = promote(name, inputs, ...FLOATS, ...INTEGERS);
    if (isFloat(dtype)) expectNumber(name, 'c', c);
    else expectStorable(name, c, dtype);
    return dtype;
  };
  const op = defineElementwise<Scalar, 'x'>(
    { ...row, inputs: ['x'], params: ['c'], result },
    { backward: ({ grads, attrs }) => ({ x: dx(grads.y!, attrs.c) }) },
  );
  return (x, c) => apply(op, { x }, { c }).y;
}

/** x·c for a number c: x of any shape → the same shape and dtype. Of whole numbers c must be one, and they wrap around. */
export const mulScalar = /* @__PURE__ */ scalarOp(
  {
    name: 'mul_scalar',
    f: ({ c }) => (x) => x * c,
    wgsl: 'x * params.c',
    integers: { f: ({ c }) => (x) => Math.imul(x, c) },
    wasm({ x }, y, { c }, { k }) {
      k.scale_add(x, y, y.size, c, 0);
      return true;
    },
  },
  (dy, c): Tensor => mulScalar(dy, c),
);

/** x + c for a number c: x of any shape → the same shape and dtype. Of whole numbers c must be one, and they wrap around. */
export const addScalar = /* @__PURE__ */ scalarOp(
  {
    name: 'add_scalar',
    f: ({ c }) => (x) => x + c,
    wgsl: 'x + params.c',
    wasm({ x }, y, { c }, { k }) {
      k.fill(y, y.size, c);
      k.scale_add(x, y, y.size, 1, 1);
      return true;
    },
  },
  (dy) => dy,
);
