import { expectFinite } from '../../engine/arguments.ts';
import { apply } from '../../engine/apply.ts';
import type { Spec } from '../../engine/backend.ts';
import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { accessOf, type DType, expectDType, FLOATS, isFloat } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, type Op, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { tagged, wasmArg } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { broadcastIndex, normalizeDim, sameShape, show } from '../common/shapes.ts';
import { ratioWgsl } from '../common/squares.ts';
import { binaryOnWasm } from '../elementwise/binary-wasm.ts';
import { cast } from '../elementwise/cast.ts';
import { Elementwise } from '../elementwise/elementwise.ts';
import { nanWgsl } from '../elementwise/math.ts';
import { reshape } from '../movement/reshape.ts';
import { type Fold, foldLaunches, NORM } from './fold.ts';
import { orderWgsl } from './order.ts';

export interface ReduceOptions {
  /** Dimensions to reduce; all of them when left out. */
  readonly dim?: number | readonly number[];
  /** Keep reduced dimensions with size 1. */
  readonly keepdim?: boolean;
}

interface ReduceAttrs {
  readonly dims: readonly number[];
  readonly keepdim: boolean;
  /** Of var and std: what is taken off the number of values. */
  readonly correction?: number;
}

/** What the gradient of a reduction is made of; y and dy have the shape with keepdim. */
interface Reduced {
  readonly x: Tensor;
  readonly y: Tensor;
  readonly dy: Tensor;
  readonly shape: readonly number[];
  readonly dims: readonly number[];
  /** Values that each result is of, less the correction. */
  readonly count: number;
}

/** Types that WGSL computes on. */
type Wgsl = 'f32' | 'i32' | 'u32';

/** One reduction of many values to one. */
interface Reduction {
  readonly takes: readonly DType[];
  /** The dtype of the result, where it is not x's. */
  readonly gives?: (x: DType) => DType;
  /** The result for some values; `count` as in Reduced. */
  readonly of: (values: Float64Array, count: number, whole: boolean) => number;
  readonly fold: (x: Wgsl, y: Wgsl) => Fold;
  /** WGSL of the result, from `a`, what all values fold to, and `params.count`. */
  readonly result: string;
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
const squaredDeviations = (values: Float64Array): number => {
  const mean = sumOf(values) / values.length;
  return values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
};
/** The index of the first that no other is better than; NaN is better than all. */
const indexOf = (better: (a: number, b: number) => boolean) => (values: Float64Array) => {
  let best = 0;
  values.forEach((v, i) => (best = better(v, values[best]) || (v !== v && values[best] === values[best]) ? i : best));
  return best;
};

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
const extreme = (name: 'max' | 'min') => (x: Wgsl): Fold => {
  const pick = x === 'f32' ? `${name}_` : name;
  return { acc: x, lift: 'v', join: `${pick}(a, b)`, helpers: nanWgsl };
};
/** Key and index of the first; `turn` makes the key of what is sought the largest. */
const search = (turn: string) => (x: Wgsl): Fold => ({
  acc: 'vec2<u32>',
  lift: 'vec2(turned(order_key(v)), k)',
  join: 'first_of(a, b)',
  helpers: `${orderWgsl(x)}fn turned(key: u32) -> u32 { return ${turn}; }\n`,
});
/** NaN, which has the largest key, stays before all others. */
const LEAST_FIRST = 'select(~key, key, key == 0xffffffffu)';
/** Whether a value is not 0, by the bits: drivers may take a comparison with NaN for false. */
const truth = (join: string) => (x: Wgsl): Fold => ({
  acc: 'u32',
  lift: x === 'f32' ? 'min(bitcast<u32>(v) << 1u, 1u)' : 'select(0u, 1u, v != 0)',
  join,
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

/**
 * An op of the gradients below: f of its operands and a number, in f32. The result has the shape of the first operand,
 * to which the others broadcast.
 */
function pointwise<const I extends string>(
  name: string,
  inputs: readonly I[],
  f: (...values: number[]) => number,
  wgsl: string,
  helpers = '',
): (operands: Readonly<Record<I, Tensor>>, count?: number) => Tensor {
  const kernel = new Elementwise({
    name,
    reads: Object.fromEntries(inputs.map((input) => [input, 'f32'])),
    writes: { out: 'f32' },
    params: { count: 'f32' },
    values: { out: wgsl },
    helpers,
  });
  const listed = <T>(given: object) => inputs.map((input) => (given as Readonly<Record<I, T>>)[input]);
  const op = defineOp<{ readonly count: number }, string, 'out'>({
    name,
    inputs,
    outputs: ['out'],
    shape: (given) => ({ out: spec(listed<Slot>(given)[0].shape) }),
    reference(given, { out }, { count }) {
      const operands = listed<HostArg>(given);
      const from = operands.map(({ shape }) => broadcastIndex(shape, out.shape));
      for (let i = 0; i < out.size; i++) out.data[i] = f(...operands.map(({ data }, k) => data[from[k][i]]), count);
    },
    webgpu: (given, { out }, { count }) => [kernel.launch(listed<Slot>(given), [out], [count])],
  });
  return (operands, count = 1) => apply(op, operands, { count }).out;
}

const equals = /* @__PURE__ */ pointwise('equals', ['x', 'y'], (x, y) => (x === y ? 1 : 0), 'select(0.0, 1.0, x == y)');
/** The softmax of x where y is its logsumexp, but for what rounding did to y. */
const expAbove = /* @__PURE__ */ pointwise('exp_above', ['x', 'y'], (x, y) => Math.exp(x - y), 'exp(x - y)');
/**
 * dy·term/Σ terms. For logsumexp, dividing by the sum makes good what rounding took from it, which is much where x is
 * large; a sum that is NaN has one among its terms, or an infinite logsumexp: then the term alone is what torch has.
 */
const share = /* @__PURE__ */ pointwise(
  'share_backward',
  ['term', 'total', 'dy'],
  (term, total, dy) => (term * dy) / (Number.isNaN(total) ? 1 : total),
  'term * dy / select(total, 1.0, is_nan(total))',
  nanWgsl,
);
const shareBy = (terms: typeof equals) => ({ x, y, dy, dims }: Reduced) => {
  const term = terms({ x, y });
  return share({ term, total: reduceAll('sum', term, dims), dy });
};
const prodBackward = /* @__PURE__ */ pointwise(
  'prod_backward',
  ['x', 'zeros', 'others', 'dy'],
  (x, zeros, others, dy) => (x === 0 ? (zeros === 1 ? others * dy : 0) : zeros === 0 ? (others / x) * dy : 0),
  'select(select(0.0, others / x * dy, zeros == 0.0), select(0.0, others * dy, zeros == 1.0), x == 0.0)',
);
const varBackward = /* @__PURE__ */ pointwise(
  'var_backward',
  ['x', 'mean', 'dy'],
  (x, mean, dy, count) => ((2 * (x - mean)) / count) * dy,
  '2.0 * (x - mean) / params.count * dy',
);
const stdBackward = /* @__PURE__ */ pointwise(
  'std_backward',
  ['x', 'mean', 'y', 'dy'],
  (x, mean, y, dy, count) => (y === 0 ? 0 : ((x - mean) / count / y) * dy),
  'select((x - mean) / params.count / y * dy, 0.0, y == 0.0)',
);
const normBackward = /* @__PURE__ */ pointwise(
  'norm_backward',
  ['x', 'y', 'dy'],
  (x, y, dy) => (y === 0 ? 0 : dy * (x / y)),
  'select(dy * ratio_of(x, y), 0.0, y == 0.0)',
  ratioWgsl,
);

type ReduceName =
  | 'sum' | 'mean' | 'prod' | 'count_zeros' | 'prod_of_nonzeros' | 'amax' | 'amin' | 'argmax' | 'argmin'
  | 'any' | 'all' | 'logsumexp' | 'var' | 'std' | 'norm';

const REDUCTIONS: Readonly<Record<ReduceName, Reduction>> = {
  sum: {
    takes: ANY,
    gives: counted,
    of: sumOf,
    fold: addUp,
    result: 'a',
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
    result: 'a',
    empty: 1,
    saves: ['x'],
    gradient({ x, dy, dims }) {
      return prodBackward({ x, zeros: reduceAll('count_zeros', x, dims), others: reduceAll('prod_of_nonzeros', x, dims), dy });
    },
  },
  /** For the gradient of prod, as the one below. */
  count_zeros: {
    takes: FLOATS,
    gives: () => 'f32',
    of: (values) => values.filter((v) => v === 0).length,
    fold: () => ({ acc: 'f32', lift: 'select(0.0, 1.0, v == 0.0)', join: 'a + b' }),
    result: 'a',
    empty: 0,
  },
  prod_of_nonzeros: {
    takes: FLOATS,
    gives: () => 'f32',
    of: (values) => values.reduce((a, b) => (b === 0 ? a : a * b), 1),
    fold: () => ({ acc: 'f32', lift: 'select(v, 1.0, v == 0.0)', join: 'a * b' }),
    result: 'a',
    empty: 1,
  },
  amax: {
    takes: NUMBERS,
    of: (values) => values.reduce((a, b) => Math.max(a, b)),
    fold: extreme('max'),
    result: 'a',
    saves: BOTH,
    gradient: shareBy(equals),
  },
  amin: {
    takes: NUMBERS,
    of: (values) => values.reduce((a, b) => Math.min(a, b)),
    fold: extreme('min'),
    result: 'a',
    saves: BOTH,
    gradient: shareBy(equals),
  },
  argmax: { takes: NUMBERS, gives: () => 'i32', of: indexOf((a, b) => a > b), fold: search('key'), result: 'i32(a.y)' },
  argmin: { takes: NUMBERS, gives: () => 'i32', of: indexOf((a, b) => a < b), fold: search(LEAST_FIRST), result: 'i32(a.y)' },
  any: {
    takes: ANY,
    gives: () => 'bool',
    of: (values) => (values.some((v) => v !== 0) ? 1 : 0),
    fold: truth('a | b'),
    result: 'a',
    empty: 0,
  },
  all: {
    takes: ANY,
    gives: () => 'bool',
    of: (values) => (values.every((v) => v !== 0) ? 1 : 0),
    fold: truth('a & b'),
    result: 'a',
    empty: 1,
  },
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
  var: {
    takes: FLOATS,
    of: (values, count) => squaredDeviations(values) / count,
    fold: () => MOMENTS,
    result: 'a.z / params.count',
    empty: NaN,
    saves: ['x'],
    gradient: ({ x, dy, dims, count }) => varBackward({ x, mean: reduceAll('mean', x, dims), dy }, count),
  },
  std: {
    takes: FLOATS,
    of: (values, count) => Math.sqrt(squaredDeviations(values) / count),
    fold: () => MOMENTS,
    result: 'sqrt(a.z / params.count)',
    empty: NaN,
    saves: BOTH,
    gradient: ({ x, y, dy, dims, count }) => stdBackward({ x, mean: reduceAll('mean', x, dims), y, dy }, count),
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

function keptShape(shape: readonly number[], dims: readonly number[]): number[] {
  return shape.map((d, i) => (dims.includes(i) ? 1 : d));
}

/** x as (outer, reduced, inner), or null where kept dimensions lie between reduced ones. */
function asMiddle(shape: readonly number[], dims: readonly number[]): [number, number, number] | null {
  const sizes: [number, number, number] = [1, 1, 1];
  let part = 0;
  for (let i = 0; i < shape.length; i++) {
    if (shape[i] === 1) continue;
    const reduced = dims.includes(i);
    if (part === 2 ? reduced : reduced !== (part === 1)) part++;
    if (part > 2) return null;
    sizes[part] *= shape[i];
  }
  return sizes;
}

/** How many values each result is of, less the correction, but not below 0. */
function countOf(shape: readonly number[], { dims, correction = 0 }: ReduceAttrs): number {
  return Math.max(0, dims.reduce((count, d) => count * (shape[d] ?? 1), 1) - correction);
}

function reduceOp(name: string, row: Reduction): Op<ReduceAttrs, 'x', 'y'> {
  const { takes, gives = (x) => x, of, fold, result, empty, wasm, gradient } = row;
  return defineOp<ReduceAttrs, 'x', 'y', 'x' | 'y'>({
    name,
    inputs: ['x'],
    outputs: ['y'],
    asStored: { webgpu: ['x'] },
    shape({ x }, { dims, keepdim }) {
      expectDType(name, 'x', x.dtype, ...takes);
      if (empty === undefined && dims.some((d) => x.shape[d] === 0)) {
        throw new ShapeError(`${name}: x has shape ${show(x.shape)}, but ${name} of nothing has no value`);
      }
      const shape = keepdim ? keptShape(x.shape, dims) : x.shape.filter((_, i) => !dims.includes(i));
      return { y: spec(shape, gives(x.dtype)) };
    },
    reference({ x }, { y }, attrs) {
      const into = broadcastIndex(keptShape(x.shape, attrs.dims), x.shape);
      const each = x.size / y.size;
      const values = new Float64Array(x.size);
      const placed = new Int32Array(y.size);
      for (let i = 0; i < x.size; i++) values[into[i] * each + placed[into[i]]++] = x.data[i];
      const count = countOf(x.shape, attrs);
      for (let o = 0; o < y.size; o++) y.data[o] = of(values.subarray(o * each, (o + 1) * each), count, !isFloat(y.dtype));
    },
    webgpu({ x }, { y }, attrs, device) {
      const type = accessOf(x.dtype, device.caps).type;
      const folded = { name, fold: fold(type, accessOf(y.dtype, device.caps).type), result, empty };
      const value = { type, load: 'load_x(i)' };
      return foldLaunches({ ...folded, inputs: { x }, value, count: countOf(x.shape, attrs) }, y, attrs.dims, device);
    },
    wasm({ x }, { y }, { dims }, device) {
      const sizes = asMiddle(x.shape, dims);
      return x.dtype === 'f32' && sizes !== null && wasm !== undefined && wasm(x, y, sizes, device);
    },
    saves: row.saves,
    backward: gradient && (({ attrs, saved, specs: { x: { shape, dtype } }, grads }) => {
      const kept = keptShape(shape, attrs.dims);
      const [y, dy] = [saved.y?.alias(kept), grads.y!.alias(kept)];
      const x = saved.x && cast(saved.x, 'f32');
      const dx = gradient({ x, y, dy, shape, dims: attrs.dims, count: countOf(shape, attrs) });
      return { x: cast(dx, dtype) };
    }),
  });
}

/** Backward of sum and mean: dy·scale stretched to `shape`. */
const spreadOp = /* @__PURE__ */ (() => {
  const kernel = new Elementwise({
    name: 'reduce.spread',
    reads: { dy: 'f32' },
    writes: { dx: 'f32' },
    values: { dx: 'dy * params.scale' },
    params: { scale: 'f32' },
  });
  return defineOp({
    name: 'sum_backward',
    inputs: ['dy'],
    outputs: ['dx'],
    shape: ({ dy }, { shape }: { readonly shape: readonly number[]; readonly scale: number }) => ({ dx: spec(shape, dy.dtype) }),
    reference({ dy }, { dx }, { scale }) {
      const from = broadcastIndex(dy.shape, dx.shape);
      for (let i = 0; i < dx.size; i++) dx.data[i] = dy.data[from[i]] * scale;
    },
    webgpu: ({ dy }, { dx }, { scale }) => [kernel.launch([dy], [dx], [scale])],
    wasm({ dy }, { dx }, { scale }, device) {
      device.k.fill(dx, dx.size, scale);
      return binaryOnWasm(tagged(device), 'mul', wasmArg(dx), wasmArg(dy), wasmArg(dx));
    },
  });
})();

function spread(dy: Tensor, shape: readonly number[], scale: number): Tensor {
  return apply(spreadOp, { dy }, { shape, scale }).dx;
}

const reduceOps = /* @__PURE__ */ Object.fromEntries(
  Object.entries(REDUCTIONS).map(([name, row]) => [name, reduceOp(name, row)]),
) as Record<ReduceName, Op<ReduceAttrs, 'x', 'y'>>;

/** For gradients: over the same dims, which are kept. */
function reduceAll(name: ReduceName, x: Tensor, dims: readonly number[]): Tensor {
  return apply(reduceOps[name], { x }, { dims, keepdim: true }).y;
}

function dimsOf(name: string, x: Spec, dim: ReduceOptions['dim']): number[] {
  const rank = x.shape.length;
  const given = Array.isArray(dim) ? (dim as readonly number[]) : dim === undefined ? [] : [dim as number];
  if (given.length === 0) return x.shape.map((_, i) => i);
  const dims = given.map((d) => normalizeDim(name, d, rank));
  if (new Set(dims).size < dims.length) throw new ShapeError(`${name}: dim ${show(given)} names a dimension twice`);
  return dims;
}

const bind =
  (name: ReduceName) =>
  (x: Tensor, { dim, keepdim = false }: ReduceOptions = {}): Tensor =>
    apply(reduceOps[name], { x }, { dims: dimsOf(name, x, dim), keepdim }).y;

/** Sum over `dim` (all when left out): floats, i32 or u32 of any shape → the same dtype; bool is counted, in i32. */
export const sum = bind('sum');
/** Mean over `dim`: floats → the same dtype. */
export const mean = bind('mean');
/** Product over `dim`, of dtypes as sum has them. */
export const prod = bind('prod');
/** Largest element over `dim`: floats, i32 or u32; the gradient is shared evenly by ties. */
export const amax = bind('amax');
/** Smallest element over `dim`: floats, i32 or u32; the gradient is shared evenly by ties. */
export const amin = bind('amin');
/** log Σ eˣ over `dim`, without overflow: floats. */
export const logsumexp = bind('logsumexp');
/** √Σx², the L2 norm, over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const norm = bind('norm');
/** Whether any element over `dim` is not 0, as NaN is not: of any dtype → bool. */
export const any = bind('any');
/** Whether all elements over `dim` are not 0: of any dtype → bool. */
export const all = bind('all');

export interface VarianceOptions extends ReduceOptions {
  /** Taken off the number of elements that the squared deviations are divided by: 1 (Bessel's) when left out. */
  readonly correction?: number;
}

const bindVariance =
  (name: 'var' | 'std') =>
  (x: Tensor, { dim, keepdim = false, correction = 1 }: VarianceOptions = {}): Tensor => {
    expectFinite(name, 'correction', correction);
    return apply(reduceOps[name], { x }, { dims: dimsOf(name, x, dim), keepdim, correction }).y;
  };

/** Variance over `dim` (all when left out): floats. torch calls it `var`, by which name it is exported too. */
export const variance = bindVariance('var');
export { variance as var };
/** Standard deviation over `dim` (all when left out): floats; its gradient at 0 is 0. */
export const std = bindVariance('std');

const bindIndex =
  (name: 'argmax' | 'argmin') =>
  (x: Tensor, dim?: number | null, keepdim = false): Tensor =>
    bind(name)(x, { dim: dim ?? undefined, keepdim });

/** Index (i32) of the largest element along `dim`, or in all of x when left out; the first of equals, NaN largest. */
export const argmax = bindIndex('argmax');
/** Index (i32) of the smallest element, as argmax; NaN smallest. */
export const argmin = bindIndex('argmin');

/** Sums x over the dimensions along which `shape` broadcasts to x's: the gradient of broadcasting. */
export function sumTo(x: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const dims = x.shape.flatMap((d, i) => (d !== 1 && (i < lead || shape[i - lead] === 1) ? [i] : []));
  const y = dims.length > 0 ? sum(x, { dim: dims, keepdim: true }) : x;
  return reshape(y, shape);
}
