import { apply } from '../../engine/apply.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { FLOATS } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { sameShape } from '../common/shapes.ts';
import { defineElementwise } from '../elementwise/define.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
import { reshape } from '../movement/reshape.ts';
import { ANY, counted, defineReduction, type ReduceOptions, type Reduction, sumOf } from './define.ts';

/** Backward of sum and mean: dy·scale stretched to `shape`. */
const spreadOp = /* @__PURE__ */ defineElementwise<{ readonly shape: readonly number[]; readonly scale: number }, 'dy'>({
  name: 'sum_backward',
  inputs: ['dy'],
  result: ({ dy }) => dy.dtype,
  shape: ({ shape }) => shape,
  params: ['scale'],
  f: ({ scale }) => (dy) => dy * scale,
  wgsl: 'dy * params.scale',
  wasm({ dy }, dx, { scale }, { k }) {
    k.fill(dx, dx.size, scale);
    return binaryOnWasm(k, 'mul', dx, dy, dx);
  },
});

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
  gradient: ({ dy, shape, count }) => apply(spreadOp, { dy }, { shape, scale: mean ? 1 / count : 1 }).y,
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
