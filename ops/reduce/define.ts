import { apply } from '../../engine/apply.ts';
import type { Spec } from '../../engine/backend.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { accessOf, type DType, expectDType, FLOATS, isFloat } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { broadcastIndex, normalizeDim, show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { type Fold, foldLaunches } from './fold.ts';

export interface ReduceOptions {
  /** Dimensions to reduce; all of them when left out. */
  readonly dim?: number | readonly number[];
  /** Keep reduced dimensions with size 1. */
  readonly keepdim?: boolean;
}

export interface VarianceOptions extends ReduceOptions {
  /** Taken off the number of elements that the squared deviations are divided by: 1 (Bessel's) when left out. */
  readonly correction?: number;
}

interface ReduceAttrs {
  readonly dims: readonly number[];
  readonly keepdim: boolean;
  readonly correction: number;
}

/** What the gradient of a reduction is made of; y and dy have the shape with keepdim. */
interface Reduced {
  /** In f32. */
  readonly x: Tensor;
  readonly y: Tensor;
  readonly dy: Tensor;
  readonly shape: readonly number[];
  /** Values that each result is of, less the correction, but not below 0. */
  readonly count: number;
  /** Options of other reductions over the same dims, with keepdim. */
  readonly over: ReduceOptions;
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

/** Dtypes that have an order. */
export const NUMBERS = [...FLOATS, 'i32', 'u32'] as const;
export const ANY = [...NUMBERS, 'bool'] as const;

/** bool is counted. */
export const counted = (x: DType): DType => (x === 'bool' ? 'i32' : x);
export const sumOf = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);

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

function dimsOf(name: string, { shape }: Spec, dim: ReduceOptions['dim'] = []): number[] {
  const given = [dim].flat() as readonly number[];
  if (given.length === 0) return shape.map((_, i) => i);
  const dims = given.map((d) => normalizeDim(name, d, shape.length));
  if (new Set(dims).size < dims.length) throw new ShapeError(`${name}: dim ${show(given)} names a dimension twice`);
  return dims;
}

/** The op of a reduction, and the function that applies it. */
export function defineReduction(name: string, row: Reduction): (x: Tensor, options?: VarianceOptions) => Tensor {
  const { takes, gives = (x) => x, of, fold, result = 'a', empty, wasm, gradient } = row;
  const kept = ({ shape }: Spec, { dims }: ReduceAttrs) => shape.map((d, i) => (dims.includes(i) ? 1 : d));
  const countOf = ({ shape }: Spec, { dims, correction }: ReduceAttrs) =>
    Math.max(0, dims.reduce((count, d) => count * (shape[d] ?? 1), 1) - correction);
  const op = defineOp<ReduceAttrs, 'x', 'y', 'x' | 'y'>({
    name,
    inputs: ['x'],
    outputs: ['y'],
    shape({ x }, attrs) {
      const { dims, keepdim } = attrs;
      expectDType(name, 'x', x.dtype, ...takes);
      if (empty === undefined && dims.some((d) => x.shape[d] === 0)) {
        throw new ShapeError(`${name}: x has shape ${show(x.shape)}, but ${name} of nothing has no value`);
      }
      return { y: spec(keepdim ? kept(x, attrs) : x.shape.filter((_, i) => !dims.includes(i)), gives(x.dtype)) };
    },
    reference({ x }, { y }, attrs) {
      const into = broadcastIndex(kept(x, attrs), x.shape);
      const each = x.size / y.size;
      const values = new Float64Array(x.size);
      const placed = new Int32Array(y.size);
      for (let i = 0; i < x.size; i++) values[into[i] * each + placed[into[i]]++] = x.data[i];
      const count = countOf(x, attrs);
      for (let o = 0; o < y.size; o++) y.data[o] = of(values.subarray(o * each, (o + 1) * each), count, !isFloat(y.dtype));
    },
    webgpu({ x }, { y }, attrs, device) {
      const { type } = accessOf(x.dtype, device.caps);
      const value = { type, load: 'load_x(i)', ...fold(type, accessOf(y.dtype, device.caps).type) };
      const params = { count: ['f32', countOf(x, attrs)] } as const;
      const store = `store_y(o, ${result});`;
      return foldLaunches(device, attrs.dims, { name, reads: { x }, writes: { y }, params, fold: value, store, empty });
    },
    wasm({ x }, { y }, { dims }, device) {
      const sizes = asMiddle(x.shape, dims);
      return x.dtype === 'f32' && sizes !== null && wasm !== undefined && wasm(x, y, sizes, device);
    },
    saves: row.saves,
    backward: gradient && (({ attrs, saved, specs, grads }) => {
      const [y, dy] = [saved.y, grads.y!].map((t) => t?.alias(kept(specs.x, attrs)));
      const x = saved.x && cast(saved.x, 'f32');
      const { shape, dtype } = specs.x;
      const over = { dim: attrs.dims, keepdim: true };
      return { x: cast(gradient({ x, y: y!, dy: dy!, shape, count: countOf(specs.x, attrs), over }), dtype) };
    }),
  });
  return (x, { dim, keepdim = false, correction = 0 } = {}) => apply(op, { x }, { dims: dimsOf(name, x, dim), keepdim, correction }).y;
}
