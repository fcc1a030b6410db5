import { NumericError } from '../../nn/errors.ts';
import { keep, scope } from '../../../engine/scope.ts';
import { noGrad } from '../../../engine/tape.ts';
import { fromData, fromDataTogether } from '../../../engine/tensor.ts';
import { yieldToEventLoop } from '../../nn/event-loop.ts';
import type { VqaDataset, VqaSample } from '../data/dataset.ts';
import type { DecoderCache } from '../../nn/cache.ts';
import { type DecoderState, disposeState, fillCache, mapState } from '../layers/state.ts';
import type { MaTVLM } from '../model.ts';
import { branch, forwardPrefix } from '../shared-prefix.ts';
import { IGNORE_LABEL } from '../template.ts';
import { TokenStream } from '../token-stream.ts';
import type { Vlm } from '../vlm.ts';
import { checkQuestion, prefixData } from '../vqa-batch.ts';

/** Right answers among those asked. */
export interface Score {
  total: number;
  correct: number;
}

/** One question with the answer that came. */
export interface Answered {
  readonly id: string;
  readonly question: string;
  readonly answer: string;
  readonly predicted: string;
  readonly kind: string;
  readonly topic: string;
}

export interface Evaluation extends Score {
  readonly byKind: Map<string, Score>;
  readonly samples: Answered[];
}

export interface EvaluateOptions {
  /** Images to evaluate, from the first; all when absent. */
  readonly limit?: number;
  /** Images at a time. */
  readonly batch?: number;
  /** Tokens of an answer at most; what the longest right answer takes, and at least 8, when absent. */
  readonly maxNewTokens?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, of: number) => void;
}

/** Tokens that every answer may take. */
const SHORTEST = 8;

/** Share of right answers, 0…1. */
export function accuracy(score: Score): number {
  return score.total === 0 ? 0 : score.correct / score.total;
}

/**
 * Answers every question of a data set greedily, as text, and compares with the answers exactly. All questions on an
 * image share its prefix; questions of one length run as one batch. An answer ends with the context at the latest.
 * @throws DataError for a question longer than the context; NumericError naming the image and question at which a logit
 *   is not finite; the signal's reason when it aborts
 */
export async function evaluate(vlm: Vlm, data: VqaDataset, options: EvaluateOptions = {}): Promise<Evaluation> {
  const { limit = data.length, batch = 16, maxNewTokens, signal, onProgress } = options;
  const result: Evaluation = { total: 0, correct: 0, byKind: new Map(), samples: [] };
  const images = Math.min(limit, data.length);
  for (let first = 0; first < images; first += batch) {
    const samples = Array.from({ length: Math.min(batch, images - first) }, (_, i) => data.get(first + i));
    const answers = await answerSamples(vlm, samples, maxNewTokens ?? answerTokens(vlm, samples), signal);
    samples.forEach(({ id, questions }, i) =>
      questions.forEach(({ question, answer, kind, topic }, j) =>
        note(result, { id, question, answer, predicted: answers[i][j], kind, topic }),
      ),
    );
    onProgress?.(first + samples.length, images);
  }
  return result;
}

/** The part of an evaluation that is about certain images, by their ids. */
export function restrict(evaluation: Evaluation, images: ReadonlySet<string>): Evaluation {
  const part: Evaluation = { total: 0, correct: 0, byKind: new Map(), samples: [] };
  for (const answered of evaluation.samples) if (images.has(answered.id)) note(part, answered);
  return part;
}

/** Tokens that an answer may take: enough for the longest right one. */
function answerTokens({ encoder }: Vlm, samples: readonly VqaSample[]): number {
  const lengths = samples.flatMap(({ questions }) =>
    questions.map((q) => encoder.questionIds(q.question, q.answer).labels.filter((id) => id !== IGNORE_LABEL).length),
  );
  return Math.max(SHORTEST, ...lengths);
}

function note(result: Evaluation, answered: Answered): void {
  const score = result.byKind.get(answered.kind) ?? { total: 0, correct: 0 };
  result.byKind.set(answered.kind, score);
  const right = Number(answered.predicted === answered.answer);
  for (const s of [result, score]) {
    s.total++;
    s.correct += right;
  }
  result.samples.push(answered);
}

interface Asked {
  /** What errors call it. */
  readonly name: string;
  readonly image: number;
  readonly question: number;
  readonly ids: Int32Array;
}

/** Lets other work be done, and ends this one where it is no longer wanted. */
async function pause(signal?: AbortSignal): Promise<void> {
  await yieldToEventLoop();
  signal?.throwIfAborted();
}

async function answerSamples(
  vlm: Vlm,
  samples: readonly VqaSample[],
  maxNewTokens: number,
  signal?: AbortSignal,
): Promise<string[][]> {
  const size = vlm.model.config.model.vision_config.image_size;
  const pixels = new Float32Array(samples.length * 3 * size * size);
  for (const [i, sample] of samples.entries()) {
    await pause(signal);
    pixels.set(vlm.pixels(await sample.image()), i * 3 * size * size);
  }
  const { model, encoder } = vlm;
  const prefix = noGrad(() =>
    scope(() => {
      const inputs = fromDataTogether(model.backend, {
        ...prefixData(model, encoder.prefixIds(), samples.length),
        pixels: { data: pixels, shape: [samples.length, 3, size, size] },
      });
      return forwardPrefix(model, inputs, model.visionFeatures(inputs.pixels)).state;
    }),
  );
  const state = mapState(prefix, keep);
  const answers = samples.map((s) => new Array<string>(s.questions.length).fill(''));
  try {
    for (const group of byLength(vlm, samples)) {
      const texts = await answerGroup(vlm, group, state, maxNewTokens, signal);
      group.forEach((asked, i) => {
        answers[asked.image][asked.question] = texts[i];
      });
    }
  } finally {
    disposeState(state);
  }
  return answers;
}

/** All questions, in groups of the same length: no padding is needed. */
function byLength(vlm: Vlm, samples: readonly VqaSample[]): Asked[][] {
  const groups = new Map<number, Asked[]>();
  samples.forEach((sample, image) =>
    sample.questions.forEach((q, question) => {
      const { ids } = vlm.encoder.questionIds(q.question);
      checkQuestion(vlm.model, vlm.encoder.prefixIds(), q.question, ids.length);
      const group = groups.get(ids.length) ?? [];
      groups.set(ids.length, group);
      group.push({ name: `image ${sample.id}, question "${q.question}"`, image, question, ids });
    }),
  );
  return [...groups.values()];
}

async function answerGroup(
  { model, tokenizer, endIds }: Vlm,
  group: readonly Asked[],
  prefix: DecoderState,
  maxNewTokens: number,
  signal?: AbortSignal,
): Promise<string[]> {
  const made: number[][] = group.map(() => []);
  const done = new Set<number>();
  await pause(signal);
  const cache = model.decoder.cache();
  let tokens: TokenStream | null = null;
  try {
    tokens = askGroup(model, group, prefix, cache, maxNewTokens);
    for (let left = maxNewTokens; left > 0 && done.size < group.length; left--) {
      const chosen = await tokens.next(left);
      await pause(signal);
      if (!chosen) break;
      group.forEach(({ name }, j) => {
        if (chosen[j] < 0) throw new NumericError(`${name}: a logit is not finite; the weights or the backend are broken`);
        if (endIds.has(chosen[j])) done.add(j);
        else if (!done.has(j)) made[j].push(chosen[j]);
      });
    }
  } finally {
    await tokens?.dispose();
    cache.dispose();
  }
  return made.map((ids) => tokenizer.decode(ids).trim());
}

/** Runs the questions of a group, each behind the prefix of its image. */
function askGroup(
  { backend, decoder }: MaTVLM,
  group: readonly Asked[],
  prefix: DecoderState,
  cache: DecoderCache,
  maxNewTokens: number,
): TokenStream {
  const shape = [group.length, group[0].ids.length];
  cache.reserve(Math.min(prefix.length + shape[1] + maxNewTokens, cache.context), 1);
  return noGrad(() =>
    scope(() => {
      const owner = fromData(backend, group.map(({ image }) => image), [group.length], 'i32');
      const ids = fromData(backend, group.flatMap((asked) => Array.from(asked.ids)), shape, 'i32');
      fillCache(cache, branch(prefix, owner));
      const logits = decoder.next(decoder.embed(ids), cache);
      return new TokenStream(decoder, cache, logits, { maxNewTokens, ahead: 1 });
    }),
  );
}
