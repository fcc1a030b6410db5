import { apply } from '../../engine/apply.ts';
import { expectFinite } from '../../engine/arguments.ts';
import { FLOATS } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { div, mul, sub } from '../elementwise/binary.ts';
import { cast } from '../elementwise/cast.ts';
import { eq, isnan, logicalNot, ne } from '../elementwise/compare.ts';
import { defineElementwise } from '../elementwise/define.ts';
import { mulScalar } from '../elementwise/scalar.ts';
import { exp, sqrt } from '../elementwise/unary.ts';
import { maskedFill, where } from '../elementwise/where.ts';
import { unsqueeze } from '../movement/reshape.ts';
import { ANY, counted, defineReduction, NUMBERS, type Reduction, sumOf, type VarianceOptions } from './define.ts';
import { type Fold, SQUARES } from './fold.ts';
import { orderWgsl } from './order.ts';
import { mean, sum } from './sum.ts';

export type { ReduceOptions, VarianceOptions } from './define.ts';
export { mean, sum, sumTo } from './sum.ts';

type Reduce = typeof sum;

/** Product over `dim`, of dtypes as sum has them. */
export const prod: Reduce = /* @__PURE__ */ defineReduction('prod', {
  takes: ANY,
  gives: counted,
  of: (values, _, whole) => values.reduce((a, b) => (whole ? Math.imul(a, b) : a * b), 1),
  fold: (_, y) => ({ acc: y, lift: 'Acc(v)', join: 'a * b' }),
  empty: 1,
  saves: ['x'],
  gradient({ x, dy, over }) {
    const zero = logicalNot(x);
    const others = prod(maskedFill(x, zero, 1), over);
    const besideZero = ne(sum(zero, over), cast(zero, 'i32'));
    return maskedFill(mul(where(zero, others, div(others, x)), dy), besideZero, 0);
  },
});

/**
 * dy·term/Σ terms. For logsumexp, dividing by the sum makes good what rounding took from it, which is much where x is
 * large; a sum that is NaN has one among its terms, or an infinite logsumexp: then the term alone is what torch has.
 */
const shareBy = (terms: (x: Tensor, y: Tensor) => Tensor): Pick<Reduction, 'saves' | 'gradient'> => ({
  saves: ['x', 'y'],
  gradient({ x, y, dy, over }) {
    const term = terms(x, y);
    const total = sum(term, over);
    return div(mul(term, dy), maskedFill(total, isnan(total), 1));
  },
});

const extreme = (pick: (a: number, b: number) => number, wgsl: 'max' | 'min'): Reduction => ({
  takes: NUMBERS,
  of: (values) => values.reduce((a, b) => pick(a, b)),
  fold: (x) => ({ acc: x, lift: 'v', join: `${x === 'f32' ? `${wgsl}_` : wgsl}(a, b)` }),
  ...shareBy((x, y) => cast(eq(x, y), 'f32')),
});

/** Largest element over `dim`: floats, i32 or u32; the gradient is shared evenly by ties. */
export const amax: Reduce = /* @__PURE__ */ defineReduction('amax', extreme(Math.max, 'max'));
/** Smallest element over `dim`: floats, i32 or u32; the gradient is shared evenly by ties. */
export const amin: Reduce = /* @__PURE__ */ defineReduction('amin', extreme(Math.min, 'min'));

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

/** log Σ eˣ over `dim`, without overflow: floats. */
export const logsumexp: Reduce = /* @__PURE__ */ defineReduction('logsumexp', {
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
  // The softmax of x, but for what rounding did to y.
  ...shareBy((x, y) => exp(sub(x, y))),
});

/** Whether values are not 0, by the bits: drivers may take a comparison with NaN for false. */
const truth = (of: (values: Float64Array) => boolean, join: string, empty: number): Reduction => ({
  takes: ANY,
  gives: () => 'bool',
  of: (values) => (of(values) ? 1 : 0),
  fold: (x) => ({ acc: 'u32', lift: x === 'f32' ? 'min(bitcast<u32>(v) << 1u, 1u)' : 'select(0u, 1u, v != 0)', join }),
  empty,
});

/** Whether any element over `dim` is not 0, as NaN is not: of any dtype → bool. */
export const any: Reduce = /* @__PURE__ */ defineReduction('any', truth((values) => values.some((v) => v !== 0), 'a | b', 0));
/** Whether all elements over `dim` are not 0: of any dtype → bool. */
export const all: Reduce = /* @__PURE__ */ defineReduction('all', truth((values) => values.every((v) => v !== 0), 'a & b', 1));

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

/** The mean of squared deviations, or its root. */
function deviation(name: string, root: boolean): (x: Tensor, options?: VarianceOptions) => Tensor {
  const reduce = defineReduction(name, {
    takes: FLOATS,
    of(values, count) {
      const mean = sumOf(values) / values.length;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / count;
      return root ? Math.sqrt(variance) : variance;
    },
    fold: () => MOMENTS,
    result: root ? 'sqrt(a.z / params.count)' : 'a.z / params.count',
    empty: NaN,
    saves: ['x', 'y'],
    gradient({ x, y, dy, count, over }) {
      const slope = root ? maskedFill(div(dy, mulScalar(y, 2)), logicalNot(y), 0) : dy;
      return mul(mulScalar(sub(x, mean(x, over)), 2 / count), slope);
    },
  });
  return (x, { correction = 1, ...options } = {}) => {
    expectFinite(name, 'correction', correction);
    return reduce(x, { ...options, correction });
  };
}

/** Variance over `dim` (all when left out): floats. torch calls it `var`, by which name it is exported too. */
export const variance = /* @__PURE__ */ deviation('var', false);
export { variance as var };
/** Standard deviation over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const std = /* @__PURE__ */ deviation('std', true);

/** The index of the first that no other is better than; NaN is better than all. `turn`: WGSL of a key, largest for it. */
function search(name: string, better: (a: number, b: number) => boolean, turn: (type: string) => string) {
  const reduce = defineReduction(name, {
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
      helpers: `${orderWgsl(x)}fn turned(key: u32) -> u32 { return ${turn(x)}; }\n`,
    }),
    result: 'i32(a.y)',
  });
  return (x: Tensor, dim?: number | null, keepdim = false): Tensor => reduce(x, { dim: dim ?? undefined, keepdim });
}

/** Index (i32) of the largest element along `dim`, or in all of x when left out; the first of equals, NaN largest. */
export const argmax = /* @__PURE__ */ search('argmax', (a, b) => a > b, () => 'key');
/** Index (i32) of the smallest element, as argmax; NaN, which has the largest key, stays before all others. */
export const argmin = /* @__PURE__ */ search('argmin', (a, b) => a < b, (x) => (x === 'f32' ? 'select(~key, key, key == 0xffffffffu)' : '~key'));

/** dx = dy·x/‖x‖, and 0 where the norm is. */
const normBackward = /* @__PURE__ */ defineElementwise<object, 'x' | 'norm' | 'dy'>({
  name: 'norm_backward',
  inputs: ['x', 'norm', 'dy'],
  result: ({ x }) => x.dtype,
  f: () => (x, norm, dy) => (norm === 0 ? 0 : dy * (x / norm)),
  wgsl: 'select(dy * ratio_of(x, norm), 0.0, norm == 0.0)',
  wasm({ x, norm, dy }, dx, _, { k }) {
    if (norm.size !== 1) return false;
    k.fill(dx, dx.size, 0);
    k.l2_distance_backward(x, dx, norm, dy, dx, dx.size);
    return true;
  },
});

/** √Σx², the L2 norm, over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const norm: Reduce = /* @__PURE__ */ defineReduction('norm', {
  takes: FLOATS,
  of: (values) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0)),
  result: 'norm_of(a)',
  empty: 0,
  fold: () => SQUARES,
  wasm(x, y, [outer, reduced, inner], { k }) {
    if (outer * inner === 1) k.l2_distance(x, undefined, y, reduced);
    return outer * inner === 1;
  },
  saves: ['x', 'y'],
  gradient: ({ x, y, dy }) => apply(normBackward, { x, norm: y, dy }, {}).y,
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): floats of one shape → f32 []. Its gradient at a = b
 * is 0.
 * @param weights floats, of the shape without its last dimension: factors of the squares, which get no gradient; what
 *   has none may hold anything
 */
export function l2Distance(a: Tensor, b: Tensor, weights?: Tensor): Tensor {
  expectFloats('l2_distance', { a, b, weights });
  expectShape('l2_distance', 'b', b, a.shape);
  if (weights) expectShape('l2_distance', 'weights', weights, a.shape.slice(0, -1));
  return scope(() => {
    const apart = sub(cast(a, 'f32'), cast(b, 'f32'));
    if (!weights) return norm(apart);
    const factors = unsqueeze(cast(weights.detach(), 'f32'), -1);
    return norm(maskedFill(mul(apart, sqrt(factors)), logicalNot(factors), 0));
  });
}
