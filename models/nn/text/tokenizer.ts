import { ArgumentError } from '../../../engine/errors.ts';
import { TokenizerError } from '../errors.ts';
import { excerpt } from '../../../engine/excerpt.ts';
import { parseJson } from '../json.ts';
import { AddedTokens } from './tokenizer/added-tokens.ts';
import { makeDecoder, type TextSink } from './tokenizer/decoders.ts';
import { Effort } from './tokenizer/effort.ts';
import { fail, isObject, type Json } from './tokenizer/fields.ts';
import { makeModel, type Model, MODEL_TYPES } from './tokenizer/models.ts';
import { makeNormalizer } from './tokenizer/normalizers.ts';
import { type Around, makeAround } from './tokenizer/post-processors.ts';
import { makePreTokenizer, type PreTokenizer } from './tokenizer/pre-tokenizers.ts';
import { readSettings, withSettings } from './tokenizer/settings.ts';
import { readVocabulary, type Vocabulary } from './tokenizer/vocabulary.ts';

/** Longest text that `encode` takes, in UTF-16 units: some 30,000 tokens; one word of this length takes about 1 s. */
export const MAX_TEXT = 2 ** 17;

/** Parses a text, or takes an object as it is; `file` names it in errors. */
function toObject(json: unknown, file: string): Json {
  const value = typeof json === 'string' ? parseJson(json, file, TokenizerError) : json;
  return isObject(value) ? value : fail(`${file}: expected a JSON object.`);
}

/** The parts of a tokenizer that a text goes through. */
interface Pipeline {
  readonly added: AddedTokens;
  readonly preTokenize: PreTokenizer;
  readonly model: Model;
  readonly around: Around;
  readonly makeSink: () => TextSink;
}

/** What is known of its ids. */
interface Ids {
  /** Every token, added ones included. */
  readonly ids: ReadonlyMap<string, number>;
  readonly eosId: number;
  readonly bosId: number | null;
  readonly padId: number;
  readonly unkId: number | null;
  readonly special: ReadonlySet<number>;
  readonly control: ReadonlySet<number>;
}

/** Optional files beside the two that every tokenizer has, as text or parsed; null where they are not there. */
export interface OlderFiles {
  readonly specialTokensMap?: unknown;
  readonly addedTokens?: unknown;
}

/**
 * A tokenizer read from the files that public checkpoints hold. Ids and texts are those of the Rust library
 * (`tokenizers` 0.23). Refused, because they are not computed here: the normalisers Precompiled and Nmt, the
 * pre-tokeniser UnicodeScripts, the decoder CTC, BPE with dropout or a prefix of continuing pieces; in patterns back
 * references, `\G`, `\K`, `\R`, `\X`, flags but `i`, letters such as ß without case and the repetition of what may be
 * empty; fields that no component of that type has.
 * `truncation` and `padding` are left to the caller, as in the Python library.
 */
export class Tokenizer {
  /** One more than the greatest id; an embedding may have more rows, never fewer. */
  readonly size: number;
  readonly eosId: number;
  /** Null where the tokenizer has none. */
  readonly bosId: number | null;
  /** The end-of-text id where the tokenizer has no padding token. */
  readonly padId: number;
  /** The id of words that the vocabulary lacks; null where the tokenizer has none. */
  readonly unkId: number | null;
  /** Contents of the special tokens, such as `<|endoftext|>`. */
  readonly specialTokens: readonly string[];
  /**
   * Ids that only a template may set: bos, eos, padding, special tokens and `<image>`, whether marked special or not.
   * The unknown token is none of them, unless it is one of the first two too: an unknown word may be typed.
   */
  readonly controlIds: ReadonlySet<number>;
  /** What the file's post-processor puts before a text, such as bos. */
  readonly before: readonly number[];
  private readonly tokens: ReadonlyMap<number, string>;

  private constructor(
    private readonly pipeline: Pipeline,
    private readonly known: Ids,
  ) {
    this.tokens = new Map([...known.ids].map(([token, id]) => [id, token]));
    this.size = [...this.tokens.keys()].reduce((a, b) => Math.max(a, b), -1) + 1;
    this.eosId = known.eosId;
    this.bosId = known.bosId;
    this.padId = known.padId;
    this.unkId = known.unkId;
    this.specialTokens = [...known.special].map((id) => this.tokens.get(id)!);
    this.controlIds = known.control;
    this.before = pipeline.around.before;
  }

  /**
   * @param tokenizerJson tokenizer.json, as text or parsed; BPE, WordPiece, WordLevel or Unigram
   * @param tokenizerConfig tokenizer_config.json, as text or parsed
   * @throws TokenizerError that names the entry: unknown type or field, bad merge, duplicate or huge id, missing eos_token
   */
  static fromJSON(tokenizerJson: unknown, tokenizerConfig: unknown, older: OlderFiles = {}): Tokenizer {
    const optional = (json: unknown, file: string) => (json === null || json === undefined ? null : toObject(json, file));
    try {
      return Tokenizer.build(toObject(tokenizerJson, 'tokenizer.json'), {
        config: toObject(tokenizerConfig, 'tokenizer_config.json'),
        specialTokensMap: optional(older.specialTokensMap, 'special_tokens_map.json'),
        addedTokens: optional(older.addedTokens, 'added_tokens.json'),
      });
    } catch (error) {
      if (error instanceof TokenizerError) throw error;
      throw new TokenizerError(`tokenizer.json: ${(error as Error).message}`, { cause: error });
    }
  }

  private static build(file: Json, files: Parameters<typeof readSettings>[2]): Tokenizer {
    checkParts(file);
    const json = withSettings(file, files.config);
    const vocabulary = readVocabulary(json, MODEL_TYPES);
    const settings = readSettings(json, vocabulary.ids, files);
    const ids = new Map(vocabulary.ids);
    for (const { content, id } of settings.added) ids.set(content, id);
    const eosId = settings.named.eos_token;
    if (eosId === undefined) fail('tokenizer_config.json: no eos_token; decoding would never stop.');
    const bosId = settings.named.bos_token ?? null;
    const padId = settings.named.pad_token ?? eosId;
    const effort = new Effort();
    const { model, unknown } = makeModel(withUnknown(vocabulary, settings.named.unk_token));
    const known = new Set(ids.values());
    const around = makeAround(json.post_processor, (id) => known.has(id));
    const special = new Set(settings.added.filter((token) => token.special).map((token) => token.id));
    const control = new Set([...special, padId, ...Object.values(settings.named), ...settings.further]);
    const image = ids.get('<image>');
    if (image !== undefined) control.add(image);
    for (const id of [unknown, settings.named.unk_token]) if (id !== undefined && id !== null) control.delete(id);
    for (const id of [eosId, bosId]) if (id !== null) control.add(id);
    const pipeline: Pipeline = {
      added: new AddedTokens(settings.added, makeNormalizer(json.normalizer), effort),
      preTokenize: makePreTokenizer(json.pre_tokenizer),
      model,
      around: withEnds(around, { ...settings, bosId, eosId }),
      makeSink: makeDecoder(json.decoder),
    };
    return new Tokenizer(pipeline, { ids, eosId, bosId, padId, unkId: unknown, special, control });
  }

  /**
   * Text to ids. Special tokens written out in the text become their ids; a lone surrogate is taken as U+FFFD.
   * @param options.addSpecial also what the file's post-processor puts around a text, such as a leading bos
   * @throws ArgumentError for more than MAX_TEXT characters, for a text on which the file's patterns take too many
   *   steps, or for a word unknown to a tokenizer without unknown token
   */
  encode(text: string, options: { addSpecial?: boolean } = {}): number[] {
    if (text.length > MAX_TEXT) {
      throw new ArgumentError(`The text has ${text.length} characters; at most ${MAX_TEXT} can be tokenized.`);
    }
    const { added, preTokenize, model, around } = this.pipeline;
    const effort = new Effort();
    const out: number[] = [];
    for (const section of added.split(text.replace(/\p{Surrogate}/gu, '\ufffd'), effort)) {
      if ('id' in section) out.push(section.id);
      else for (const piece of preTokenize(section, effort)) for (const id of model(piece.text, effort)) out.push(id);
    }
    return options.addSpecial ? [...around.before, ...out, ...around.after] : out;
  }

  /**
   * Ids to text, with nothing tidied: decode(encode(x)) is x for byte-level tokenizers.
   * Ids that no token has stand for embedding rows without one and give no text.
   * @param options.skipSpecial leave special tokens out (the default)
   * @throws ArgumentError for an id that is negative or not an integer
   */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    const stream = this.stream(options);
    return Array.from(ids, (id) => stream.push(id)).join('') + stream.end();
  }

  /** The id of a token as the file spells it, undefined if there is none. */
  idOf(token: string): number | undefined {
    return this.known.ids.get(token);
  }

  /** The token of an id as the file spells it, undefined if there is none. */
  tokenOf(id: number): string | undefined {
    return this.tokens.get(id);
  }

  /** Words and marks of a text that this tokenizer has no token for, each once, as they are written. */
  unknownWords(text: string): string[] {
    const isUnknown = (part: string) => this.unkId !== null && this.encode(part).includes(this.unkId);
    const found = text.split(/\s+/).flatMap((chunk) => {
      if (!isUnknown(` ${chunk}`)) return [];
      const words = chunk.match(/[\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}]/gu) ?? [];
      const unknown = words.filter((word) => isUnknown(word) && isUnknown(` ${word}`));
      return unknown.length > 0 ? unknown : [chunk];
    });
    return [...new Set(found)];
  }

  /** A decoder for tokens that arrive one by one. */
  stream({ skipSpecial = true }: { skipSpecial?: boolean } = {}): StreamDecoder {
    const { special } = this.known;
    const shown = (id: number) => (skipSpecial && special.has(id) ? undefined : this.tokens.get(id));
    return new StreamDecoder(shown, this.pipeline.makeSink);
  }
}

/** Longest description of a normaliser and the like: SentencePiece's tables take 300,000 characters, all else few. */
const MOST_PART = 2 ** 19;

/** Refuses parts that would take long to make. */
function checkParts(file: Json): void {
  for (const part of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) {
    const size = JSON.stringify(file[part])?.length ?? 0;
    if (size > MOST_PART) fail(`tokenizer.json: ${part} has ${size} characters, expected at most ${MOST_PART}.`);
  }
}

/** Word-level and WordPiece models may leave their unknown token to the configuration. */
function withUnknown(vocabulary: Vocabulary, configured: number | undefined): Vocabulary {
  const { type, model, ids } = vocabulary;
  if (type !== 'WordLevel' && type !== 'WordPiece') return vocabulary;
  const named = [...ids].find(([, id]) => id === configured)?.[0];
  const unk_token = model.unk_token ?? named;
  if (typeof unk_token === 'string' && ids.has(unk_token)) return { ...vocabulary, model: { ...model, unk_token } };
  return fail(`tokenizer.json: model.unk_token ${excerpt(unk_token)} is not in the vocabulary.`);
}

/** What stands around a text where the configuration says of bos and eos whether they do. */
function withEnds(
  { before, after }: Around,
  ends: { addBos: boolean | undefined; addEos: boolean | undefined; bosId: number | null; eosId: number },
): Around {
  const having = (list: readonly number[], id: number | null, wanted: boolean | undefined, put: 'first' | 'last') => {
    if (wanted === undefined || id === null || list.includes(id) === wanted) return list;
    if (!wanted) return list.filter((other) => other !== id);
    return put === 'first' ? [id, ...list] : [...list, id];
  };
  return {
    before: having(before, ends.bosId, ends.addBos, 'first'),
    after: having(after, ends.eosId, ends.addEos, 'last'),
  };
}

/**
 * Decodes tokens as they come. The pieces joined are the text of all tokens, and no piece ends inside a character:
 * bytes of one that is not complete yet wait for the next token.
 */
export class StreamDecoder {
  private sink: TextSink;

  constructor(
    private readonly shown: (id: number) => string | undefined,
    private readonly makeSink: () => TextSink,
  ) {
    this.sink = makeSink();
  }

  /** Adds one token and returns the text that became certain, often one word, sometimes ''. */
  push(id: number): string {
    if (!Number.isInteger(id) || id < 0) throw new ArgumentError(`decode: ${String(id)} is not a token id.`);
    const token = this.shown(id);
    return token === undefined ? '' : this.sink.push(token);
  }

  /** Returns what is left, an unfinished character as U+FFFD, and starts anew. */
  end(): string {
    const rest = this.sink.end();
    this.sink = this.makeSink();
    return rest;
  }
}
