/** Models of tokenizer.json: from a piece of text to ids. */
import { BPE } from '@huggingface/tokenizers';
import { ArgumentError } from '../../../engine/errors.ts';
import type { Effort } from './effort.ts';
import { fail, Fields, type Json } from './fields.ts';
import { Prefixes } from './prefixes.ts';

/** Ids of one piece of text. */
export type Model = (text: string, effort: Effort) => number[];

/** What all models need. */
interface Vocabulary {
  readonly fields: Fields;
  readonly ids: ReadonlyMap<string, number>;
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

/** Byte pair encoding, the library's; unknown characters without an unknown token give nothing. */
function bpe({ fields, ids, unknown }: Vocabulary, json: Json): Model {
  fields.must('dropout', 0);
  fields.must('continuing_subword_prefix', '');
  const fuse = fields.flag('fuse_unk', false);
  const bytes = fields.flag('byte_fallback', false);
  const suffix = fields.text('end_of_word_suffix', '');
  if (unknown === null && suffix !== '') fail(`${fields.where}: end_of_word_suffix without unk_token is not supported.`);
  const model = new BPE({
    type: 'BPE',
    vocab: json.vocab as Record<string, number>,
    merges: json.merges as [string, string][],
    unk_token: unknown === null ? undefined : fields.text('unk_token'),
    end_of_word_suffix: suffix,
    byte_fallback: bytes,
    ignore_merges: fields.flag('ignore_merges', false),
  });
  // Without an unknown token what is unknown is left out before anything is merged.
  const isKnown = (char: string) => ids.has(char) || (bytes && byteIds(char, ids) !== null);
  return (text) => {
    const seen = unknown === null ? Array.from(text).filter(isKnown).join('') : text;
    const out = model.encode([seen]).map((token) => ids.get(token)!);
    return fuse ? out.filter((id, i) => id !== unknown || out[i - 1] !== unknown) : out;
  };
}

function wordLevel({ ids, unknown }: Vocabulary): Model {
  return (text) => [ids.get(text) ?? known(unknown)];
}

/** The longest piece that fits, again and again; one that fits nowhere makes the whole word unknown. */
function wordPiece({ fields, ids, unknown }: Vocabulary): Model {
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
function unigram({ fields, ids, unknown }: Vocabulary, json: Json): Model {
  const vocab = json.vocab as [string, number][];
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

const MODELS: Readonly<Record<string, (vocabulary: Vocabulary, json: Json) => Model>> = {
  BPE: bpe,
  Unigram: unigram,
  WordLevel: wordLevel,
  WordPiece: wordPiece,
};

export const MODEL_TYPES = Object.keys(MODELS);

/**
 * The model of a file.
 * @param ids its vocabulary, checked, without added tokens
 * @throws TokenizerError for a field that changes the ids and is not computed here
 */
export function makeModel(
  type: string,
  json: Json,
  ids: ReadonlyMap<string, number>,
): { model: Model; unknown: number | null } {
  const fields = new Fields(json, `tokenizer.json: model ${type}`);
  fields.ignore('type', 'vocab', 'merges', 'unk_token', 'unk_id');
  const unknown = type === 'Unigram' ? unknownIndex(fields, ids) : (ids.get(fields.text('unk_token', '')) ?? null);
  const model = MODELS[type]({ fields, ids, unknown }, json);
  fields.end();
  return { model, unknown };
}

function unknownIndex(fields: Fields, ids: ReadonlyMap<string, number>): number | null {
  const id = fields.any('unk_id');
  if (id === undefined) return null;
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= ids.size) {
    fail(`${fields.where}: unk_id ${String(id)} is no place in the vocabulary of ${ids.size}.`);
  }
  return id as number;
}
