import { ArgumentError } from '../../engine/errors.ts';
import { NumericError } from '../nn/errors.ts';
import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { yieldToEventLoop } from '../nn/event-loop.ts';
import type { DecoderCache } from '../nn/cache.ts';
import { checkSampling, type SamplingOptions } from '../nn/sampling.ts';
import type { MaTVLM } from './model.ts';
import { TokenStream } from './token-stream.ts';
import { IMAGE_ID } from './template.ts';

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to make at most, beyond the prompt. */
  readonly maxNewTokens?: number;
  /** Ids that end the text. */
  readonly stopIds?: readonly number[];
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/**
 * Runs a prompt with an image in place of its placeholder.
 * @param pixels (1, 3, size, size); null for a prompt without an image
 * @param cache what came before; it takes up the prompt's positions
 * @returns the logits after the last position, (1, V)
 * @throws ArgumentError for a prompt that is empty or longer than the context, an id out of range, a placeholder without
 *   an image or an image without a placeholder
 */
export function prefill(model: MaTVLM, ids: readonly number[], pixels: Tensor | null, cache: DecoderCache): Tensor {
  checkPrompt(model, ids, pixels !== null);
  return noGrad(() =>
    scope(() => {
      const embeds = pixels
        ? model.splice({ ids: [ids] }, model.connector.forward(model.visionFeatures(pixels))).embeds
        : model.decoder.embed(fromData(model.backend, ids, [1, ids.length], 'i32'));
      checkContext(model, cache.length + embeds.shape[1]);
      return model.decoder.next(embeds, cache);
    }),
  );
}

/** Runs one more token of each row. @param cache what came before; it takes up the tokens  @returns logits (B, V) */
export function decodeStep(model: MaTVLM, ids: readonly number[], cache: DecoderCache): Tensor {
  return scope(() => {
    const tokens = fromData(model.backend, ids, [ids.length, 1], 'i32');
    return model.decoder.next(model.decoder.embed(tokens), cache);
  });
}

function checkPrompt(model: MaTVLM, ids: readonly number[], image: boolean): void {
  const rows = model.config.model.text_config.vocab_size;
  if (ids.length === 0) throw new ArgumentError('the prompt holds no token');
  const odd = ids.find((id) => id !== IMAGE_ID && !(Number.isInteger(id) && id >= 0 && id < rows));
  if (odd !== undefined) throw new ArgumentError(`the prompt holds id ${odd}, expected 0 to ${rows - 1} or ${IMAGE_ID}`);
  const place = ids.includes(IMAGE_ID);
  if (place && !image) throw new ArgumentError(`the prompt has a place for an image (${IMAGE_ID}); give its pixels too`);
  if (image && !place) {
    throw new ArgumentError(`the prompt has no place for the image; put ${IMAGE_ID} where it belongs, or give no pixels`);
  }
}

/** @throws ArgumentError naming both lengths */
export function checkContext(model: MaTVLM, length: number): void {
  const most = model.config.model.text_config.max_position_embeddings;
  if (length > most) {
    throw new ArgumentError(`the prompt has ${length} positions, the model's context ${most}; ask something shorter`);
  }
}

/**
 * Token ids, one at a time. Ends at a stop id (which is not given out), at `maxNewTokens`, at the end of the context,
 * or when the signal aborts, and frees everything it made, also when the caller stops early.
 * @throws ArgumentError for a prompt or an option that `prefill` or `checkSampling` refuses; NumericError when a logit is
 *   not finite
 */
export async function* generateIds(
  model: MaTVLM,
  ids: readonly number[],
  pixels: Float32Array | null,
  options: GenerateOptions = {},
): AsyncGenerator<number> {
  checkSampling(options);
  const { maxNewTokens = 64, stopIds = [], signal } = options;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new ArgumentError(`maxNewTokens is ${maxNewTokens}, expected a whole number from 0`);
  }
  if (signal?.aborted || maxNewTokens === 0) return;
  const cache = model.decoder.cache();
  const size = model.config.model.vision_config.image_size;
  let tokens: TokenStream | null = null;
  try {
    tokens = scope(() => {
      const image = pixels && fromData(model.backend, pixels, [1, 3, size, size]);
      const logits = prefill(model, ids, image, cache);
      return new TokenStream(model.decoder, cache, logits, { ...options, prompts: [ids], maxNewTokens });
    });
    for (let made = 0; made < maxNewTokens; made++) {
      const chosen = await tokens.next(maxNewTokens - made);
      await yieldToEventLoop();
      if (!chosen || signal?.aborted || stopIds.includes(chosen[0])) return;
      if (chosen[0] < 0) throw new NumericError('a logit is not finite; the weights or the backend are broken');
      yield chosen[0];
      if (signal?.aborted) return;
    }
  } finally {
    await tokens?.dispose();
    cache.dispose();
  }
}
