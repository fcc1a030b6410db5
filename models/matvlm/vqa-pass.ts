import { DataError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { add, cat, type DistillKind, indexSelect, mulScalar, norm, reshape } from '../../ops/index.ts';
import { imageTokens } from './config.ts';
import type { DecoderOutput, PassOptions, DecoderLayer } from './layers/decoder.ts';
import { type DecoderState, mapState } from './layers/state.ts';
import type { MaTVLM } from './model.ts';

/**
 * Images with all that is asked about them. Every question on an image has the same prefix (template and image), so
 * the prefix goes through the model once an image and the questions branch off its state: keys and values for
 * attention, convolution and SSM state for Mamba-2. Values and gradients are those of the plain batch in which each
 * question has a copy of its image, at a fraction of the work.
 */
export interface VqaBatch {
  /** (B, 3, size, size), −1…1. */
  readonly pixels: Float32Array;
  readonly images: number;
  /** Ids up to and including the image placeholder. */
  readonly prefixIds: Int32Array;
  /** (N, S), padded on the right. */
  readonly questionIds: Int32Array;
  /** (N, S), −100 where nothing is to be learnt. */
  readonly labels: Int32Array;
  /** (N): the image of each question. */
  readonly owner: Int32Array;
  readonly questions: number;
  readonly length: number;
  /** The question, with its answer, of the most tokens. */
  readonly longest: { readonly question: string; readonly tokens: number };
  /** Tokens in all, padding not counted. */
  readonly tokens: number;
}

/** One pass over a VqaBatch: the prefix segment (B, P, D) and the hidden states (N, S, D) of the question segment. */
export interface VqaOutput {
  readonly prefix: DecoderOutput;
  readonly questions: readonly Tensor[];
}

/** A batch's tensors on the device. */
export interface VqaInputs {
  readonly pixels: Tensor;
  readonly questionIds: Tensor;
  readonly owner: Tensor;
}

/** Copies a batch to a backend. */
export function uploadVqa(model: MaTVLM, batch: VqaBatch): VqaInputs {
  const { image_size: size } = model.config.model.vision_config;
  return {
    pixels: fromData(model.backend, batch.pixels, [batch.images, 3, size, size]),
    questionIds: fromData(model.backend, batch.questionIds, [batch.questions, batch.length], 'i32'),
    owner: fromData(model.backend, batch.owner, [batch.questions], 'i32'),
  };
}

/** The state of each question's image. */
export function branch(state: DecoderState, owner: Tensor): DecoderState {
  return mapState(state, (t) => indexSelect(t, 0, owner));
}

/**
 * Runs prefix and questions through the decoder.
 * @param features the tower's output, before the connector
 * @throws DataError when a question is longer than the context leaves room for
 */
export function forwardVqa(
  model: MaTVLM,
  batch: VqaBatch,
  inputs: VqaInputs,
  features: Tensor,
  options: PassOptions = {},
): VqaOutput {
  checkQuestion(model, batch.prefixIds, batch.longest.question, batch.longest.tokens);
  const prefix = forwardPrefix(model, batch, features, options);
  const embeds = model.decoder.embed(inputs.questionIds);
  const branched = { ...options, past: prefix.state, owner: inputs.owner };
  return { prefix, questions: model.decoder.hiddenStates(embeds, branched) };
}

/** @throws DataError naming a question that does not fit into the context together with prefix and image */
export function checkQuestion(model: MaTVLM, prefixIds: Int32Array, question: string, tokens: number): void {
  const most = model.config.model.text_config.max_position_embeddings;
  const length = prefixIds.length - 1 + imageTokens(model.config.model) + tokens;
  if (length <= most) return;
  const start = JSON.stringify(question.length > 60 ? `${question.slice(0, 60)}…` : question);
  throw new DataError(
    `the question ${start} takes ${length} positions with its image, the model's context has ${most}; ` +
      'shorten it, or leave it out of the data',
  );
}

/** Runs the prefix of a batch alone. */
export function forwardPrefix(
  model: MaTVLM,
  batch: Pick<VqaBatch, 'prefixIds' | 'images'>,
  features: Tensor,
  options: PassOptions = {},
): DecoderOutput {
  const ids = Array.from({ length: batch.images }, () => Array.from(batch.prefixIds));
  const { embeds } = model.splice({ ids }, model.connector.forward(features));
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
 * (B, P) weights that make rows of the prefix count by the questions on their image, 1 on average; null when all images
 * have as many, and no weights are needed.
 */
export function prefixWeights(model: MaTVLM, batch: VqaBatch, length: number): Tensor | null {
  const counts = new Float32Array(batch.images);
  for (const image of batch.owner) counts[image]++;
  if (counts.every((count) => count === counts[0])) return null;
  const mean = batch.questions / batch.images;
  const rows = Float64Array.from({ length: batch.images * length }, (_, i) => counts[Math.floor(i / length)] / mean);
  return fromData(model.backend, rows, [batch.images, length]);
}

/**
 * The `batchmean` loss of a plain batch from those of its two segments, where the prefix counts once for each question.
 * @param kind `ce` is a mean over rows and `l2` a norm; the others are sums over rows by the size of the batch
 * @param prefix of P rows an image, weighted by `prefixWeights`
 */
export function joinLosses(kind: DistillKind, prefix: Tensor, questions: Tensor, batch: VqaBatch, p: number): Tensor {
  if (kind === 'l2') return joinNorms(prefix, questions, batch.questions / batch.images);
  if (kind !== 'ce') return add(prefix, questions);
  const share = p / (p + batch.length);
  return add(mulScalar(prefix, share), mulScalar(questions, 1 - share));
}

/** √(repeats·a² + b²); its gradient at 0 is 0. */
function joinNorms(a: Tensor, b: Tensor, repeats: number): Tensor {
  return norm(cat([reshape(mulScalar(a, Math.sqrt(repeats)), [1]), reshape(b, [1])], 0));
}
