import { type Capture, capture } from '../../engine/capture.ts';
import { keep, scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { type ChoiceInputs, chooseToken_, fill } from '../../ops/index.ts';
import { held } from '../nn/event-loop.ts';
import { Random } from '../nn/random.ts';
import type { DecoderCache } from '../nn/cache.ts';
import type { SamplingOptions } from '../nn/sampling.ts';
import type { Decoder } from './layers/decoder.ts';

export interface TokenStreamOptions extends SamplingOptions {
  /** Most tokens that will be asked for. */
  readonly maxNewTokens: number;
  readonly seed?: number;
  /** The ids of each row's prompt, which the repetition penalty applies to; what is below 0 is no token. */
  readonly prompts?: readonly (readonly number[])[];
  /** Tokens computed before those ahead of them were read, so that a GPU need not wait for the host; 3 for a GPU, else 1. */
  readonly ahead?: number;
}

/**
 * Tokens that follow a prompt, of one row or several. They are chosen on the device, where the next step finds them: all
 * that comes back are ids. A step is captured the second time that it is run, and replayed from then on.
 */
export class TokenStream {
  private readonly token: Tensor;
  private readonly memory: Omit<ChoiceInputs, 'logits'>;
  private readonly coming: Promise<ArrayLike<number>>[] = [];
  private steps = 0;
  private captured: Capture<void> | null = null;

  /**
   * @param cache holds the prompts of all rows; stays the caller's
   * @param logits behind the prompts, (B, V)
   */
  constructor(
    private readonly decoder: Decoder,
    private readonly cache: DecoderCache,
    logits: Tensor,
    private readonly options: TokenStreamOptions,
  ) {
    const { temperature = 0, repetitionPenalty = 1, prompts = [], seed = 0, maxNewTokens } = options;
    const { backend, shape: [rows] } = logits;
    const tensors = scope(() => ({
      token: fill(backend, [rows, 1], 0, 'i32'),
      seen: repetitionPenalty === 1 ? undefined : seenIn(prompts, logits),
      draws: temperature === 0 ? undefined : drawsFrom(seed, cache, maxNewTokens, logits),
    }));
    const { token, ...memory } = tensors;
    this.token = token;
    this.memory = { ...memory, position: cache.end };
    this.choose(logits);
    for (const t of Object.values(tensors)) if (t) keep(t);
    this.coming.push(held(token.data()));
  }

  /**
   * The next token of each row, -1 where a logit was not finite; null at the end of the context.
   * @param wanted how many will be asked for from this one on: no more are computed
   */
  async next(wanted: number): Promise<ArrayLike<number> | null> {
    const { ahead = this.token.backend.kind === 'webgpu' ? 3 : 1 } = this.options;
    while (this.coming.length < Math.min(ahead, wanted) && this.cache.length < this.cache.context) {
      this.step();
      this.coming.push(held(this.token.data()));
    }
    return (await this.coming.shift()) ?? null;
  }

  /** Frees what it made, when what was computed ahead has come. */
  async dispose(): Promise<void> {
    await Promise.allSettled(this.coming);
    this.captured?.dispose();
    for (const t of [this.token, this.memory.seen, this.memory.draws]) t?.dispose();
  }

  /** Computes the token after the latest one. */
  private step(): void {
    const { decoder, cache, token } = this;
    if (cache.reserve(cache.length + 1)) {
      this.captured?.dispose();
      this.captured = null;
    }
    const body = () => this.choose(decoder.next(decoder.embed(token), cache));
    if (this.captured) {
      this.captured.replay();
      cache.countReplayed();
    } else if (this.steps++ === 0) scope(body);
    else this.captured = capture(token.backend, body);
  }

  private choose(logits: Tensor): void {
    chooseToken_(this.token, { logits, ...this.memory }, this.options);
  }
}

/** (B, V) u32: 1 for the tokens of each row's prompt. */
function seenIn(prompts: readonly (readonly number[])[], { backend, shape: [rows, vocabulary] }: Tensor): Tensor {
  const seen = new Uint32Array(rows * vocabulary);
  prompts.forEach((ids, row) => ids.forEach((id) => id >= 0 && (seen[row * vocabulary + id] = 1)));
  return fromData(backend, seen, [rows, vocabulary], 'u32');
}

/** (B, N): what is drawn for the new tokens of each row, the first at the position behind the prompt, mod N. */
function drawsFrom(
  seed: number,
  { length, context }: DecoderCache,
  most: number,
  { backend, shape: [rows] }: Tensor,
): Tensor {
  const n = Math.min(most, context);
  const random = new Random(seed);
  const draws = new Float32Array(rows * n);
  for (let row = 0; row < rows; row++) for (let j = 0; j < n; j++) draws[row * n + ((length + j) % n)] = random.uniform(0, 1);
  return fromData(backend, draws, [rows, n]);
}
