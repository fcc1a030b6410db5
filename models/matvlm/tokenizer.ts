import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers';
import { ArgumentError, TokenizerError } from '../../engine/errors.ts';
import { checkTokenizer, toObject } from './tokenizer-check.ts';

/** Longest text that `encode` takes, in UTF-16 units: some 30,000 tokens; one word of this length takes about 1 s. */
export const MAX_TEXT = 2 ** 17;

/** The content of a token that tokenizer_config.json gives as a string or as an object; undefined where it has none. */
function tokenContent(config: Record<string, unknown>, key: string): string | undefined {
  const value = config[key];
  if (typeof value === 'string') return value;
  if (typeof value === 'object' && value !== null) {
    const { content } = value as { content?: unknown };
    if (typeof content === 'string') return content;
  }
  if (value === undefined || value === null) return undefined;
  throw new TokenizerError(`tokenizer_config.json: ${key} must be a string or an object with content.`);
}

/** A tokenizer read from the two files that public checkpoints hold. */
export class Tokenizer {
  /** One more than the greatest id; an embedding may have more rows, never fewer. */
  readonly size: number;
  readonly eosId: number;
  /** Null where the tokenizer has none. */
  readonly bosId: number | null;
  /** The end-of-text id where the tokenizer has no padding token. */
  readonly padId: number;
  /** What a word becomes that the vocabulary cannot spell; null where the tokenizer has no such id. */
  readonly unkId: number | null;
  /** Contents of the special tokens, such as `<|endoftext|>`. */
  readonly specialTokens: readonly string[];
  private readonly hf: HfTokenizer;

  private constructor(
    hf: HfTokenizer,
    vocab: Map<string, number>,
    config: Record<string, unknown>,
    unkId: number | null,
  ) {
    this.hf = hf;
    this.size = [...vocab.values()].reduce((a, b) => Math.max(a, b), -1) + 1;
    const idOf = (key: string): number | null => {
      const content = tokenContent(config, key);
      if (content === undefined) return null;
      const id = vocab.get(content);
      if (id !== undefined) return id;
      throw new TokenizerError(`tokenizer_config.json: ${key} ${JSON.stringify(content)} is not in tokenizer.json.`);
    };
    const eos = idOf('eos_token');
    if (eos === null) throw new TokenizerError('tokenizer_config.json: no eos_token; decoding would never stop.');
    this.eosId = eos;
    this.bosId = idOf('bos_token');
    this.padId = idOf('pad_token') ?? eos;
    this.unkId = unkId;
    this.specialTokens = [...hf.get_added_tokens_decoder().values()].filter((t) => t.special).map((t) => t.content);
  }

  /**
   * @param tokenizerJson tokenizer.json, as text or parsed; BPE, WordPiece, WordLevel or Unigram
   * @param tokenizerConfig tokenizer_config.json, as text or parsed
   * @throws TokenizerError that names the entry: unknown type, bad merge, duplicate or huge id, missing eos_token
   */
  static fromJSON(tokenizerJson: unknown, tokenizerConfig: unknown): Tokenizer {
    const json = toObject(tokenizerJson, 'tokenizer.json');
    const config = toObject(tokenizerConfig, 'tokenizer_config.json');
    const vocab = checkTokenizer(json);
    // The library takes a word-level model's unknown token from the configuration, the file format from the model.
    const unk = (json.model as { unk_token?: unknown }).unk_token ?? tokenContent(config, 'unk_token');
    const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
    try {
      const hf = new HfTokenizer({ ...parts, ...json }, { ...config, unk_token: unk });
      // The library meets some mistakes in the file only when it is put to work.
      hf.decode(hf.encode('A b!').ids.concat(vocab.values().next().value!));
      const { unk_id } = json.model as { unk_id?: unknown };
      const unkId = typeof unk_id === 'number' ? unk_id : (vocab.get(String(unk)) ?? null);
      return new Tokenizer(hf, vocab, config, unkId);
    } catch (error) {
      if (error instanceof TokenizerError) throw error;
      throw new TokenizerError(`tokenizer.json: ${(error as Error).message}`, { cause: error });
    }
  }

  /**
   * Text to ids. Special tokens written out in the text become their ids.
   * @param options.addSpecial also what the file's post-processor puts around a text, such as a leading bos
   * @throws ArgumentError for more than MAX_TEXT characters, or a word unknown to a tokenizer without unknown token
   */
  encode(text: string, options: { addSpecial?: boolean } = {}): number[] {
    if (text.length > MAX_TEXT) {
      throw new ArgumentError(`The text has ${text.length} characters; at most ${MAX_TEXT} can be tokenized.`);
    }
    const { ids } = this.hf.encode(text, { add_special_tokens: options.addSpecial ?? false });
    if (ids.some((id) => id === undefined)) {
      throw new ArgumentError('The text holds a word that is unknown to a tokenizer without an unknown token.');
    }
    return ids;
  }

  /**
   * Ids to text, with nothing tidied: decode(encode(x)) is x for byte-level tokenizers.
   * Ids from `size` on stand for embedding rows without a token and give no text.
   * @param options.skipSpecial leave special tokens out (the default)
   * @throws ArgumentError for an id that is negative or not an integer
   */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    const list = Array.from(ids);
    const bad = list.find((id) => !Number.isInteger(id) || id < 0);
    if (bad !== undefined) throw new ArgumentError(`decode: ${bad} is not a token id.`);
    const known = list.filter((id) => this.hf.id_to_token(id) !== undefined);
    if (known.length === 0) return '';
    return this.hf.decode(known, {
      skip_special_tokens: options.skipSpecial ?? true,
      clean_up_tokenization_spaces: false,
    });
  }

  /** The id of a token as the file spells it, undefined if there is none. */
  idOf(token: string): number | undefined {
    return this.hf.token_to_id(token);
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
  stream(): StreamDecoder {
    return new StreamDecoder(this);
  }
}

/** What an unfinished UTF-8 character decodes to: one or, with byte fallback, up to three replacement characters. */
const UNFINISHED = /\ufffd{1,3}$/;

/**
 * Decodes tokens as they come. The pieces joined are the text of all tokens, and no piece ends inside a character:
 * bytes of one that is not complete yet wait for the next token.
 */
export class StreamDecoder {
  private readonly tokenizer: Tokenizer;
  /** The last token given out in full, as context (a word's leading space depends on it), and those not complete. */
  private window: number[] = [];
  /** Characters of the window's text that were given out. */
  private given = 0;

  constructor(tokenizer: Tokenizer) {
    this.tokenizer = tokenizer;
  }

  /** Adds one token and returns the text that became certain, often one word, sometimes ''. */
  push(id: number): string {
    const text = this.tokenizer.decode([...this.window, id]);
    this.window.push(id);
    const certain = text.replace(UNFINISHED, '');
    const piece = certain.slice(this.given);
    this.given = Math.max(this.given, certain.length);
    if (certain.length < text.length) return piece;
    if (piece === '') {
      // A special token, or one without text: it must not take the place of the word before it.
      this.window.pop();
    } else {
      this.window = [id];
      this.given = this.tokenizer.decode(this.window).length;
    }
    return piece;
  }

  /** Returns what is left, an unfinished character as U+FFFD, and starts anew. */
  end(): string {
    const rest = this.tokenizer.decode(this.window).slice(this.given);
    this.window = [];
    this.given = 0;
    return rest;
  }
}
