import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { add, cat, type DistillKind, indexSelect, mulScalar, norm, reshape } from '../../ops/index.ts';
import type { DecoderOutput, PassOptions, DecoderLayer } from './layers/decoder.ts';
import { type DecoderState, mapState } from './layers/state.ts';
import type { MaTVLM } from './model.ts';
import type { PrefixInputs, VqaInputs } from './vqa-batch.ts';

/*
 * Every question on an image has the same prefix (template and image), so the prefix goes through the model once an
 * image and the questions branch off its state: keys and values for attention, convolution and SSM state for Mamba-2.
 * Values and gradients are those of the plain batch in which each question has a copy of its image, at a fraction of
 * the work.
 */

/** One pass over a VqaBatch: the prefix segment (B, P, D) and the hidden states (N, S, D) of the question segment. */
export interface VqaOutput {
  readonly prefix: DecoderOutput;
  readonly questions: readonly Tensor[];
}

/** The state of each question's image. */
export function branch(state: DecoderState, owner: Tensor): DecoderState {
  return mapState(state, (t) => indexSelect(t, 0, owner));
}

/**
 * Runs prefix and questions through the decoder.
 * @param features the tower's output, before the connector
 */
export function forwardVqa(model: MaTVLM, inputs: VqaInputs, features: Tensor, options: PassOptions = {}): VqaOutput {
  const prefix = forwardPrefix(model, inputs, features, options);
  const embeds = model.decoder.embed(inputs.questionIds);
  const branched = { ...options, past: prefix.state, owner: inputs.owner };
  return { prefix, questions: model.decoder.hiddenStates(embeds, branched) };
}

/** Runs the prefix of a batch alone. */
export function forwardPrefix(
  model: MaTVLM,
  { prefixIds, prefixRows }: PrefixInputs,
  features: Tensor,
  options: PassOptions = {},
): DecoderOutput {
  const embeds = model.embedSpliced(prefixIds, prefixRows, model.connector.forward(features));
  return model.decoder.forward(embeds, options);
}

/** One layer on both segments: the questions branch off the prefix's state. */
export function layerVqa(
  layer: DecoderLayer,
  prefix: Tensor,
  questions: Tensor,
  owner: Tensor,
  options: PassOptions,
): { prefix: Tensor; questions: Tensor } {
  return scope(() => {
    const [prefixOut, state] = layer.forward(prefix, null, options, 0);
    const [questionOut] = layer.forward(questions, state, { ...options, owner }, prefix.shape[1]);
    return { prefix: prefixOut, questions: questionOut };
  });
}

/**
 * The `batchmean` loss of a plain batch from those of its two segments, where the prefix counts once for each question.
 * @param kind `ce` is a mean over rows and `l2` a norm; the others are sums over rows by the size of the batch
 * @param prefix of its rows, weighted by `prefixWeights`
 */
export function joinLosses(kind: DistillKind, prefix: Tensor, questions: Tensor, inputs: VqaInputs): Tensor {
  const [[images, p], [count, s]] = [inputs.prefixRows.shape, inputs.questionIds.shape];
  if (kind === 'l2') return joinNorms(prefix, questions, count / images);
  if (kind !== 'ce') return add(prefix, questions);
  const share = p / (p + s);
  return add(mulScalar(prefix, share), mulScalar(questions, 1 - share));
}

/** √(repeats·a² + b²); its gradient at 0 is 0. */
function joinNorms(a: Tensor, b: Tensor, repeats: number): Tensor {
  return norm(cat([reshape(mulScalar(a, Math.sqrt(repeats)), [1]), reshape(b, [1])], 0));
}
