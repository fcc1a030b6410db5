import { ShapeError } from '../../engine/errors.ts';
import { apply, apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { zeros } from '../elementwise/fill.ts';
import { reshape } from './reshape.ts';
import { normalizeAxis, normalizeDim, show, strides } from '../common/shapes.ts';
import { copyOnHost, copyOnWasm, gatherCopy, launchCopy, scatterCopy } from './strided.ts';

interface Along {
  readonly dim: number;
}

/** Where each part begins along the dimension, in elements of the whole. */
function offsets(sizes: readonly number[], step: number): number[] {
  let at = 0;
  return sizes.map((size) => {
    const offset = at * step;
    at += size;
    return offset;
  });
}

function parts(whole: readonly number[], pieces: readonly { shape: readonly number[] }[], dim: number) {
  const own = strides(whole);
  const starts = offsets(pieces.map((p) => p.shape[dim]), own[dim]);
  return { own, starts };
}

const catOp = /* @__PURE__ */ defineOp<Along>({
  name: 'cat',
  shape(inputs, { dim }) {
    const [first] = inputs;
    for (const x of inputs) {
      const fits = x.shape.length === first.shape.length && x.shape.every((d, i) => i === dim || d === first.shape[i]);
      if (!fits || x.dtype !== first.dtype) {
        throw new ShapeError(
          `cat: ${x.dtype}${show(x.shape)} and ${first.dtype}${show(first.shape)} differ in more than dim ${dim}`,
        );
      }
    }
    const total = inputs.reduce((sum, x) => sum + x.shape[dim], 0);
    return [spec(first.shape.map((d, i) => (i === dim ? total : d)), first.dtype)];
  },
  reference({ inputs, outputs: [y], attrs: { dim } }) {
    const { own, starts } = parts(y.shape, inputs, dim);
    inputs.forEach((x, i) => copyOnHost(scatterCopy(x.shape, own, starts[i]), x, y));
  },
  webgpu({ inputs, outputs: [y], attrs: { dim } }) {
    const { own, starts } = parts(y.shape, inputs, dim);
    return inputs.flatMap((x, i) => (x.size === 0 ? [] : [launchCopy(scatterCopy(x.shape, own, starts[i]), x, y)]));
  },
  wasm({ inputs, outputs: [y], attrs: { dim }, k }) {
    const { own, starts } = parts(y.shape, inputs, dim);
    return inputs.every((x, i) => copyOnWasm(k, scatterCopy(x.shape, own, starts[i]), x, y));
  },
  backward: ({ attrs, grads, inputSpecs }) =>
    apply(splitOp, [grads[0]!], { dim: attrs.dim, sizes: inputSpecs.map((s) => s.shape[attrs.dim]) }),
});

/** Joins tensors of one dtype along a dimension; all others must agree. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError('cat: no tensors were given, expected at least one');
  return apply1(catOp, tensors, { dim: normalizeAxis('cat', dim, tensors[0].shape.length) });
}

/** Joins tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError('stack: no tensors were given, expected at least one');
  const d = normalizeDim('stack', dim, tensors[0].shape.length + 1);
  return cat(tensors.map((t) => reshape(t, [...t.shape.slice(0, d), 1, ...t.shape.slice(d)])), d);
}

interface Sizes extends Along {
  readonly sizes: readonly number[];
}

const splitOp = /* @__PURE__ */ defineOp<Sizes>({
  name: 'split',
  shape([x], { dim, sizes }) {
    const total = sizes.reduce((sum, n) => sum + n, 0);
    if (total !== x.shape[dim]) {
      throw new ShapeError(`split: sizes ${show(sizes)} add up to ${total}, dim ${dim} of ${show(x.shape)} is ${x.shape[dim]}`);
    }
    return sizes.map((n) => spec(x.shape.map((d, i) => (i === dim ? n : d)), x.dtype));
  },
  reference({ inputs: [x], outputs, attrs: { dim } }) {
    const { own, starts } = parts(x.shape, outputs, dim);
    outputs.forEach((y, i) => copyOnHost(gatherCopy(y.shape, own, starts[i]), x, y));
  },
  webgpu({ inputs: [x], outputs, attrs: { dim } }) {
    const { own, starts } = parts(x.shape, outputs, dim);
    return outputs.flatMap((y, i) => (y.size === 0 ? [] : [launchCopy(gatherCopy(y.shape, own, starts[i]), x, y)]));
  },
  wasm({ inputs: [x], outputs, attrs: { dim }, k }) {
    const { own, starts } = parts(x.shape, outputs, dim);
    return outputs.every((y, i) => copyOnWasm(k, gatherCopy(y.shape, own, starts[i]), x, y));
  },
  backward({ attrs, grads, outputSpecs }) {
    const { backend } = grads.find((g) => g !== null)!;
    return [cat(grads.map((g, i) => g ?? zeros(backend, outputSpecs[i].shape, outputSpecs[i].dtype)), attrs.dim)];
  },
});

/** Cuts x into parts of those sizes along a dimension. */
export function split(x: Tensor, sizes: readonly number[], dim = 0): Tensor[] {
  return apply(splitOp, [x], { sizes, dim: normalizeAxis('split', dim, x.shape.length) });
}
