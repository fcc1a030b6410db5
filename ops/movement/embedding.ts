import { expectDType } from '../../engine/dtype.ts';
import { apply1, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { lookupOp } from './index-select.ts';
import { expectRank } from '../common/shapes.ts';

/** The op behind `embedding`. */
export const embeddingOp = /* @__PURE__ */ lookupOp('embedding', ([weight, ids]) => {
  expectDType('embedding', 'weight', weight.dtype, 'f32', 'f16', 'bf16');
  expectRank('embedding', 'weight', weight, 2);
  return [spec([...ids.shape, weight.shape[1]])];
});

/**
 * Rows of `weight` that `ids` name. An id out of range gives a row of NaN. The gradient sums in a fixed order.
 * @param weight (V, D) f32, or stored as f16 or bf16
 * @param ids i32 of any shape
 * @returns f32 (…ids, D)
 */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  return apply1(embeddingOp, [weight, ids], { dim: 0 });
}
