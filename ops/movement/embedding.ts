import { apply } from '../../engine/apply.ts';
import { expectDType, WEIGHTS } from '../../engine/dtype.ts';
import { spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank } from '../common/shapes.ts';
import { lookupOp } from './index-select.ts';

const embeddingOp = /* @__PURE__ */ lookupOp('embedding', (weight, ids) => {
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
  return apply(embeddingOp, { table: weight, index: ids }, { dim: 0 }).y;
}
