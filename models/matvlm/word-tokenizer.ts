/** Our own small tokenizer: one token a word, for models that are trained on the two small data sets. */
import { easyVqaTexts } from './data/easy-vqa.ts';
import { sortOfClevrTexts } from './data/sort-of-clevr.ts';
import { TEMPLATES } from './template.ts';

export const END_OF_TEXT = '<|endoftext|>';
const UNKNOWN = '<unk>';

/** The two files of a tokenizer, parsed. */
export interface TokenizerFiles {
  readonly tokenizer: object;
  readonly config: object;
}

/** Words and punctuation marks of a text, as the tokenizer built below splits it. */
export function splitWords(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

/**
 * A word-level tokenizer in the public tokenizer.json format: lower case, split at white space and around every
 * punctuation mark; ids 0 and 1 are `<|endoftext|>` and `<unk>`, the words follow in alphabetical order.
 * Decoding puts one space between words and none before a full stop, comma, question or exclamation mark.
 */
export function buildWordTokenizer(words: Iterable<string>): TokenizerFiles {
  const sorted = [...new Set(words)].sort((a, b) => (a < b ? -1 : 1));
  const vocab = Object.fromEntries([END_OF_TEXT, UNKNOWN, ...sorted].map((word, id) => [word, id]));
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [
        { id: 0, content: END_OF_TEXT, ...special },
        { id: 1, content: UNKNOWN, ...special },
      ],
      normalizer: { type: 'Lowercase' },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      post_processor: null,
      decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
      model: { type: 'WordLevel', vocab, unk_token: UNKNOWN },
    },
    config: {
      bos_token: END_OF_TEXT,
      clean_up_tokenization_spaces: false,
      eos_token: END_OF_TEXT,
      model_max_length: 2048,
      pad_token: END_OF_TEXT,
      tokenizer_class: 'PreTrainedTokenizerFast',
      unk_token: UNKNOWN,
    },
  };
}

/** The tokenizer of the tiny models: every word of both data sets and of the prompt templates. */
export function tinyTokenizer(): TokenizerFiles {
  const templates = Object.values(TEMPLATES).flatMap((t) => [t.system, t.user, t.assistant]);
  return buildWordTokenizer([...sortOfClevrTexts(), ...easyVqaTexts(), ...templates].flatMap(splitWords));
}

/** The texts of tokenizer.json and tokenizer_config.json. */
export function tokenizerFileTexts(files: TokenizerFiles): Record<string, string> {
  const text = (value: object): string => `${JSON.stringify(value, null, 2)}\n`;
  return { 'tokenizer.json': text(files.tokenizer), 'tokenizer_config.json': text(files.config) };
}
