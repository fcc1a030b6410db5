import { expectWhole } from '../../engine/arguments.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { zeros } from '../elementwise/fill.ts';
import { sumTo } from '../reduce/reduce.ts';
import { broadcastStrides, expectAlike, normalizeAxis, normalizeDim, show, strides } from '../common/shapes.ts';
import { copyOnHost, copyOnWasm, gatherCopy, launchCopy, scatterCopy, type StridedCopy } from './strided.ts';

/** Copies of x seen through other strides: permute, expand, flip and slice are all one kernel. */
function viewOp<A>(
  name: string,
  plan: (shape: readonly number[], attrs: A) => StridedCopy,
  backward: Op<A>['backward'],
): Op<A> {
  return defineOp<A>({
    name,
    shape: ([x], attrs) => [spec(plan(x.shape, attrs).shape, x.dtype)],
    reference({ inputs: [x], outputs: [y], attrs }) {
      copyOnHost(plan(x.shape, attrs), x, y);
    },
    webgpu({ inputs: [x], outputs: [y], attrs }) {
      return y.size === 0 ? [] : [launchCopy(plan(x.shape, attrs), x, y)];
    },
    wasm: ({ inputs: [x], outputs: [y], attrs, k }) => copyOnWasm(k, plan(x.shape, attrs), x, y),
    backward,
  });
}

interface Dims {
  readonly dims: readonly number[];
}

const permuteOp = /* @__PURE__ */ viewOp<Dims>(
  'permute',
  (shape, { dims }) => {
    const own = strides(shape);
    return gatherCopy(dims.map((d) => shape[d]), dims.map((d) => own[d]));
  },
  ({ attrs, grads }) => {
    const inverse = attrs.dims.map((_, i) => attrs.dims.indexOf(i));
    return [permute(grads[0]!, inverse)];
  },
);

/** Reorders dimensions: dimension i of the result is dimension `dims[i]` of x. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  const order = dims.map((d) => normalizeDim('permute', d, x.shape.length));
  if (order.length !== x.shape.length || new Set(order).size !== order.length) {
    throw new ShapeError(`permute: dims ${show(dims)} are no order of the ${x.shape.length} dimensions of ${show(x.shape)}`);
  }
  return apply1(permuteOp, [x], { dims: order });
}

interface Shape {
  readonly shape: readonly number[];
}

const expandOp = /* @__PURE__ */ viewOp<Shape>(
  'expand',
  (shape, attrs) => gatherCopy(attrs.shape, broadcastStrides(shape, attrs.shape)),
  ({ grads, inputSpecs }) => [sumTo(grads[0]!, inputSpecs[0].shape)],
);

/** Repeats dimensions of size 1 to `shape`; −1 keeps a dimension. A copy, not a view. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  const offset = shape.length - x.shape.length;
  const target = shape.map((d, i) => (d === -1 && i >= offset ? x.shape[i - offset] : d));
  const sizes = target.every((d) => Number.isInteger(d) && d >= 0);
  const fits = sizes && offset >= 0 && x.shape.every((d, i) => d === 1 || d === target[i + offset]);
  if (!fits) throw new ShapeError(`expand: ${show(x.shape)} does not broadcast to ${show(shape)}`);
  return apply1(expandOp, [x], { shape: target });
}

const flipOp = /* @__PURE__ */ viewOp<Dims>(
  'flip',
  (shape, { dims }) => {
    const own = strides(shape);
    const offset = dims.reduce((sum, d) => sum + own[d] * Math.max(shape[d] - 1, 0), 0);
    return gatherCopy(shape, own.map((s, d) => (dims.includes(d) ? -s : s)), offset);
  },
  ({ attrs, grads }) => [flip(grads[0]!, attrs.dims)],
);

/** Reverses the order along dimensions. @throws ShapeError when one is named twice or x has none */
export function flip(x: Tensor, dims: readonly number[]): Tensor {
  const own = dims.map((d) => normalizeAxis('flip', d, x.shape.length));
  if (new Set(own).size < own.length) throw new ShapeError(`flip: dims ${show(dims)} name a dimension twice`);
  return apply1(flipOp, [x], { dims: own });
}

interface Range {
  readonly dim: number;
  readonly start: number;
  readonly length: number;
  readonly step: number;
}

/** Strides and offset of a range along one dimension of `shape`. */
function rangeOf(shape: readonly number[], { dim, start, step }: Range) {
  const own = strides(shape);
  return { strides: own.map((s, d) => (d === dim ? s * step : s)), offset: start * own[dim] };
}

const sliceOp = /* @__PURE__ */ viewOp<Range>(
  'slice',
  (shape, attrs) => {
    const range = rangeOf(shape, attrs);
    return gatherCopy(shape.map((d, i) => (i === attrs.dim ? attrs.length : d)), range.strides, range.offset);
  },
  ({ attrs, grads, inputSpecs }) => {
    const dx = zeros(grads[0]!.backend, inputSpecs[0].shape, inputSpecs[0].dtype);
    apply1Into(dx, grads[0]!, attrs);
    return [dx];
  },
);

/** Writes src into a range of dst, in place. */
const sliceScatterOp = /* @__PURE__ */ defineOp<Range>({
  name: 'slice_scatter_',
  mutates: [0],
  shape([dst, src], { dim, length }) {
    const shape = dst.shape.map((d, i) => (i === dim ? length : d));
    expectAlike('slice_scatter_', 'src', src, { shape, dtype: dst.dtype });
    return [];
  },
  reference({ inputs: [dst, src], attrs }) {
    const range = rangeOf(dst.shape, attrs);
    copyOnHost(scatterCopy(src.shape, range.strides, range.offset), src, dst);
  },
  webgpu({ inputs: [dst, src], attrs }) {
    const range = rangeOf(dst.shape, attrs);
    return src.size === 0 ? [] : [launchCopy(scatterCopy(src.shape, range.strides, range.offset), src, dst)];
  },
  wasm({ inputs: [dst, src], attrs, k }) {
    const range = rangeOf(dst.shape, attrs);
    return copyOnWasm(k, scatterCopy(src.shape, range.strides, range.offset), src, dst);
  },
});

function apply1Into(dst: Tensor, src: Tensor, range: Range): void {
  apply1(sliceScatterOp, [dst, src], range);
}

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
  return apply1(sliceOp, [x], { dim: d, start: from, length, step: Math.min(step, Math.max(n, 1)) });
}
