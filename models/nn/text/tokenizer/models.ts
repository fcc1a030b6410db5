/** Models of tokenizer.json: from a piece of text to ids. */
import { ArgumentError } from '../../../../engine/errors.ts';
import { excerpt } from '../../../../engine/excerpt.ts';
import { Merges } from './bpe.ts';
import type { Effort } from './effort.ts';
import { fail, Fields } from './fields.ts';
import { Prefixes } from './prefixes.ts';
import type { Vocabulary } from './vocabulary.ts';

/** Ids of one piece of text. */
export type Model = (text: string, effort: Effort) => readonly number[];

/** What all models need. */
interface Parts extends Vocabulary {
  readonly fields: Fields;
  /** The id for what is unknown; null where the model has none. */
  readonly unknown: number | null;
}

function known(unknown: number | null): number {
  if (unknown !== null) return unknown;
  throw new ArgumentError('The text holds a word that is unknown to a tokenizer without an unknown token.');
}

/** Ids of the bytes of a text as `<0x0A>` and the like; null where the vocabulary lacks one. */
function byteIds(text: string, ids: ReadonlyMap<string, number>): number[] | null {
  const hex = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => ids.get(hex(byte)));
  return bytes.every((id) => id !== undefined) ? (bytes as number[]) : null;
}

/** Words whose ids are kept, and how long they may be: nearly all words of a text are among its few most frequent. */
const KEPT_WORDS = 2 ** 14;
const KEPT_LENGTH = 64;

/** Byte pair encoding; unknown characters give nothing where the file names no unknown token. */
function bpe({ fields, ids, merges, unknown }: Parts): Model {
  fields.must('dropout', 0);
  fields.must('continuing_subword_prefix', '');
  const fuse = fields.flag('fuse_unk', false);
  const bytes = fields.flag('byte_fallback', false);
  const whole = fields.flag('ignore_merges', false);
  const suffix = fields.text('end_of_word_suffix', '');
  const isNamed = fields.any('unk_token') !== undefined;
  const joining = new Merges(merges);
  const encode = (text: string): readonly number[] => {
    const id = whole ? ids.get(text) : undefined;
    if (id !== undefined) return [id];
    const characters = Array.from(text);
    const word: number[] = [];
    // Unknown characters wait for a known one, bytes pass them by: so does the Rust library.
    let waiting = false;
    const flush = (): void => {
      if (waiting) word.push(known(unknown));
      waiting = false;
    };
    characters.forEach((character, i) => {
      const symbol = i === characters.length - 1 ? character + suffix : character;
      const id = ids.get(symbol);
      const fallback = id === undefined && bytes ? byteIds(symbol, ids) : null;
      if (id !== undefined) {
        flush();
        word.push(id);
      } else if (fallback) word.push(...fallback);
      else if (isNamed && !(fuse && waiting)) {
        flush();
        waiting = true;
      }
    });
    flush();
    return joining.apply(word);
  };
  const kept = new Map<string, readonly number[]>();
  return (text) => {
    let found = kept.get(text);
    if (found === undefined) {
      found = encode(text);
      if (kept.size >= KEPT_WORDS) kept.clear();
      if (text.length <= KEPT_LENGTH) kept.set(text, found);
    }
    return found;
  };
}

function wordLevel({ ids, unknown }: Parts): Model {
  return (text) => [ids.get(text) ?? known(unknown)];
}

/** The longest piece that fits, again and again; one that fits nowhere makes the whole word unknown. */
function wordPiece({ fields, ids, unknown }: Parts): Model {
  const prefix = fields.text('continuing_subword_prefix', '##');
  const most = fields.whole('max_input_chars_per_word', 1, 100);
  const begins = new Prefixes(ids.keys());
  const continues = new Prefixes([...ids.keys()].filter((t) => t.startsWith(prefix)).map((t) => t.slice(prefix.length)));
  return (text, effort) => {
    if ([...text].length > most) return [known(unknown)];
    const out: number[] = [];
    for (let at = 0; at < text.length; ) {
      const piece = (at === 0 ? begins : continues).at(text, at, effort).at(-1);
      if (piece === undefined) return [known(unknown)];
      out.push(ids.get(at === 0 ? piece : prefix + piece)!);
      at += piece.length;
    }
    return out;
  };
}

/** How much worse than the worst piece an unknown character counts. */
const UNKNOWN_PENALTY = 10;

/** The pieces of the greatest sum of scores; neighbouring unknown characters are one. */
function unigram({ fields, model, ids, unknown }: Parts): Model {
  const vocab = model.vocab as [string, number][];
  const bytes = fields.flag('byte_fallback', false);
  const scores = vocab.map(([, score]) => score);
  const penalty = scores.reduce((a, b) => Math.min(a, b), Infinity) - UNKNOWN_PENALTY;
  const pieces = new Prefixes(ids.keys());
  return (text, effort) => {
    // For each end, the best score to it, where its last piece begins, and whether that is unknown.
    const best = new Float64Array(text.length + 1);
    const begin = new Int32Array(text.length + 1).fill(-1);
    const odd = new Uint8Array(text.length + 1);
    const offer = (from: number, to: number, score: number, isOdd: boolean): void => {
      if (begin[to] >= 0 && !(best[from] + score > best[to])) return;
      best[to] = best[from] + score;
      begin[to] = from;
      odd[to] = Number(isOdd);
    };
    for (let at = 0; at < text.length; ) {
      const width = text.codePointAt(at)! > 0xffff ? 2 : 1;
      const found = pieces.at(text, at, effort);
      for (const piece of found) {
        const id = ids.get(piece)!;
        offer(at, at + piece.length, scores[id], id === unknown);
      }
      if (!found.some((piece) => piece.length === width)) {
        known(unknown);
        offer(at, at + width, penalty, true);
      }
      at += width;
    }
    const spans: [number, number][] = [];
    for (let end = text.length; end > 0; ) {
      let from = begin[end];
      if (odd[end]) while (from > 0 && odd[from]) from = begin[from];
      spans.push([from, end]);
      end = from;
    }
    return spans.reverse().flatMap(([from, end]) => {
      const piece = text.slice(from, end);
      const id = ids.get(piece);
      if (id !== undefined) return [id];
      return (bytes && byteIds(piece, ids)) || [known(unknown)];
    });
  };
}

const MODELS: Readonly<Record<string, (parts: Parts) => Model>> = {
  BPE: bpe,
  Unigram: unigram,
  WordLevel: wordLevel,
  WordPiece: wordPiece,
};

export const MODEL_TYPES = Object.keys(MODELS);

/**
 * The model of a file.
 * @throws TokenizerError for a field that changes the ids and is not computed here
 */
export function makeModel(vocabulary: Vocabulary): { model: Model; unknown: number | null } {
  const { type, model, ids } = vocabulary;
  const fields = new Fields(model, `tokenizer.json: model ${type}`);
  fields.ignore('type', 'vocab', 'merges', 'unk_token', 'unk_id');
  const unknown = type === 'Unigram' ? unknownIndex(fields, ids) : (ids.get(fields.text('unk_token', '')) ?? null);
  const made = MODELS[type]({ ...vocabulary, fields, unknown });
  fields.end();
  return { model: made, unknown };
}

function unknownIndex(fields: Fields, ids: ReadonlyMap<string, number>): number | null {
  const id = fields.any('unk_id');
  if (id === undefined) return null;
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= ids.size) {
    fail(`${fields.where}: unk_id is ${excerpt(id)}; expected a place in the vocabulary of ${ids.size}.`);
  }
  return id as number;
}
