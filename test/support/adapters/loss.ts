import { crossEntropy, distillLoss } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const lossAdapters: Adapters = {
  cross_entropy: ([logits, labels], { ignore_index }) => crossEntropy(logits, labels, { ignoreIndex: ignore_index }),
  distill_loss: ([student, teacher, weights], { kind, temperature, reduction }) =>
    distillLoss(student, teacher, { kind, temperature, reduction }, weights),
};
