import { apply } from '../../engine/apply.ts';
import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { type DType, FLOATS } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { ratioWgsl } from '../common/squares.ts';
import { defineElementwise, type Value } from '../elementwise/define.ts';
import { nanWgsl } from '../elementwise/math.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
import { type Fold, NORM } from './fold.ts';
import { orderWgsl } from './order.ts';

/** What the gradient of a reduction is made of; y and dy have the shape with keepdim. */
export interface Reduced {
  readonly x: Tensor;
  readonly y: Tensor;
  readonly dy: Tensor;
  readonly shape: readonly number[];
  /** Values that each result is of, less the correction. */
  readonly count: number;
  /** Another reduction over the same dims, with keepdim. */
  over(name: ReduceName, x: Tensor): Tensor;
}

/** Types that WGSL computes on. */
type Wgsl = 'f32' | 'i32' | 'u32';

/** One reduction of many values to one. */
export interface Reduction {
  readonly takes: readonly DType[];
  /** The dtype of the result, where it is not x's. */
  readonly gives?: (x: DType) => DType;
  /** The result for some values; `count` as in Reduced. */
  readonly of: (values: Float64Array, count: number, whole: boolean) => number;
  readonly fold: (x: Wgsl, y: Wgsl) => Fold;
  /** WGSL of the result, from `a`, what all values fold to, and `params.count`; where it is not `a`. */
  readonly result?: string;
  /** Of no values; absent where that is refused. */
  readonly empty?: number;
  /** Calls of C kernels for f32 (outer, reduced, inner); false where they do not serve. */
  readonly wasm?: (x: Slot, y: Slot, sizes: readonly [number, number, number], device: WasmPlanner) => boolean;
  readonly saves?: readonly ('x' | 'y')[];
  readonly gradient?: (reduced: Reduced) => Tensor;
}

const NUMBERS = [...FLOATS, 'i32', 'u32'] as const;
const ANY = [...NUMBERS, 'bool'] as const;
const BOTH = ['x', 'y'] as const;

const sumOf = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);
/** Sums over the middle of (outer, reduced, inner), by C kernels; divided by how many they are of for the mean. */
const sumOnWasm =
  (mean: boolean): Reduction['wasm'] =>
  (x, y, [outer, reduced, inner], { k, sizes, scratch }) => {
    const count = mean ? reduced : 1;
    if (inner === 1) k.sum_last(x, y, outer, reduced, count);
    else {
      const room = scratch(sizes.sum_first_scratch(reduced, inner));
      for (let o = 0; o < outer; o++) {
        k.sum_first(at(x, o * reduced * inner * 4), at(y, o * inner * 4), reduced, inner, count, room);
      }
    }
    return true;
  };

/** bool is counted. */
const counted = (x: DType): DType => (x === 'bool' ? 'i32' : x);
const addUp = (_: Wgsl, y: Wgsl): Fold => ({ acc: y, lift: 'Acc(v)', join: 'a + b' });
const extreme = (pick: (a: number, b: number) => number, wgsl: 'max' | 'min'): Reduction => ({
  takes: NUMBERS,
  of: (values) => values.reduce((a, b) => pick(a, b)),
  fold: (x) => ({ acc: x, lift: 'v', join: `${x === 'f32' ? `${wgsl}_` : wgsl}(a, b)`, helpers: nanWgsl }),
  saves: BOTH,
  gradient: shareBy(equals),
});
/** The index of the first that no other is better than; NaN is better than all. `turn`: WGSL of a key, largest for it. */
const search = (better: (a: number, b: number) => boolean, turn: string): Reduction => ({
  takes: NUMBERS,
  gives: () => 'i32',
  of(values) {
    let best = 0;
    values.forEach((v, i) => (best = better(v, values[best]) || (v !== v && values[best] === values[best]) ? i : best));
    return best;
  },
  fold: (x) => ({
    acc: 'vec2<u32>',
    lift: 'vec2(turned(order_key(v)), k)',
    join: 'first_of(a, b)',
    helpers: `${orderWgsl(x)}fn turned(key: u32) -> u32 { return ${turn}; }\n`,
  }),
  result: 'i32(a.y)',
});
/** NaN, which has the largest key, stays before all others. */
const LEAST_FIRST = 'select(~key, key, key == 0xffffffffu)';
/** Whether values are not 0, by the bits: drivers may take a comparison with NaN for false. */
const truth = (of: (values: Float64Array) => boolean, join: string, empty: number): Reduction => ({
  takes: ANY,
  gives: () => 'bool',
  of: (values) => (of(values) ? 1 : 0),
  fold: (x) => {
    const lift = x === 'f32' ? 'min(bitcast<u32>(v) << 1u, 1u)' : 'select(0u, 1u, v != 0)';
    return { acc: 'u32', lift, join };
  },
  empty,
});
/** The mean of squared deviations, or its root. */
const deviation = (root: boolean): Reduction => ({
  takes: FLOATS,
  of(values, count) {
    const mean = sumOf(values) / values.length;
    const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / count;
    return root ? Math.sqrt(variance) : variance;
  },
  fold: () => MOMENTS,
  result: root ? 'sqrt(a.z / params.count)' : 'a.z / params.count',
  empty: NaN,
  saves: BOTH,
  gradient: ({ x, y, dy, count, over }) =>
    varBackward({ x, mean: over('mean', x), dy: root ? rootBackward({ y, dy }) : dy }, count),
});

/** Largest value so far and the sum of exponentials relative to it; equal values are handled apart for infinities. */
const LOGSUMEXP: Fold = {
  acc: 'vec2<f32>',
  lift: 'vec2(v, 1.0)',
  join: 'lse_join(a, b)',
  helpers: /* wgsl */ `
fn lse_join(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2(m, a.y * select(exp(a.x - m), 1.0, a.x == m) + b.y * select(exp(b.x - m), 1.0, b.x == m));
}
`,
};
/** How many values, their mean, and the sum of squared deviations from it (Chan, Golub, LeVeque 1983). */
const MOMENTS: Fold = {
  acc: 'vec3<f32>',
  lift: 'vec3(1.0, v, 0.0)',
  join: 'moments_of(a, b)',
  helpers: /* wgsl */ `
fn moments_of(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
  let n = a.x + b.x;
  let d = b.y - a.y;
  return vec3(n, a.y + d * (b.x / n), a.z + b.z + d * d * (a.x * (b.x / n)));
}
`,
};

/** An op of the gradients below, in f32: f of its operands, which broadcast, and of `params.count`. */
function pointwise<const I extends string>(
  name: string,
  inputs: readonly I[],
  f: (count: number) => Value,
  wgsl: string,
  helpers?: string,
): (operands: Readonly<Record<I, Tensor>>, count?: number) => Tensor {
  const op = defineElementwise<{ readonly count: number }, string>({
    name,
    inputs,
    params: ['count'],
    result: () => 'f32',
    f: ({ count }) => f(count),
    wgsl,
    helpers,
  });
  return (operands, count = 1) => apply(op, operands, { count }).y;
}

const equals = /* @__PURE__ */ pointwise('equals', ['x', 'y'], () => (x, y) => (x === y ? 1 : 0), 'select(0.0, 1.0, x == y)');
/** The softmax of x where y is its logsumexp, but for what rounding did to y. */
const expAbove = /* @__PURE__ */ pointwise('exp_above', ['x', 'y'], () => (x, y) => Math.exp(x - y), 'exp(x - y)');
/**
 * dy·term/Σ terms. For logsumexp, dividing by the sum makes good what rounding took from it, which is much where x is
 * large; a sum that is NaN has one among its terms, or an infinite logsumexp: then the term alone is what torch has.
 */
const share = /* @__PURE__ */ pointwise(
  'share_backward',
  ['term', 'total', 'dy'],
  () => (term, total, dy) => (term * dy) / (Number.isNaN(total) ? 1 : total),
  'term * dy / select(total, 1.0, is_nan(total))',
  nanWgsl,
);
const shareBy = (terms: typeof equals) => ({ x, y, dy, over }: Reduced) => {
  const term = terms({ x, y });
  return share({ term, total: over('sum', term), dy });
};
const isZero = /* @__PURE__ */ pointwise('is_zero', ['x'], () => (x) => (x === 0 ? 1 : 0), 'select(0.0, 1.0, x == 0.0)');
const oneForZero = /* @__PURE__ */ pointwise('one_for_zero', ['x'], () => (x) => (x === 0 ? 1 : x), 'select(x, 1.0, x == 0.0)');
const prodBackward = /* @__PURE__ */ pointwise(
  'prod_backward',
  ['x', 'zeros', 'others', 'dy'],
  () => (x, zeros, others, dy) => (x === 0 ? (zeros === 1 ? others * dy : 0) : zeros === 0 ? (others / x) * dy : 0),
  'select(select(0.0, others / x * dy, zeros == 0.0), select(0.0, others * dy, zeros == 1.0), x == 0.0)',
);
const varBackward = /* @__PURE__ */ pointwise(
  'var_backward',
  ['x', 'mean', 'dy'],
  (count) => (x, mean, dy) => ((2 * (x - mean)) / count) * dy,
  '2.0 * (x - mean) / params.count * dy',
);
const rootBackward = /* @__PURE__ */ pointwise(
  'root_backward',
  ['y', 'dy'],
  () => (y, dy) => (y === 0 ? 0 : dy / (2 * y)),
  'select(dy / (2.0 * y), 0.0, y == 0.0)',
);
const normBackward = /* @__PURE__ */ pointwise(
  'norm_backward',
  ['x', 'y', 'dy'],
  () => (x, y, dy) => (y === 0 ? 0 : dy * (x / y)),
  'select(dy * ratio_of(x, y), 0.0, y == 0.0)',
  ratioWgsl,
);

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

function spread(dy: Tensor, shape: readonly number[], scale: number): Tensor {
  return apply(spreadOp, { dy }, { shape, scale }).y;
}

export type ReduceName =
  | 'sum' | 'mean' | 'prod' | 'amax' | 'amin' | 'argmax' | 'argmin' | 'any' | 'all' | 'logsumexp' | 'var' | 'std' | 'norm';

export const REDUCTIONS: Readonly<Record<ReduceName, Reduction>> = {
  sum: {
    takes: ANY,
    gives: counted,
    of: sumOf,
    fold: addUp,
    empty: 0,
    wasm: sumOnWasm(false),
    gradient: ({ dy, shape }) => spread(dy, shape, 1),
  },
  mean: {
    takes: FLOATS,
    of: (values, count) => sumOf(values) / count,
    fold: addUp,
    result: 'a / params.count',
    empty: NaN,
    wasm: sumOnWasm(true),
    gradient: ({ dy, shape, count }) => spread(dy, shape, 1 / count),
  },
  prod: {
    takes: ANY,
    gives: counted,
    of: (values, _, whole) => values.reduce((a, b) => (whole ? Math.imul(a, b) : a * b), 1),
    fold: (_, y) => ({ acc: y, lift: 'Acc(v)', join: 'a * b' }),
    empty: 1,
    saves: ['x'],
    gradient: ({ x, dy, over }) =>
      prodBackward({ x, zeros: over('sum', isZero({ x })), others: over('prod', oneForZero({ x })), dy }),
  },
  amax: extreme(Math.max, 'max'),
  amin: extreme(Math.min, 'min'),
  argmax: search((a, b) => a > b, 'key'),
  argmin: search((a, b) => a < b, LEAST_FIRST),
  any: truth((values) => values.some((v) => v !== 0), 'a | b', 0),
  all: truth((values) => values.every((v) => v !== 0), 'a & b', 1),
  var: deviation(false),
  std: deviation(true),
  logsumexp: {
    takes: FLOATS,
    of(values) {
      const max = values.reduce((a, b) => Math.max(a, b));
      return max + Math.log(values.reduce((sum, v) => sum + (v === max ? 1 : Math.exp(v - max)), 0));
    },
    fold: () => LOGSUMEXP,
    result: 'a.x + log(a.y)',
    wasm(x, y, [outer, reduced, inner], { k }) {
      if (inner === 1) k.logsumexp(x, y, outer, reduced);
      return inner === 1;
    },
    saves: BOTH,
    gradient: shareBy(expAbove),
  },
  norm: {
    takes: FLOATS,
    of: (values) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0)),
    fold: () => NORM.fold,
    result: NORM.result,
    empty: 0,
    wasm(x, y, [outer, reduced, inner], { k }) {
      if (outer * inner === 1) k.l2_distance(x, undefined, y, reduced);
      return outer * inner === 1;
    },
    saves: BOTH,
    gradient: ({ x, y, dy }) => normBackward({ x, y, dy }),
  },
};
