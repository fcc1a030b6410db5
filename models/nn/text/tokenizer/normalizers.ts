/** Normalisers of tokenizer.json, as the Rust library computes them. */
import type { Effort } from './effort.ts';
import { component, type Fields, type Makers } from './fields.ts';
import { checkLength, patternOf, replaceAll } from './pattern.ts';
import { inBytes } from './bytes.ts';

/** Changes a text before it is split. */
export type Normalizer = (text: string, effort: Effort) => string;

/** Characters that a normalised text may have, in UTF-16 units. */
const MOST = 2 ** 18;

/** In lower case as `Lowercase` makes it, character by character: only JavaScript has a sigma for the ends of words. */
export const lower = (text: string): string => text.replaceAll('Σ', 'σ').toLowerCase();
const withoutMarks = (text: string): string => text.normalize('NFD').replace(/\p{Mn}/gu, '');
const CHINESE =
  /[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]/gu;

function bert(fields: Fields): Normalizer {
  const clean = fields.flag('clean_text', true);
  const chinese = fields.flag('handle_chinese_chars', true);
  const lowercase = fields.flag('lowercase', true);
  const accents = fields.flag('strip_accents', lowercase);
  return (text) => {
    let out = text;
    if (clean) out = out.replace(/(?![\t\n\r])[\0\ufffd\p{C}]/gu, '').replace(/\p{White_Space}/gu, ' ');
    if (chinese) out = out.replace(CHINESE, ' $& ');
    if (accents) out = withoutMarks(out);
    return lowercase ? lower(out) : out;
  };
}

function strip(fields: Fields): Normalizer {
  const left = fields.flag('strip_left', true);
  const right = fields.flag('strip_right', true);
  return (text) => {
    const begin = left ? text.search(/\P{White_Space}/u) : 0;
    if (begin < 0) return '';
    let end = text.length;
    while (right && end > begin && /\p{White_Space}/u.test(text[end - 1])) end--;
    return text.slice(begin, end);
  };
}

function replacing(fields: Fields): Normalizer {
  const pattern = patternOf(fields);
  const content = fields.text('content');
  return (text, effort) => replaceAll(text, pattern, content, MOST, effort);
}

const form = (name: string) => () => (text: string) => text.normalize(name);

const MAKERS: Makers<Normalizer> = {
  BertNormalizer: bert,
  Lowercase: () => lower,
  StripAccents: () => (text) => text.replace(/\p{M}/gu, ''),
  NFC: form('NFC'),
  NFD: form('NFD'),
  NFKC: form('NFKC'),
  NFKD: form('NFKD'),
  Strip: strip,
  Replace: replacing,
  Prepend: (fields) => {
    const prepend = fields.text('prepend');
    return (text) => (text === '' ? '' : prepend + text);
  },
  ByteLevel: () => inBytes,
  Sequence: (fields) => {
    const all = fields.list('normalizers').map(make);
    return (text, effort) => all.reduce((out, normalize) => normalize(out, effort), text);
  },
};

const REFUSED = {
  Precompiled: "it is SentencePiece's own table; save the tokenizer with plain normalisers such as NFKC",
  Nmt: 'save the tokenizer with plain normalisers such as NFKC',
};

function make(json: unknown): Normalizer {
  const normalize = component(json, 'normalizer', MAKERS, REFUSED);
  return (text, effort) => {
    effort.spend(text.length);
    const out = normalize(text, effort);
    checkLength(out.length, MOST);
    return out;
  };
}

/** The normaliser of a file; null where it has none. @throws TokenizerError for one that is not computed here */
export function makeNormalizer(json: unknown): Normalizer {
  return json === null || json === undefined ? (text) => text : make(json);
}
