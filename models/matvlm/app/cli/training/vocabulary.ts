import { DataError } from '../../../../nn/errors.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { coverage } from '../../../data/vocabulary.ts';
import { ownCommand } from '../../node/shell.ts';
import type { Vlm } from '../../../vlm.ts';
import { percent, warn } from '../terminal/output.ts';

/** Words that an error or warning names at most. */
const NAMED = 8;

/** How to come to a model whose tokenizer knows the words of data sets. */
export function buildAdvice(data: readonly string[]): string {
  const build = ownCommand('tokenizer', 'build', 'my-tokenizer', '--data', data.join(','));
  return `build one that does with "${build}", and train a teacher with --tokenizer my-tokenizer`;
}

/**
 * Refuses answers that a tokenizer cannot give, which nothing could be learnt of, and warns of unknown words in
 * questions, which all look alike to a model.
 * @param advice what to do about it
 * @throws DataError naming the words
 */
export function expectSpoken(
  sets: readonly VqaDataset[],
  { encoder, tokenizer }: Pick<Vlm, 'encoder' | 'tokenizer'>,
  advice: string,
): void {
  const told = unspoken(sets, { encoder, tokenizer });
  if (told) throw new DataError(`${told}, so that nothing could be learnt of them; ${advice}`);
}

/** Warns of answers that a model cannot give and of unknown words in questions. */
export function warnUnspoken(sets: readonly VqaDataset[], vlm: Pick<Vlm, 'encoder' | 'tokenizer'>): void {
  const told = unspoken(sets, vlm);
  if (told) warn(`${told}: such questions cannot be answered right`);
}

/** What is wrong with the answers; null when nothing is. Warns of the questions. */
function unspoken(
  sets: readonly VqaDataset[],
  { encoder, tokenizer }: Pick<Vlm, 'encoder' | 'tokenizer'>,
): string | null {
  const { answerWords, altered, questionWords, questionTokens, unknownTokens } = coverage(sets, encoder, tokenizer);
  if (unknownTokens > 0) {
    warn(
      `the tokenizer does not know ${unknownTokens} of ${questionTokens} tokens of the questions ` +
        `(${percent(unknownTokens / questionTokens)}), which all look alike then: ${some(questionWords)}`,
    );
  }
  if (answerWords.length > 0) return `the tokenizer does not know words of the answers: ${some(answerWords)}`;
  const changed = [...altered].map(([answer, given]) => `${JSON.stringify(answer)} as ${JSON.stringify(given)}`);
  return changed.length > 0 ? `the tokenizer gives answers back otherwise: ${some(changed)}` : null;
}

function some(words: readonly string[]): string {
  const more = words.length - NAMED;
  return `${words.slice(0, NAMED).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}
