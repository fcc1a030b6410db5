import { DataError } from '../nn/errors.ts';
import { fromDataTogether, type Tensor, type TensorData } from '../../engine/tensor.ts';
import { imageTokens } from './config.ts';
import type { MaTVLM } from './model.ts';
import { spliceLayout } from './splice.ts';
import { IGNORE_LABEL } from './template.ts';

/** Images with all that is asked about them. */
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

/** The template before the questions, once for each image. */
export interface PrefixInputs {
  /** i32: ids of all images' text, one after the other. */
  readonly prefixIds: Tensor;
  /** i32 (B, P): rows of [features | text]. */
  readonly prefixRows: Tensor;
}

/** All that a pass over a VqaBatch, and any loss of it, takes from the host. */
export interface VqaInputs extends PrefixInputs {
  /** f32 (B, 3, size, size). */
  readonly pixels: Tensor;
  /** i32 (N, S). */
  readonly questionIds: Tensor;
  /** i32 (N). */
  readonly owner: Tensor;
  /** i32 (N·(S−1)), as `nextLabels` gives them. */
  readonly targets: Tensor;
  /** f32 (N, S), as `answerWeights` gives them. */
  readonly answerWeights: Tensor;
  /**
   * f32 (B, P): factors that make rows of the prefix count by the questions on their image, 1 on average; absent where
   * all images have as many.
   */
  readonly prefixWeights?: Tensor;
  /** f32 []: the batch's `Share` of its step; absent where it is all of it. */
  readonly answerShare?: Tensor;
  readonly questionShare?: Tensor;
  readonly batchShare?: Tensor;
}

/** What one of a step's batches makes up of the whole step's means, so that all add up to what one batch would give. */
export interface Share {
  /** Of a mean over answer tokens. */
  readonly answers: number;
  /** Of a sum over positions that is divided by the number of questions (`batchmean`). */
  readonly questions: number;
  /** Of what is no mean over rows, as a norm: all batches have the same. */
  readonly batches: number;
}

/** The share of each of a step's batches. */
export function sharesOf(batches: readonly Pick<VqaBatch, 'labels' | 'questions' | 'length'>[]): Share[] {
  const answers = batches.map((b) => answerWeights(b.labels, b.questions, b.length).filter((weight) => weight > 0).length);
  const total = (counts: readonly number[]) => Math.max(1, counts.reduce((sum, n) => sum + n, 0));
  const [allAnswers, allQuestions] = [total(answers), total(batches.map((b) => b.questions))];
  return batches.map(({ questions }, i) => ({
    answers: answers[i] / allAnswers,
    questions: questions / allQuestions,
    batches: 1 / batches.length,
  }));
}

/**
 * What is uploaded for a batch.
 * @param share what the batch makes up of its step, where it is not all of it
 * @throws DataError when a question is longer than the context leaves room for
 */
export function vqaData(model: MaTVLM, batch: VqaBatch, share?: Share): { readonly [K in keyof VqaInputs]: TensorData } {
  const { images, questions, length, labels } = batch;
  checkQuestion(model, batch.prefixIds, batch.longest.question, batch.longest.tokens);
  const { image_size: size } = model.config.model.vision_config;
  const prefix = prefixData(model, batch.prefixIds, images);
  const weights = prefixWeights(batch, prefix.prefixRows.shape[1]);
  const part = (value: number): TensorData => ({ data: Float64Array.of(value), shape: [] });
  return {
    ...prefix,
    pixels: { data: batch.pixels, shape: [images, 3, size, size] },
    questionIds: { data: batch.questionIds, shape: [questions, length], dtype: 'i32' },
    owner: { data: batch.owner, shape: [questions], dtype: 'i32' },
    targets: { data: nextLabels(labels, questions, length), shape: [questions * (length - 1)], dtype: 'i32' },
    answerWeights: { data: answerWeights(labels, questions, length), shape: [questions, length] },
    ...(weights && { prefixWeights: weights }),
    ...(share && {
      answerShare: part(share.answers),
      questionShare: part(share.questions),
      batchShare: part(share.batches),
    }),
  };
}

/** Copies a batch to the model's backend. @throws as `vqaData` */
export function uploadVqa(model: MaTVLM, batch: VqaBatch, share?: Share): VqaInputs {
  return fromDataTogether(model.backend, vqaData(model, batch, share) as Record<keyof VqaInputs, TensorData>);
}

/** What is uploaded for the prefix of so many images. */
export function prefixData(model: MaTVLM, prefixIds: Int32Array, images: number): Record<keyof PrefixInputs, TensorData> {
  const ids = Array.from({ length: images }, () => Array.from(prefixIds));
  const { textIds, rows, batch, length } = spliceLayout({ ids }, imageTokens(model.config.model));
  return {
    prefixIds: { data: textIds, shape: [textIds.length], dtype: 'i32' },
    prefixRows: { data: rows, shape: [batch, length], dtype: 'i32' },
  };
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

/** The label after each position of (B, L) but the last: (B·(L−1)). */
export function nextLabels(labels: Int32Array, batch: number, length: number): Int32Array {
  const next = new Int32Array(batch * (length - 1));
  for (let b = 0; b < batch; b++) next.set(labels.subarray(b * length + 1, (b + 1) * length), b * (length - 1));
  return next;
}

/** 1 on rows of (B, L) whose next label counts, else 0: weights that make a mean over rows one over answer tokens. */
export function answerWeights(labels: Int32Array, batch: number, length: number): Float32Array {
  const weights = new Float32Array(batch * length);
  for (let i = 0; i < weights.length; i++) {
    if ((i + 1) % length !== 0 && labels[i + 1] !== IGNORE_LABEL) weights[i] = 1;
  }
  return weights;
}

function prefixWeights({ owner, images, questions }: VqaBatch, length: number): TensorData | null {
  const counts = new Float64Array(images);
  for (const image of owner) counts[image]++;
  if (counts.every((count) => count === counts[0])) return null;
  const mean = questions / images;
  const data = Float64Array.from({ length: images * length }, (_, i) => counts[Math.floor(i / length)] / mean);
  return { data, shape: [images, length] };
}
