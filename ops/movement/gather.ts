import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS, expectElements } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { spec } from '../../engine/op.ts';
import { scope, scoped } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { normalizeAxis, resized, show } from '../common/shapes.ts';
import { add } from '../elementwise/binary.ts';
import { defineLookup } from './lookup.ts';
import { pad } from './pad.ts';
import { slice } from './view.ts';

/** y[…, j, …] = x[…, index[…, j, …], …] where x has the shape of the index but for `dim`, and the reverse. */
const elements = /* @__PURE__ */ defineLookup(['gather', 'scatter_add'], 'element', (x, index) => {
  expectElements('gather', 'x', x.dtype);
  return spec(index.shape, x.dtype);
});

/** The first entries of x in each dimension, as many as `shape` has. */
function first(x: Tensor, shape: readonly number[]): Tensor {
  return shape.reduce((y, size, dim) => (size < x.shape[dim] ? slice(y, dim, 0, size) : y), x);
}

/** @throws ShapeError unless the index is as large as `like` or smaller, but for `free` */
function expectWithin(op: string, index: Tensor, name: string, like: Tensor, free?: number): void {
  const fits = index.shape.every((n, d) => d === free || n <= like.shape[d]);
  if (index.shape.length === like.shape.length && fits) return;
  throw new ShapeError(
    `${op}: index has shape ${show(index.shape)}, expected that of ${name} ${show(like.shape)} or less` +
      (free === undefined ? '' : `, but any size in dim ${free}`),
  );
}

/**
 * y[i][j][k] = x[i][index[i][j][k]][k] for dim 1 (torch.gather). An index out of range gives NaN, and 0 for integers.
 * @param x of any dtype but int8 and int4; gradients for floats
 * @param index i32, of x's shape but free along `dim`, and not larger elsewhere
 * @returns x's dtype, the index's shape
 */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  const own = normalizeAxis('gather', dim, x.shape.length);
  expectWithin('gather', index, 'x', x, own);
  const shape = resized(index.shape, own, x.shape[own]);
  return scope(() => apply(elements.lookup, { table: first(x, shape), index }, { dim: own, outside: NaN }).y);
}

/**
 * x with src added where the index says: y[i][index[i][j][k]][k] += src[i][j][k] for dim 1 (torch.scatter_add), in
 * the order of j, so that every run gives the same bits. What an index out of range names is left out.
 * @param x f32, f16, bf16, i32 or u32; gradients for floats, as for src
 * @param index i32, not larger than src in any dimension, nor than x but along `dim`
 * @param src x's dtype
 */
export const scatterAdd = /* @__PURE__ */ scoped((x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor => {
  const own = normalizeAxis('scatter_add', dim, x.shape.length);
  expectWithin('scatter_add', index, 'src', src);
  expectWithin('scatter_add', index, 'x', x, own);
  expectDType('scatter_add', 'x', x.dtype, ...FLOATS, 'i32', 'u32');
  expectDType('scatter_add', 'index', index.dtype, 'i32');
  expectDType('scatter_add', 'src', src.dtype, x.dtype);
  const shape = resized(index.shape, own, x.shape[own]);
  const added = apply(elements.addition, { index, src: first(src, index.shape) }, { dim: own, shape, dtype: x.dtype }).y;
  const missing = x.shape.map((n, d) => n - added.shape[d]).reverse();
  return add(x, missing.some((n) => n > 0) ? pad(added, missing.flatMap((n) => [0, n])) : added);
});
