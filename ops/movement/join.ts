import { expectElements } from '../../engine/dtype.ts';
import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { normalizeAxis, normalizeDim, resized, show, strides } from '../common/shapes.ts';
import { zeros } from '../elementwise/fill.ts';
import { unsqueeze } from './reshape.ts';
import { defineCopyOp, type View } from './strided.ts';

type Along = { readonly dim: number };

/** The parts, which lie one after the other along a dimension of the whole, with how each is seen in it. */
function seenIn<T extends Spec>({ shape }: Spec, parts: readonly T[], dim: number): (readonly [part: T, view: View])[] {
  const own = strides(shape);
  let start = 0;
  return parts.map((part) => {
    const offset = start * own[dim];
    start += part.shape[dim];
    return [part, { strides: own, offset }];
  });
}

const catOp = /* @__PURE__ */ defineCopyOp<Along, 'xs*', 'y'>({
  name: 'cat',
  inputs: ['xs*'],
  outputs: ['y'],
  shape({ xs }, { dim }) {
    const [first] = xs;
    expectElements('cat', 'x', first.dtype);
    for (const x of xs) {
      const fits = x.shape.length === first.shape.length && x.shape.every((d, i) => i === dim || d === first.shape[i]);
      if (!fits || x.dtype !== first.dtype) {
        throw new ShapeError(
          `cat: ${x.dtype}${show(x.shape)} and ${first.dtype}${show(first.shape)} differ in more than dim ${dim}`,
        );
      }
    }
    const total = xs.reduce((sum, x) => sum + x.shape[dim], 0);
    return { y: spec(resized(first.shape, dim, total), first.dtype) };
  },
  copies: ({ xs }, { y }, { dim }) => seenIn(y, xs, dim).map(([x, to]) => ({ source: x, target: y, shape: x.shape, to })),
  backward: ({ attrs: { dim }, grads, specs }) => ({
    xs: apply(splitOp, { x: grads.y! }, { dim, sizes: specs.xs.map(({ shape }) => shape[dim]) }).ys,
  }),
});

/** Joins tensors of one dtype along a dimension; all others must agree. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError('cat: no tensors were given, expected at least one');
  return apply(catOp, { xs: tensors }, { dim: normalizeAxis('cat', dim, tensors[0].shape.length) }).y;
}

/** Joins tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError('stack: no tensors were given, expected at least one');
  const d = normalizeDim('stack', dim, tensors[0].shape.length + 1);
  return scope(() => cat(tensors.map((t) => unsqueeze(t, d)), d));
}

type Sizes = Along & { readonly sizes: readonly number[] };

const splitOp = /* @__PURE__ */ defineCopyOp<Sizes, 'x', 'ys*'>({
  name: 'split',
  inputs: ['x'],
  outputs: ['ys*'],
  shape({ x }, { dim, sizes }) {
    expectElements('split', 'x', x.dtype);
    const total = sizes.reduce((sum, n) => sum + n, 0);
    if (total !== x.shape[dim]) {
      throw new ShapeError(`split: sizes ${show(sizes)} add up to ${total}, dim ${dim} of ${show(x.shape)} is ${x.shape[dim]}`);
    }
    return { ys: sizes.map((n) => spec(resized(x.shape, dim, n), x.dtype)) };
  },
  copies: ({ x }, { ys }, { dim }) => seenIn(x, ys, dim).map(([y, from]) => ({ source: x, target: y, shape: y.shape, from })),
  backward({ attrs, grads: { ys }, specs }) {
    const { backend } = ys.find((g) => g !== null)!;
    return { x: cat(ys.map((g, i) => g ?? zeros(backend, specs.ys[i].shape, specs.ys[i].dtype)), attrs.dim) };
  },
});

/** Cuts x into parts of those sizes along a dimension. */
export function split(x: Tensor, sizes: readonly number[], dim = 0): Tensor[] {
  return [...apply(splitOp, { x }, { sizes, dim: normalizeAxis('split', dim, x.shape.length) }).ys];
}

/**
 * Moves entries along dimensions, those that leave at the end to the front (torch.roll): a b c by 1 → c a b.
 * @param shifts by how much, for each of `dims`; negative moves to the front
 * @throws ShapeError unless there are as many shifts as dims, ArgumentError for a shift that is no whole number
 */
export function roll(x: Tensor, shifts: readonly number[], dims: readonly number[]): Tensor {
  if (shifts.length !== dims.length || dims.length === 0) {
    throw new ShapeError(`roll: shifts ${show(shifts)} for dims ${show(dims)}, expected one for each`);
  }
  return scope(() => dims.reduce((y, dim, i) => {
    expectWhole('roll', 'a shift', shifts[i], -Infinity, Infinity);
    const d = normalizeAxis('roll', dim, x.shape.length);
    const size = x.shape[d];
    const moved = size === 0 ? 0 : ((shifts[i] % size) + size) % size;
    const [head, tail] = split(y, [size - moved, moved], d);
    return cat([tail, head], d);
  }, x));
}
