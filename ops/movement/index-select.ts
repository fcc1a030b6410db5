import { apply } from '../../engine/apply.ts';
import { expectDType, WEIGHTS, expectElements } from '../../engine/dtype.ts';
import { spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank, normalizeDim } from '../common/shapes.ts';
import { defineLookup } from './lookup.ts';

const slices = /* @__PURE__ */ defineLookup(['index_select', 'index_select_backward'], 'slice', (x, index, dim) => {
  expectElements('index_select', 'x', x.dtype);
  expectRank('index_select', 'index', index, 1);
  return spec([...x.shape.slice(0, dim), index.shape[0], ...x.shape.slice(dim + 1)], x.dtype);
});

/**
 * Slices of `x` along `dim`, in the order of `index` (torch.index_select). An index out of range gives NaN, and 0 for
 * integers.
 * @param x (…, n, …) of any dtype but int8 and int4; gradients for floats
 * @param index i32 (m)
 * @returns (…, m, …) of x's dtype
 */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  const attrs = { dim: normalizeDim('index_select', dim, x.shape.length), outside: NaN };
  return apply(slices.lookup, { table: x, index }, attrs).y;
}

const rows = /* @__PURE__ */ defineLookup(['embedding', 'embedding_backward'], 'slice', (weight, ids) => {
  expectDType('embedding', 'weight', weight.dtype, ...WEIGHTS);
  expectRank('embedding', 'weight', weight, 2);
  return spec([...ids.shape, weight.shape[1]]);
});

/**
 * Rows of `weight` that `ids` name. An id out of range gives a row of NaN. The gradient sums in a fixed order.
 * @param weight (V, D) stored in any format of `WEIGHTS`; int8 and int4 ones get no gradient
 * @param ids i32 of any shape
 * @returns f32 (…ids, D)
 */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  return apply(rows.lookup, { table: weight, index: ids }, { dim: 0, outside: NaN }).y;
}
