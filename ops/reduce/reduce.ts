import { elements, type Spec } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, type BackwardContext, defineOp, type HostArg, type Op, spec, type WasmCall } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { binaryOnWasm } from '../elementwise/binary-wasm.ts';
import { eqOp } from '../elementwise/compare.ts';
import { Elementwise } from '../elementwise/elementwise.ts';
import { inFloat32 } from '../elementwise/half.ts';
import { nanWgsl } from '../elementwise/math.ts';
import { type FoldName, reduceLaunches } from './kernels.ts';
import { reshape } from '../movement/reshape.ts';
import { broadcastIndex, normalizeDim, sameShape, show } from '../common/shapes.ts';

export interface ReduceOptions {
  /** Dimensions to reduce; all of them when left out. */
  readonly dim?: number | readonly number[];
  /** Keep reduced dimensions with size 1. */
  readonly keepdim?: boolean;
}

interface ReduceAttrs {
  readonly dims: readonly number[];
  readonly keepdim: boolean;
}

/** `x`: the elements. `into`: for each element, the output it belongs to. */
type Loops = (x: HostArg, y: HostArg, into: Int32Array) => void;

interface Row {
  readonly loops: Loops;
  readonly fold: FoldName;
  /** Whether an empty set has a value. */
  readonly identity: boolean;
  readonly saves: Op['saves'];
  /** Gradient from dy and the output, both as the output is with keepdim. */
  readonly backward: (context: BackwardContext<ReduceAttrs>, dy: Tensor, kept: readonly number[]) => Tensor;
}

const both = { inputs: [0], outputs: [0] };

const sumLoops: Loops = (x, y, into) => {
  const sums = new Float64Array(y.size);
  for (let i = 0; i < x.size; i++) sums[into[i]] += x.data[i];
  y.data.set(sums);
};

const extremeLoops =
  (pick: (a: number, b: number) => number, start: number): Loops =>
  (x, y, into) => {
    y.data.fill(start);
    for (let i = 0; i < x.size; i++) y.data[into[i]] = pick(y.data[into[i]], x.data[i]);
  };

const maxLoops = extremeLoops(Math.max, -Infinity);

export type ReduceName = 'sum' | 'mean' | 'amax' | 'amin' | 'logsumexp';

const ROWS: Record<ReduceName, Row> = {
  sum: {
    loops: sumLoops,
    fold: 'sum',
    identity: true,
    saves: {},
    backward: ({ inputSpecs }, dy) => spread(dy, inputSpecs[0].shape, 1),
  },
  mean: {
    loops: (x, y, into) => {
      sumLoops(x, y, into);
      for (let o = 0; o < y.size; o++) y.data[o] /= x.size / y.size;
    },
    fold: 'mean',
    identity: true,
    saves: {},
    backward: ({ inputSpecs }, dy) => spread(dy, inputSpecs[0].shape, dy.size / elements(inputSpecs[0].shape)),
  },
  amax: { loops: maxLoops, fold: 'max', identity: false, saves: both, backward: spreadOverTies },
  amin: {
    loops: extremeLoops(Math.min, Infinity),
    fold: 'min',
    identity: false,
    saves: both,
    backward: spreadOverTies,
  },
  logsumexp: {
    loops: (x, y, into) => {
      maxLoops(x, y, into);
      const sums = new Float64Array(y.size);
      for (let i = 0; i < x.size; i++) {
        const max = y.data[into[i]];
        sums[into[i]] += x.data[i] === max ? 1 : Math.exp(x.data[i] - max);
      }
      for (let o = 0; o < y.size; o++) y.data[o] += Math.log(sums[o]);
    },
    fold: 'logsumexp',
    identity: false,
    saves: both,
    backward: ({ input, output, attrs }, dy, kept) => {
      const terms = apply1(expAboveOp, [input(0), output(0).alias(kept)], {});
      const total = apply1(reduceOps.sum, [terms], { dims: attrs.dims, keepdim: true });
      return apply1(logsumexpBackward, [terms, total, dy], {});
    },
  },
};

function keptShape(shape: readonly number[], dims: readonly number[]): number[] {
  return shape.map((d, i) => (dims.includes(i) ? 1 : d));
}

function outShape(shape: readonly number[], { dims, keepdim }: ReduceAttrs): number[] {
  return keepdim ? keptShape(shape, dims) : shape.filter((_, i) => !dims.includes(i));
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

/** Sums over the middle of [outer, reduced, inner], divided by `count`. */
function sumOnWasm(call: WasmCall<ReduceAttrs>, [outer, reduced, inner]: readonly number[], count: number): void {
  const { inputs: [x], outputs: [y], k, scratch } = call;
  if (inner === 1) {
    k.sum_last(x.ptr, y.ptr, outer, reduced, count);
    return;
  }
  const room = scratch(k.sum_first_scratch(reduced, inner));
  for (let o = 0; o < outer; o++) {
    k.sum_first(x.ptr + o * reduced * inner * 4, y.ptr + o * inner * 4, reduced, inner, count, room);
  }
}

/** Sums, means and logsumexp over one run of dimensions by C kernels. */
function reduceOnWasm(name: ReduceName, call: WasmCall<ReduceAttrs>): boolean {
  const { inputs: [x], outputs: [y], attrs, k } = call;
  const sizes = asMiddle(x.shape, attrs.dims);
  if (!sizes) return false;
  const [outer, reduced, inner] = sizes;
  switch (name) {
    case 'sum':
    case 'mean':
      sumOnWasm(call, sizes, name === 'mean' ? reduced : 1);
      return true;
    case 'logsumexp':
      if (inner === 1) k.logsumexp(x.ptr, y.ptr, outer, reduced);
      return inner === 1;
    case 'amax':
    case 'amin':
      return false;
    default:
      return name satisfies never;
  }
}

function reduceOp(name: ReduceName, row: Row): Op<ReduceAttrs> {
  return defineOp<ReduceAttrs>({
    name,
    shape([x], attrs) {
      expectDType(name, 'x', x.dtype, 'f32');
      if (!row.identity && attrs.dims.some((d) => x.shape[d] === 0)) {
        throw new ShapeError(`${name}: x has shape ${show(x.shape)}, but ${name} of nothing has no value`);
      }
      return [spec(outShape(x.shape, attrs))];
    },
    reference({ inputs: [x], outputs: [y], attrs: { dims } }) {
      row.loops(x, y, broadcastIndex(keptShape(x.shape, dims), x.shape));
    },
    webgpu: ({ inputs: [x], outputs: [y], attrs, scratch }) => reduceLaunches(row.fold, x, y, attrs.dims, scratch),
    wasm: (call) => reduceOnWasm(name, call),
    saves: row.saves,
    backward(context) {
      const kept = keptShape(context.inputSpecs[0].shape, context.attrs.dims);
      return [row.backward(context, context.grads[0]!.alias(kept), kept)];
    },
  });
}

const spreadKernel = /* @__PURE__ */ new Elementwise({
  name: 'reduce.spread',
  reads: { dy: 'f32' },
  writes: { dx: 'f32' },
  values: { dx: 'dy * params.scale' },
  params: { scale: 'f32' },
});

/** Backward of sum and mean: dy·scale stretched to `shape`. */
const spreadOp = /* @__PURE__ */ defineOp<{ shape: readonly number[]; scale: number }>({
  name: 'sum_backward',
  shape: (_, { shape }) => [spec(shape)],
  reference({ inputs: [dy], outputs: [dx], attrs: { scale } }) {
    const from = broadcastIndex(dy.shape, dx.shape);
    for (let i = 0; i < dx.size; i++) dx.data[i] = dy.data[from[i]] * scale;
  },
  webgpu: ({ inputs, outputs, attrs }) => [spreadKernel.launch(inputs, outputs, [attrs.scale])],
  wasm({ inputs: [dy], outputs: [dx], attrs: { scale }, k }) {
    k.fill(dx.ptr, dx.size, scale);
    return binaryOnWasm(k, 'mul', dx, dy, dx);
  },
});

function spread(dy: Tensor, shape: readonly number[], scale: number): Tensor {
  return apply1(spreadOp, [dy], { shape, scale });
}

const tiesKernel = /* @__PURE__ */ new Elementwise({
  name: 'reduce.ties',
  reads: { hit: 'f32', count: 'f32', dy: 'f32' },
  writes: { dx: 'f32' },
  values: { dx: 'hit * dy / count' },
});

/** Backward of amax and amin: each of the `count` elements that reached the extreme gets its even share of dy. */
const tiesOp = /* @__PURE__ */ defineOp({
  name: 'amax_backward',
  shape: ([hit]) => [spec(hit.shape)],
  reference({ inputs: [hit, count, dy], outputs: [dx] }) {
    const from = broadcastIndex(dy.shape, dx.shape);
    for (let i = 0; i < dx.size; i++) dx.data[i] = (hit.data[i] * dy.data[from[i]]) / count.data[from[i]];
  },
  webgpu: ({ inputs, outputs }) => [tiesKernel.launch(inputs, outputs)],
});

function spreadOverTies(
  { input, output, attrs }: BackwardContext<ReduceAttrs>,
  dy: Tensor,
  kept: readonly number[],
): Tensor {
  const hit = apply1(eqOp, [input(0), output(0).alias(kept)], {});
  const count = apply1(reduceOps.sum, [hit], { dims: attrs.dims, keepdim: true });
  return apply1(tiesOp, [hit, count, dy], {});
}

const expAboveKernel = /* @__PURE__ */ new Elementwise({
  name: 'reduce.exp_above',
  reads: { x: 'f32', y: 'f32' },
  writes: { e: 'f32' },
  values: { e: 'exp(x - y)' },
});

/** exp(x − y) with y broadcast: the softmax of x where y is its logsumexp, but for what rounding did to y. */
const expAboveOp = /* @__PURE__ */ defineOp({
  name: 'exp_above',
  shape: ([x]) => [spec(x.shape)],
  reference({ inputs: [x, y], outputs: [e] }) {
    const from = broadcastIndex(y.shape, e.shape);
    for (let i = 0; i < e.size; i++) e.data[i] = Math.exp(x.data[i] - y.data[from[i]]);
  },
  webgpu: ({ inputs, outputs }) => [expAboveKernel.launch(inputs, outputs)],
});

const logsumexpKernel = /* @__PURE__ */ new Elementwise({
  name: 'reduce.logsumexp.backward',
  reads: { e: 'f32', sum: 'f32', dy: 'f32' },
  writes: { dx: 'f32' },
  helpers: nanWgsl,
  values: { dx: 'e * dy / select(sum, 1.0, is_nan(sum))' },
});

/**
 * dy·e/Σe: dividing by the sum makes good what rounding took from the logsumexp, which is much where x is large. A sum
 * that is NaN has one among its e, or an infinite logsumexp: then e alone is what torch has.
 */
const logsumexpBackward = /* @__PURE__ */ defineOp({
  name: 'logsumexp_backward',
  shape: ([e]) => [spec(e.shape)],
  reference({ inputs: [e, sum, dy], outputs: [dx] }) {
    const from = broadcastIndex(dy.shape, dx.shape);
    for (let i = 0; i < dx.size; i++) dx.data[i] = (e.data[i] * dy.data[from[i]]) / (sum.data[from[i]] || 1);
  },
  webgpu: ({ inputs, outputs }) => [logsumexpKernel.launch(inputs, outputs)],
});

const reduceNames = Object.keys(ROWS) as ReduceName[];
/** The op objects, by torch's names. */
export const reduceOps = /* @__PURE__ */ Object.fromEntries(
  reduceNames.map((name) => [name, reduceOp(name, ROWS[name])]),
) as Record<ReduceName, Op<ReduceAttrs>>;

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
    inFloat32([x], (inputs) => apply1(reduceOps[name], inputs, { dims: dimsOf(name, x, dim), keepdim }));

/** Sum over `dim` (all when left out): floats of any shape → the same dtype. */
export const sum = bind('sum');
export const mean = bind('mean');
/** Largest element over `dim`; the gradient is shared evenly by ties. */
export const amax = bind('amax');
/** Smallest element over `dim`; the gradient is shared evenly by ties. */
export const amin = bind('amin');
/** log Σ eˣ over `dim`, without overflow. */
export const logsumexp = bind('logsumexp');

/** Sums x over the dimensions along which `shape` broadcasts to x's: the gradient of broadcasting. */
export function sumTo(x: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const dims = x.shape.flatMap((d, i) => (d !== 1 && (i < lead || shape[i - lead] === 1) ? [i] : []));
  const y = dims.length > 0 ? sum(x, { dim: dims, keepdim: true }) : x;
  return reshape(y, shape);
}
