import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { expectDType, expectElements } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import { Tensor } from '../../engine/tensor.ts';
import { around, expectAlike, normalizeAxis, normalizeDim, resized, show, strides } from '../common/shapes.ts';
import { zeros } from '../elementwise/fill.ts';
import { expand } from '../reduce/sum.ts';
import { reshape } from './reshape.ts';
import { defineCopyOp, type View, viewOp } from './strided.ts';

export { expand };

type Dims = { readonly dims: readonly number[] };

const permuteOp = /* @__PURE__ */ viewOp<Dims>(
  'permute',
  (shape, { dims }) => ({ shape: dims.map((d) => shape[d]), strides: dims.map((d) => strides(shape)[d]), offset: 0 }),
  ({ attrs: { dims }, grads }) => ({ x: permute(grads.y!, dims.map((_, i) => dims.indexOf(i))) }),
);

/** Reorders dimensions: dimension i of the result is dimension `dims[i]` of x. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  const order = dims.map((d) => normalizeDim('permute', d, x.shape.length));
  if (order.length !== x.shape.length || new Set(order).size !== order.length) {
    throw new ShapeError(`permute: dims ${show(dims)} are no order of the ${x.shape.length} dimensions of ${show(x.shape)}`);
  }
  return apply(permuteOp, { x }, { dims: order }).y;
}

/** Repeats each entry of a dimension `repeats` times in a row: a b → a a b b. */
export function repeatInterleave(x: Tensor, repeats: number, dim: number): Tensor {
  expectWhole('repeat_interleave', 'repeats', repeats, 1);
  const d = normalizeAxis('repeat_interleave', dim, x.shape.length);
  const { outer, length, inner } = around(x.shape, d);
  const repeated = [outer * length, repeats, inner];
  return scope(() => reshape(expand(reshape(x, [outer * length, 1, inner]), repeated), resized(x.shape, d, length * repeats)));
}

/**
 * Repeats all of x along its dimensions: a b → a b a b (torch.tile, numpy.tile).
 * @param repeats how often along each of the last dimensions; more numbers than x has dimensions give it new ones
 */
export function tile(x: Tensor, repeats: readonly number[]): Tensor {
  for (const times of repeats) expectWhole('tile', 'a number of repeats', times);
  const rank = Math.max(x.shape.length, repeats.length);
  const last = <T>(values: readonly T[], one: T) => [...new Array<T>(rank - values.length).fill(one), ...values];
  const [own, times] = [last(x.shape, 1), last(repeats, 1)];
  const copies = own.flatMap((n, i) => [times[i], n]);
  return scope(() => reshape(expand(reshape(x, own.flatMap((n) => [1, n])), copies), own.map((n, i) => n * times[i])));
}

const flipOp = /* @__PURE__ */ viewOp<Dims>(
  'flip',
  (shape, { dims }) => {
    const own = strides(shape);
    const offset = dims.reduce((sum, d) => sum + own[d] * Math.max(shape[d] - 1, 0), 0);
    return { shape, strides: own.map((s, d) => (dims.includes(d) ? -s : s)), offset };
  },
  ({ attrs, grads }) => ({ x: flip(grads.y!, attrs.dims) }),
);

/** Reverses the order along dimensions. @throws ShapeError when one is named twice or x has none */
export function flip(x: Tensor, dims: readonly number[]): Tensor {
  const own = dims.map((d) => normalizeAxis('flip', d, x.shape.length));
  if (new Set(own).size < own.length) throw new ShapeError(`flip: dims ${show(dims)} name a dimension twice`);
  return apply(flipOp, { x }, { dims: own }).y;
}

interface Range {
  readonly dim: number;
  readonly start: number;
  readonly step: number;
}

/** What a range along one dimension of `shape` leaves to be seen. */
function rangeOf(shape: readonly number[], { dim, start, step }: Range): View {
  const own = strides(shape);
  return { strides: own.map((s, d) => (d === dim ? s * step : s)), offset: start * own[dim] };
}

const sliceOp = /* @__PURE__ */ viewOp<Range & { readonly length: number }>(
  'slice',
  (shape, attrs) => ({ ...rangeOf(shape, attrs), shape: resized(shape, attrs.dim, attrs.length) }),
  ({ attrs: { dim, start, step }, grads, specs }) => {
    const dx = zeros(grads.y!.backend, specs.x.shape, specs.x.dtype);
    apply(sliceScatterOp, { dst: dx, src: grads.y! }, { dim, start, step });
    return { x: dx };
  },
);

/**
 * x[…, start:end:step, …] along one dimension, as Python has it: negative counts from the end, null or undefined end
 * is the end.
 * @throws ArgumentError unless the bounds are whole numbers and step is one ≥ 1, ShapeError for a scalar
 */
export function slice(x: Tensor, dim: number, start: number, end: number | null = null, step = 1): Tensor {
  const d = normalizeAxis('slice', dim, x.shape.length);
  const n = x.shape[d];
  expectWhole('slice', 'step', step, 1, Infinity);
  expectWhole('slice', 'start', start, -Infinity, Infinity);
  expectWhole('slice', 'end', end ?? n, -Infinity, Infinity);
  const clip = (i: number) => Math.min(Math.max(i < 0 ? i + n : i, 0), n);
  const from = clip(start);
  const length = Math.max(0, Math.ceil((clip(end ?? n) - from) / step));
  return apply(sliceOp, { x }, { dim: d, start: from, length, step: Math.min(step, Math.max(n, 1)) }).y;
}

const sliceScatterOp = /* @__PURE__ */ defineCopyOp<Range, 'dst' | 'src' | 'start?', never>({
  name: 'slice_scatter_',
  inputs: ['dst', 'src', 'start?'],
  outputs: [],
  mutates: ['dst'],
  shape({ dst, src, start: moved }, { dim, start, step }) {
    expectElements('slice_scatter_', 'dst', dst.dtype);
    expectAlike('slice_scatter_', 'src', src, spec(resized(dst.shape, dim, src.shape[dim]), dst.dtype));
    const last = dst.shape[dim] - Math.max(0, src.shape[dim] - 1) * step - Math.min(src.shape[dim], 1);
    if (last < 0) {
      throw new ShapeError(`slice_scatter_: src has shape ${show(src.shape)}, more than ${show(dst.shape)} in dim ${dim}`);
    }
    expectWhole('slice_scatter_', 'start', start, 0, last);
    if (!moved) return {};
    expectDType('slice_scatter_', 'start', moved.dtype, 'i32');
    if (moved.shape.some((d) => d !== 1)) {
      throw new ShapeError(`slice_scatter_: start has shape ${show(moved.shape)}, expected one element`);
    }
    return {};
  },
  copies<T extends Spec>({ dst, src, start }: { dst: T; src: T; start?: T }, _: object, attrs: Range) {
    const most = dst.shape[attrs.dim] - src.shape[attrs.dim];
    const moved = start && { start, step: strides(dst.shape)[attrs.dim], most };
    return [{ source: src, target: dst, shape: src.shape, to: rangeOf(dst.shape, attrs), moved }];
  },
});

/**
 * dst[…, start : start + n, …] ← src along one dimension, in place, where src has n entries of it: the way to append to
 * a preallocated cache. Not recorded on the tape.
 * @param dst of any dtype that stores elements by themselves
 * @param src of dst's dtype, and of its shape but for a size of at most dst's in `dim`
 * @param start where to write: a number, or an i32 tensor of one element, which may hold another one at each replay of
 *   a capture. A tensor's number is clamped to 0 … dst's size − n: nothing is ever written outside.
 * @throws ArgumentError for a number from which src does not fit; ShapeError, DTypeError for a src or start of another
 *   shape or dtype
 */
export function sliceScatter_(dst: Tensor, src: Tensor, dim: number, start: number | Tensor): void {
  const data = start instanceof Tensor ? start : undefined;
  const d = normalizeAxis('slice_scatter_', dim, dst.shape.length);
  const range = { dim: d, start: data ? 0 : (start as number), step: 1 };
  apply(sliceScatterOp, { dst, src, start: data }, range);
}
