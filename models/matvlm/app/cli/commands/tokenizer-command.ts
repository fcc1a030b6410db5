import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../../../../../engine/errors.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { openDatasets } from '../../node/datasets.ts';
import { ownCommand } from '../../node/shell.ts';
import { PromptEncoder, TEMPLATES } from '../../../template.ts';
import { Tokenizer } from '../../../../nn/text/tokenizer.ts';
import { buildTextTokenizer, tokenizerFileTexts } from '../../../data/word-tokenizer.ts';
import { writeFileAtomic, writeFolderAtomic } from '../../store/index.ts';
import { UsageError } from '../terminal/errors.ts';
import { interrupted } from '../terminal/interrupt.ts';
import { say } from '../terminal/output.ts';
import { expectSpoken } from '../training/vocabulary.ts';

/** `matvlm tokenizer build [FOLDER]` */
export async function tokenizer(
  { data }: { readonly data: readonly string[] },
  [action, folder = 'tokenizer']: readonly string[],
): Promise<void> {
  if (action !== 'build') throw new UsageError(`tokenizer: expected "build", got "${action}"`);
  if (existsSync(folder))
    throw new SystemError(`${folder} exists already; choose another folder: nothing is overwritten`);
  const signal = interrupted('Stopping without a tokenizer.');
  const [train, test] = [await openDatasets(data, 'train', null, signal), await openDatasets(data, 'test', null, signal)];
  const sets = [...train, ...test];
  const { questions, answers } = textsOf(sets);
  // Capitals in answers must come out again. Libraries differ in what a capital sigma becomes.
  const isLower = (answer: string) => answer === answer.toLowerCase();
  const lowercase = [...answers].every(isLower) && ![...questions].some((question) => question.includes('Σ'));
  const files = buildTextTokenizer({ questions, answers, lowercase });
  const built = Tokenizer.fromJSON(files.tokenizer, files.config);
  for (const name of Object.keys(TEMPLATES)) {
    const prompt = { encoder: new PromptEncoder(built, name), tokenizer: built };
    expectSpoken(sets, prompt, 'answers must have single blanks between words, and none around them');
  }
  await writeFolderAtomic(folder, async (target, system) => {
    for (const [name, text] of Object.entries(tokenizerFileTexts(files))) {
      await writeFileAtomic(join(target, name), text, system);
    }
  });
  say(`wrote ${folder}: ${built.size} tokens${lowercase ? ', in lower case' : ''}`);
  say(`train with it: ${ownCommand('train', '--tokenizer', folder, '--data', data.join(','))}`);
}

function textsOf(sets: readonly VqaDataset[]): { questions: Set<string>; answers: Set<string> } {
  const [questions, answers] = [new Set<string>(), new Set<string>()];
  for (const set of sets) {
    for (let i = 0; i < set.length; i++) {
      for (const { question, answer } of set.get(i).questions) {
        questions.add(question);
        answers.add(answer);
      }
    }
  }
  return { questions, answers };
}
