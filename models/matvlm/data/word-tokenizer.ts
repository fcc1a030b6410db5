/** Our own small tokenizer: one token a word, for models that are trained on the two small data sets. */
import { easyVqaTexts } from './easy-vqa.ts';
import { sortOfClevrTexts } from './sort-of-clevr.ts';
import { TEMPLATES } from '../template.ts';
import { lower } from '../../nn/text/tokenizer/normalizers.ts';

const END_OF_TEXT = '<|endoftext|>';
const UNKNOWN = '<unk>';

/** The two files of a tokenizer, parsed. */
export interface TokenizerFiles {
  readonly tokenizer: object;
  readonly config: object;
}

/** Words and punctuation marks of a text, as the tokenizer built below splits it. */
function splitWords(text: string): string[] {
  return lower(text).match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

/** A word-level tokenizer of these words: ids 0 and 1 are `<|endoftext|>` and `<unk>`, the words follow in order. */
function wordLevel(words: Iterable<string>, parts: object): TokenizerFiles {
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
      ...parts,
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

/**
 * A word-level tokenizer in the public tokenizer.json format: lower case, split at white space and around every
 * punctuation mark. Decoding puts one space between words and none before a full stop, comma, question or exclamation
 * mark.
 */
export function buildWordTokenizer(words: Iterable<string>): TokenizerFiles {
  return wordLevel(words, {
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
  });
}

/** A word or a mark, with the blank before it. */
const PIECE = ' ?[\\p{L}\\p{M}\\p{N}]+| ?[^ \\p{L}\\p{M}\\p{N}]';

/** Texts to build a tokenizer from. */
export interface TokenizerTexts {
  readonly questions: Iterable<string>;
  readonly answers: Iterable<string>;
  /** Everything in lower case, so that a question may be typed in any. */
  readonly lowercase: boolean;
}

/**
 * A word-level tokenizer, in the public tokenizer.json format, of one's own questions and answers and of the prompt
 * templates. A token is a word or a mark with the blank before it, so that decoding gives back what was encoded, but
 * for white space, of which any becomes one blank.
 */
export function buildTextTokenizer({ questions, answers, lowercase }: TokenizerTexts): TokenizerFiles {
  const templates = Object.values(TEMPLATES).flatMap((t) => [t.system + t.user, t.user, t.assistant]);
  // As the templates place them: a question begins a line, an answer follows a blank.
  const texts = [...templates, ...Array.from(questions, (q) => `\n${q}`), ...Array.from(answers, (a) => ` ${a}`)];
  const pieces = new RegExp(`(${PIECE})`, 'u');
  const words = texts.flatMap((text) => {
    const plain = text.replace(/\p{White_Space}+/gu, ' ');
    return (lowercase ? lower(plain) : plain).split(pieces).filter((piece) => piece !== '');
  });
  const blanks = { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' };
  return wordLevel([' ', ...words], {
    normalizer: { type: 'Sequence', normalizers: lowercase ? [blanks, { type: 'Lowercase' }] : [blanks] },
    pre_tokenizer: { type: 'Split', pattern: { Regex: PIECE }, behavior: 'Isolated', invert: false },
    post_processor: null,
    decoder: { type: 'Fuse' },
  });
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
