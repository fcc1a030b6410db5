/** Whether a tokenizer can carry the questions and answers of data sets: what it cannot spell, no model can learn. */
import { ArgumentError } from '../../../engine/errors.ts';
import { DataError } from '../../nn/errors.ts';
import { IGNORE_LABEL, type PromptEncoder } from '../template.ts';
import type { Tokenizer } from '../../nn/text/tokenizer.ts';
import type { VqaDataset, VqaQuestion } from './dataset.ts';

/** What a tokenizer makes of the texts of data sets. */
export interface Coverage {
  /** Words of answers that it does not know, in the order in which they come. */
  readonly answerWords: readonly string[];
  /** Answers of known words that it would give back otherwise, with what it gives. */
  readonly altered: ReadonlyMap<string, string>;
  /** Words of questions that it does not know. */
  readonly questionWords: readonly string[];
  /** Tokens of the questions, each question counted as often as it is asked, and how many of them are unknown. */
  readonly questionTokens: number;
  readonly unknownTokens: number;
}

/**
 * Encodes every question and answer as training does.
 * @throws DataError naming set and image for a question or answer that no prompt can hold
 */
export function coverage(
  sets: readonly VqaDataset[],
  encoder: Pick<PromptEncoder, 'questionIds'>,
  tokenizer: Tokenizer,
): Coverage {
  const seen = new Map<string, number>();
  const [answerWords, questionWords] = [new Set<string>(), new Set<string>()];
  const altered = new Map<string, string>();
  let [questionTokens, unknownTokens] = [0, 0];
  const isUnknown = (id: number) => id === tokenizer.unkId;
  for (const { id, question } of questionsOf(sets)) {
    const key = JSON.stringify([question.question, question.answer]);
    const { ids, labels } = encoded(id, question, encoder);
    const asked = ids.filter((_, i) => labels[i] === IGNORE_LABEL);
    const unknown = seen.get(key) ?? asked.filter(isUnknown).length;
    questionTokens += asked.length;
    unknownTokens += unknown;
    if (seen.has(key)) continue;
    seen.set(key, unknown);
    if (unknown > 0) for (const word of tokenizer.unknownWords(question.question)) questionWords.add(word);
    // Without the end of text.
    const answer = ids.filter((_, i) => labels[i] !== IGNORE_LABEL).slice(0, -1);
    const given = tokenizer.decode(answer).trim();
    if (answer.some(isUnknown)) for (const word of tokenizer.unknownWords(question.answer)) answerWords.add(word);
    else if (given !== question.answer) altered.set(question.answer, given);
  }
  return {
    ...{ altered, questionTokens, unknownTokens },
    ...{ answerWords: [...answerWords], questionWords: [...questionWords] },
  };
}

function* questionsOf(sets: readonly VqaDataset[]): Generator<{ id: string; question: VqaQuestion }> {
  for (const set of sets) {
    for (let i = 0; i < set.length; i++) {
      const { id, questions } = set.get(i);
      for (const question of questions) yield { id, question };
    }
  }
}

function encoded(id: string, { question, answer }: VqaQuestion, encoder: Pick<PromptEncoder, 'questionIds'>) {
  try {
    return encoder.questionIds(question, answer);
  } catch (error) {
    if (error instanceof ArgumentError) throw new DataError(`${id}: ${error.message}`, { cause: error });
    throw error;
  }
}
