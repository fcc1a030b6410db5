import type { Backend } from '../../engine/backend.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { ConfigError } from '../nn/errors.ts';
import { Checkpoint, type FolderSource } from '../../engine/safetensors/index.ts';
import { checkContext, type GenerateOptions, generateIds } from './generate.ts';
import { endIds, imageTokens, type MatvlmConfig } from './config.ts';
import type { RgbImage } from '../nn/image/image.ts';
import { preprocess } from '../nn/image/preprocess.ts';
import type { MaTVLM } from './model.ts';
import { PromptEncoder, type Turn } from './template.ts';
import { Tokenizer } from '../nn/text/tokenizer.ts';
import { checkWeights, disposeModel, type LoadOptions, modelFrom, readConfig, readJson } from './weights.ts';

/** Largest file of a tokenizer that is read. */
export const TOKENIZER_LIMIT = 64 * 2 ** 20;

/** What to answer. */
export interface AskOptions extends Omit<GenerateOptions, 'stopIds'> {
  /** null for a question without an image. */
  readonly image: RgbImage | null;
  readonly prompt: string;
  /** Earlier turns, about the same image or without one. */
  readonly history?: readonly Turn[];
  /** Texts that end the answer; they are not given out. */
  readonly stop?: readonly string[];
  /** Called at the end, also of an aborted answer. */
  readonly onUsage?: (usage: Usage) => void;
}

/** What an answer cost. */
export interface Usage {
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Milliseconds from the call to the first token. */
  readonly timeToFirstToken: number;
  readonly tokensPerSecond: number;
}

/** A model with its tokenizer, prompt template and image preprocessing: what a page or a script talks to. */
export class Vlm {
  /** Ids that end an answer: the tokenizer's end of text and those of the configuration. */
  readonly endIds: ReadonlySet<number>;

  /**
   * @param encoder of the model's own prompts, made with this tokenizer
   * @param onDispose called when the model was freed
   */
  constructor(
    readonly model: MaTVLM,
    readonly tokenizer: Tokenizer,
    readonly encoder: PromptEncoder = promptEncoder(model.config, tokenizer),
    private readonly onDispose: () => void = () => {},
  ) {
    this.endIds = new Set([tokenizer.eosId, ...endIds(model.config.model)]);
  }

  /** An image as the tower takes it: (3, size, size). */
  pixels(image: RgbImage): Float32Array {
    const { vision_config, image_aspect_ratio } = this.model.config.model;
    return preprocess(image, { size: vision_config.image_size, aspect: image_aspect_ratio });
  }

  /**
   * Answers a question, piece by piece.
   * @throws ArgumentError for an empty or forbidden prompt, a prompt longer than the context, or an option out of range
   */
  async *generate(options: AskOptions): AsyncGenerator<string> {
    const turns = [...(options.history ?? []), { question: options.prompt }];
    const { ids } = options.image ? this.encoder.encode(turns) : this.encoder.encodeTextOnly(turns);
    const promptTokens = ids.length + (options.image ? imageTokens(this.model.config.model) - 1 : 0);
    checkContext(this.model, promptTokens);
    const pixels = options.image && this.pixels(options.image);
    const clock = new Clock(promptTokens);
    const stops = new StopStrings(options.stop ?? []);
    const stream = this.tokenizer.stream();
    try {
      const made = generateIds(this.model, Array.from(ids), pixels, { ...options, stopIds: [...this.endIds] });
      for await (const id of made) {
        clock.token();
        const piece = stops.push(stream.push(id));
        if (piece) yield piece;
        if (stops.stopped) return;
      }
      const rest = stops.push(stream.end()) + stops.end();
      if (rest) yield rest;
    } finally {
      options.onUsage?.(clock.usage());
    }
  }

  /** The whole answer, without the space that the template puts before it. */
  async answer(options: AskOptions): Promise<string> {
    let text = '';
    for await (const piece of this.generate(options)) text += piece;
    return text.trim();
  }

  /** Frees the model, and the backend where loading opened one for it. */
  dispose(): void {
    disposeModel(this.model);
    this.onDispose();
  }
}

/**
 * The encoder of a model's prompts.
 * @throws ConfigError when the tokenizer has ids that the model lacks, ArgumentError for an unknown `conv_version`
 */
export function promptEncoder({ model }: MatvlmConfig, tokenizer: Tokenizer): PromptEncoder {
  const { vocab_size } = model.text_config;
  if (tokenizer.size > vocab_size) {
    throw new ConfigError(`the tokenizer has ${tokenizer.size} ids, the model's vocabulary ${vocab_size} rows`);
  }
  return new PromptEncoder(tokenizer, model.conv_version, endIds(model));
}

class Clock {
  private readonly start = performance.now();
  private first = 0;
  private last = 0;
  private count = 0;

  constructor(private readonly promptTokens: number) {}

  token(): void {
    this.last = performance.now();
    if (this.count++ === 0) this.first = this.last;
  }

  usage(): Usage {
    const seconds = (this.last - this.first) / 1000;
    return {
      promptTokens: this.promptTokens,
      newTokens: this.count,
      timeToFirstToken: this.count > 0 ? this.first - this.start : 0,
      tokensPerSecond: this.count > 1 && seconds > 0 ? (this.count - 1) / seconds : 0,
    };
  }
}

/** Holds back what may be the beginning of a stop string. */
class StopStrings {
  stopped = false;
  private held = '';

  constructor(private readonly stops: readonly string[]) {
    if (stops.includes('')) throw new ArgumentError('stop holds an empty text, which would end every answer at once');
  }

  push(piece: string): string {
    const text = this.held + piece;
    const cuts = this.stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (cuts.length > 0) {
      this.stopped = true;
      this.held = '';
      return text.slice(0, Math.min(...cuts));
    }
    const keep = Math.max(0, ...this.stops.map((stop) => overlap(text, stop)));
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  end(): string {
    const rest = this.held;
    this.held = '';
    return rest;
  }
}

/** The longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(stop.length - 1, text.length); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n;
  return 0;
}

/** The tokenizer of a checkpoint folder. @throws ConfigError when its files are missing */
export async function readTokenizer(folder: FolderSource): Promise<Tokenizer> {
  const [json, config, specialTokensMap, addedTokens] = await Promise.all([
    readJson(folder, 'tokenizer.json', TOKENIZER_LIMIT),
    readJson(folder, 'tokenizer_config.json'),
    readJson(folder, 'special_tokens_map.json'),
    readJson(folder, 'added_tokens.json'),
  ]);
  if (json === null || config === null) {
    const missing = json === null ? 'tokenizer.json' : 'tokenizer_config.json';
    throw new ConfigError(`${folder.name}: no ${missing}; copy it from the model's public folder`);
  }
  return Tokenizer.fromJSON(json, config, { specialTokensMap, addedTokens });
}

/** A backend that a model has to itself: opened when all else is in order, closed with the model or when loading fails. */
export interface OwnBackend {
  open(): Promise<Backend>;
  close(backend: Backend): void;
}

/**
 * Loads a checkpoint folder: config, tokenizer, weights. What can be checked without the weights is checked before any
 * memory is taken, and whatever fails, nothing stays on the backend.
 */
export async function loadVlm(
  folder: FolderSource,
  backend: Backend | OwnBackend,
  options: LoadOptions = {},
): Promise<Vlm> {
  const config = await readConfig(folder);
  const tokenizer = await readTokenizer(folder);
  const encoder = promptEncoder(config, tokenizer);
  const checkpoint = await Checkpoint.open(folder);
  try {
    checkWeights(config, checkpoint);
    options.signal?.throwIfAborted();
    if (!('open' in backend)) return new Vlm(await modelFrom(config, checkpoint, backend, options), tokenizer, encoder);
    const own = await backend.open();
    const close = () => backend.close(own);
    try {
      return new Vlm(await modelFrom(config, checkpoint, own, options), tokenizer, encoder, close);
    } catch (error) {
      close();
      throw error;
    }
  } finally {
    await checkpoint.close();
  }
}
