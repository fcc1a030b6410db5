/** Pre-tokenisers of tokenizer.json, as the Rust library computes them: they split a text into what the model sees. */
import { inBytes } from './bytes.ts';
import type { Effort } from './effort.ts';
import { component, type Fields, type Makers } from './fields.ts';
import { literal, native, type Pattern, patternOf } from './pattern.ts';

/** A part of the text; `first` where it begins where the whole text does. */
export interface Piece {
  readonly text: string;
  readonly first: boolean;
}

export type PreTokenizer = (piece: Piece, effort: Effort) => Piece[];

/** What becomes of matches: left out, pieces of their own, joined with a neighbour, or runs of them joined. */
const BEHAVIOURS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const;
type Behaviour = (typeof BEHAVIOURS)[number];

interface Range {
  begin: number;
  end: number;
  readonly match: boolean;
}

/** Matches and what lies between them, in order. */
function ranges(text: string, pattern: Pattern, invert: boolean, effort: Effort): Range[] {
  const all: Range[] = [];
  let last = 0;
  for (const [begin, end] of pattern(text, effort)) {
    if (begin > last) all.push({ begin: last, end: begin, match: invert });
    all.push({ begin, end, match: !invert });
    last = end;
  }
  if (last < text.length) all.push({ begin: last, end: text.length, match: invert });
  return all;
}

/** Ranges that belong together joined; `joins` says of a range whether it is taken into the one before it. */
function joined(all: readonly Range[], joins: (range: Range, previous: Range) => boolean): Range[] {
  const out: Range[] = [];
  all.forEach((range, i) => {
    if (i > 0 && joins(range, all[i - 1])) out[out.length - 1].end = range.end;
    else out.push({ ...range });
  });
  return out;
}

const JOIN: Readonly<Record<Behaviour, (all: readonly Range[]) => readonly Range[]>> = {
  Removed: (all) => all.filter(({ match }) => !match),
  Isolated: (all) => all,
  MergedWithPrevious: (all) => joined(all, (range, previous) => range.match && !previous.match),
  MergedWithNext: (all) => joined(all, (range, previous) => previous.match && !range.match),
  Contiguous: (all) => joined(all, (range, previous) => range.match === previous.match),
};

function splitting(pattern: Pattern, behaviour: Behaviour, invert = false): PreTokenizer {
  const join = JOIN[behaviour];
  return ({ text, first }, effort) =>
    join(ranges(text, pattern, invert, effort))
      .filter(({ begin, end }) => end > begin)
      .map(({ begin, end }) => ({ text: text.slice(begin, end), first: first && begin === 0 }));
}

function chain(all: readonly PreTokenizer[]): PreTokenizer {
  return (piece, effort) => all.reduce((pieces, split) => pieces.flatMap((p) => split(p, effort)), [piece]);
}

const mapText =
  (change: (text: string) => string): PreTokenizer =>
  ({ text, first }) => [{ text: change(text), first }];

/** Rust's word characters. */
const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}';
const WORDS = native(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, 'gu'));
const SPACE = native(/\p{White_Space}/gu);
const PUNCTUATION = native(/[\p{P}!-/:-@[-`{-~]/gu);
const NUMERIC = native(/\p{N}/gu);
/** GPT-2's own split. */
const GPT2 = native(
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu,
);

function byteLevel(fields: Fields): PreTokenizer {
  const prefix = fields.flag('add_prefix_space', true);
  const useRegex = fields.flag('use_regex', true);
  fields.ignore('trim_offsets');
  const prefixed = mapText((text) => (prefix && !text.startsWith(' ') ? ` ${text}` : text));
  return chain([prefixed, ...(useRegex ? [splitting(GPT2, 'Isolated')] : []), mapText(inBytes)]);
}

function metaspace(fields: Fields): PreTokenizer {
  const replacement = fields.character('replacement', '▁');
  fields.ignore('str_rep');
  // Older files say add_prefix_space in place of the scheme.
  const prefix = fields.flag('add_prefix_space', true);
  const scheme = fields.oneOf('prepend_scheme', ['always', 'first', 'never'], prefix ? 'always' : 'never');
  const split = fields.flag('split', true);
  const marked: PreTokenizer = ({ text, first }) => {
    const spaced = text.replaceAll(' ', replacement);
    const prepend = (scheme === 'always' || (scheme === 'first' && first)) && !spaced.startsWith(replacement);
    return [{ text: prepend ? replacement + spaced : spaced, first }];
  };
  return split ? chain([marked, splitting(literal(replacement), 'MergedWithNext')]) : marked;
}

/** Runs of so many characters. */
function fixedLength(fields: Fields): PreTokenizer {
  const length = fields.whole('length', 1, 5);
  return ({ text, first }) => {
    const characters = Array.from(text);
    return Array.from({ length: Math.ceil(characters.length / length) }, (_, i) => ({
      text: characters.slice(i * length, (i + 1) * length).join(''),
      first: first && i === 0,
    }));
  };
}

const MAKERS: Makers<PreTokenizer> = {
  BertPreTokenizer: () => chain([splitting(SPACE, 'Removed'), splitting(PUNCTUATION, 'Isolated')]),
  ByteLevel: byteLevel,
  CharDelimiterSplit: (fields) => splitting(literal(fields.character('delimiter')), 'Removed'),
  Digits: (fields) => splitting(NUMERIC, fields.flag('individual_digits', false) ? 'Isolated' : 'Contiguous'),
  FixedLength: fixedLength,
  Metaspace: metaspace,
  Punctuation: (fields) => splitting(PUNCTUATION, fields.oneOf('behavior', BEHAVIOURS, 'Isolated')),
  Sequence: (fields) => chain(fields.list('pretokenizers').map(make)),
  Split: (fields) =>
    splitting(patternOf(fields), fields.oneOf('behavior', BEHAVIOURS), fields.flag('invert', false)),
  Whitespace: () => splitting(WORDS, 'Removed', true),
  WhitespaceSplit: () => splitting(SPACE, 'Removed'),
};

const REFUSED = { UnicodeScripts: 'save the tokenizer with a Split by a pattern of scripts' };

/** What a piece costs however short it is, in steps. */
const PIECE_STEPS = 30;

function make(json: unknown): PreTokenizer {
  const split = component(json, 'pre_tokenizer', MAKERS, REFUSED);
  return (piece, effort) => {
    effort.spend(piece.text.length + PIECE_STEPS);
    return split(piece, effort);
  };
}

/** The pre-tokeniser of a file, or one that leaves the text whole. @throws TokenizerError for one not computed here */
export function makePreTokenizer(json: unknown): PreTokenizer {
  const split: PreTokenizer = json === null || json === undefined ? (piece) => [piece] : make(json);
  return (piece, effort) => (piece.text === '' ? [] : split(piece, effort));
}
