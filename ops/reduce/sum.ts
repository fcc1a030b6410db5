import { apply } from '../../engine/apply.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { broadcastStrides, sameShape, show } from '../common/shapes.ts';
import { mulScalar } from '../elementwise/scalar.ts';
import { reshape } from '../movement/reshape.ts';
import { viewOp } from '../movement/strided.ts';
import { ANY, counted, defineReduction, type ReduceOptions, type Reduction, sumOf } from './define.ts';

const expandOp = /* @__PURE__ */ viewOp<{ readonly shape: readonly number[] }>(
  'expand',
  (from, { shape }) => ({ shape, strides: broadcastStrides(from, shape), offset: 0 }),
  ({ grads, specs }) => ({ x: sumTo(grads.y!, specs.x.shape) }),
);

/** Repeats dimensions of size 1 to `shape`; −1 keeps a dimension. A copy, not a view. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  const offset = shape.length - x.shape.length;
  const target = shape.map((d, i) => (d === -1 && i >= offset ? x.shape[i - offset] : d));
  const sizes = target.every((d) => Number.isInteger(d) && d >= 0);
  const fits = sizes && offset >= 0 && x.shape.every((d, i) => d === 1 || d === target[i + offset]);
  if (!fits) throw new ShapeError(`expand: ${show(x.shape)} does not broadcast to ${show(shape)}`);
  return apply(expandOp, { x }, { shape: target }).y;
}

/** What sums and means have in common. */
const adding = (mean: boolean): Pick<Reduction, 'fold' | 'wasm' | 'gradient'> => ({
  fold: (_, y) => ({ acc: y, lift: 'Acc(v)', join: 'a + b' }),
  wasm(x, y, [outer, reduced, inner], { k, sizes, scratch }) {
    const count = mean ? reduced : 1;
    if (inner === 1) k.sum_last(x, y, outer, reduced, count);
    else {
      const room = scratch(sizes.sum_first_scratch(reduced, inner));
      for (let o = 0; o < outer; o++) {
        k.sum_first(at(x, o * reduced * inner * 4), at(y, o * inner * 4), reduced, inner, count, room);
      }
    }
    return true;
  },
  gradient: ({ dy, shape, count }) => expand(mean ? mulScalar(dy, 1 / count) : dy, shape),
});

/** Sum over `dim` (all when left out): floats, i32 or u32 of any shape → the same dtype; bool is counted, in i32. */
export const sum: (x: Tensor, options?: ReduceOptions) => Tensor = /* @__PURE__ */ defineReduction('sum', {
  ...adding(false),
  takes: ANY,
  gives: counted,
  of: sumOf,
  empty: 0,
});

/** Mean over `dim`: floats → the same dtype. */
export const mean: typeof sum = /* @__PURE__ */ defineReduction('mean', {
  ...adding(true),
  takes: FLOATS,
  of: (values, count) => sumOf(values) / count,
  result: 'a / params.count',
  empty: NaN,
});

/** Sums x over the dimensions along which `shape` broadcasts to x's: the gradient of broadcasting. */
export function sumTo(x: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const dim = x.shape.flatMap((d, i) => (d !== 1 && (i < lead || shape[i - lead] === 1) ? [i] : []));
  return reshape(dim.length > 0 ? sum(x, { dim, keepdim: true }) : x, shape);
}
