import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tinyTokenizer, tokenizerFileTexts } from '../../data/word-tokenizer.ts';

/** Writes tokenizer.json and tokenizer_config.json of the tiny models, as kept in assets/tiny-tokenizer. */
export function writeTinyTokenizer(folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(tokenizerFileTexts(tinyTokenizer()))) {
    writeFileSync(join(folder, name), text);
  }
}
