import { expectFinite } from '../../engine/arguments.ts';
import { apply } from '../../engine/apply.ts';
import type { Spec } from '../../engine/backend.ts';
import { accessOf, expectDType, isFloat } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { broadcastIndex, normalizeDim, sameShape, show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { reshape } from '../movement/reshape.ts';
import { foldLaunches } from './fold.ts';
import { type Reduction, type ReduceName, REDUCTIONS } from './reductions.ts';

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
  const { takes, gives = (x) => x, of, fold, result = 'a', empty, wasm, gradient } = row;
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
      const over = (other: ReduceName, of: Tensor) => apply(reduceOps[other], { x: of }, { dims: attrs.dims, keepdim: true }).y;
      const dx = gradient({ x, y, dy, shape, count: countOf(shape, attrs), over });
      return { x: cast(dx, dtype) };
    }),
  });
}

const reduceOps = /* @__PURE__ */ Object.fromEntries(
  Object.entries(REDUCTIONS).map(([name, row]) => [name, reduceOp(name, row)]),
) as Record<ReduceName, Op<ReduceAttrs, 'x', 'y'>>;

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
