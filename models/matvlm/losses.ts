import { ArgumentError } from '../../engine/errors.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { add, crossEntropy, distillLoss, type DistillKind, l2Distance, mul, mulScalar, reshape, slice } from '../../ops/index.ts';
import { ssmLayers } from './config.ts';
import type { MaTVLM } from './model.ts';

/** The distillation objective: `w_kl·KL + w_tl·layer + w_ce·CE` (MaTVLM §3.3). */
export interface LossOptions {
  /** Weight of the loss on probabilities. */
  readonly klWeight: number;
  /** Weight of the layer-wise loss. */
  readonly layerWeight: number;
  /** Weight of cross-entropy with the answers. */
  readonly ceWeight: number;
  readonly temperature: number;
  /** Loss on probabilities: the paper's forward KL or one of its alternatives. */
  readonly kind: DistillKind;
  /**
   * Layer-wise: l2 over the replaced layers and kl over all run the student's layers on the teacher's states; sl over
   * the replaced layers runs the teacher's layers on the student's states, and is an l2 too.
   */
  readonly layerKind: 'l2' | 'kl' | 'sl';
  /**
   * `sum` over all positions, by the number of questions, as published; or the mean over answer tokens, those of all
   * the batches of a step (l2: the root of each batch's mean, weighted by its tokens).
   */
  readonly reduction: 'sum' | 'mean';
}

/** Published weights 1, 1, 0 and temperature 1. */
export const publishedLosses: LossOptions = {
  klWeight: 1,
  layerWeight: 1,
  ceWeight: 0,
  temperature: 1,
  kind: 'kl',
  layerKind: 'l2',
  reduction: 'sum',
};

/**
 * Next-token cross-entropy: logits (B, L, V) at each position but the last against the label after it.
 * @param targets i32 (B·(L−1)), as `nextLabels` gives them: −100 where nothing is to be learnt
 */
export function nextTokenLoss(logits: Tensor, targets: Tensor): Tensor {
  const [b, l, v] = logits.shape;
  return crossEntropy(reshape(slice(logits, 1, 0, l - 1), [b * (l - 1), v]), targets);
}

/** One replaced layer's output (B, L, D), what it should have been, and perhaps factors (B, L) for squares or rows. */
export type LayerPair = readonly [output: Tensor, target: Tensor, weights?: Tensor | null];

/** Runs layer i of the one on the state of the other before it, in as many segments as the pass has. */
export type RunLayer = (layer: number) => LayerPair[];

/**
 * The layer-wise loss: every replaced layer run on the teacher's input of that layer, against the teacher's output
 * (sl: the student's own states, against the teacher's layer on them); one Frobenius norm a layer, neither squared nor
 * averaged (kl: over D, all layers). Only where it is the last layer do both go through the final norm. No gradient
 * enters what the teacher computes.
 * @param join one loss from those of the segments
 * @throws ArgumentError when no layer is replaced
 */
export function layerLoss(
  student: MaTVLM,
  kind: LossOptions['layerKind'],
  run: RunLayer,
  join: (parts: Tensor[]) => Tensor,
): Tensor {
  const { layers, finalNorm } = student.decoder;
  const which = kind === 'kl' ? layers.map((_, i) => i) : ssmLayers(student.config);
  if (which.length === 0) {
    throw new ArgumentError('the layer-wise loss is over replaced layers, the student has none; set layerWeight to 0');
  }
  const losses = which.map((i) => {
    const finish = (t: Tensor) => (i === layers.length - 1 ? finalNorm.forward(t) : t);
    const parts = run(i).map(([output, target, weights]) => {
      const goal = noGrad(() => finish(target));
      if (kind !== 'kl') return l2Distance(finish(output), goal, weights ?? undefined);
      return distillLoss(finish(output), goal, { kind, temperature: 1, reduction: 'batchmean' }, weights ?? undefined);
    });
    return join(parts);
  });
  return losses.reduce((sum, loss) => add(sum, loss));
}

/** loss·weight; a weight on the device is data, which a replay reads anew. */
export function times(loss: Tensor, weight: number | Tensor = 1): Tensor {
  if (typeof weight !== 'number') return mul(loss, weight);
  return weight === 1 ? loss : mulScalar(loss, weight);
}

/** Σ weightᵢ·lossᵢ over those with a weight. @throws ArgumentError when none has one */
export function weightedSum(terms: readonly (readonly [number, Tensor | null])[]): Tensor {
  const scaled = terms.flatMap(([w, loss]) => (loss && w !== 0 ? [times(loss, w)] : []));
  if (scaled.length === 0) {
    throw new ArgumentError('klWeight, layerWeight and ceWeight are all 0, so there is nothing to learn; set one above 0');
  }
  return scaled.reduce((sum, loss) => add(sum, loss));
}
