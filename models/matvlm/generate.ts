import { ArgumentError } from '../../engine/errors.ts';
import { Random } from '../../engine/random.ts';
import { keep, scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { slice } from '../../ops/index.ts';
import { breathe } from '../nn/breathe.ts';
import { type DecoderState, disposeState, mapState } from './layers/state.ts';
import type { MaTVLM } from './model.ts';
import { checkSampling, chooseToken, type SamplingOptions } from '../nn/sampling.ts';
import { IMAGE_ID } from './template.ts';

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to make at most, beyond the prompt. */
  readonly maxNewTokens?: number;
  /** Ids that end the text. */
  readonly stopIds?: readonly number[];
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/** The last position's logits and the state after it. */
export interface Step {
  readonly logits: Tensor;
  readonly state: DecoderState;
}

/**
 * Runs a prompt with an image in place of its placeholder.
 * @param pixels (1, 3, size, size); null for a prompt without an image
 * @throws ArgumentError for a prompt that is empty or longer than the context, an id out of range, a placeholder without
 *   an image or an image without a placeholder
 */
export function prefill(model: MaTVLM, ids: readonly number[], pixels: Tensor | null): Step {
  checkPrompt(model, ids, pixels !== null);
  return noGrad(() =>
    scope(() => {
      const embeds = pixels
        ? model.splice({ ids: [ids] }, model.connector.forward(model.visionFeatures(pixels))).embeds
        : model.decoder.embed(fromData(model.backend, ids, [1, ids.length], 'i32'));
      checkContext(model, embeds.shape[1]);
      return lastStep(model, embeds, null);
    }),
  );
}

/** Runs one more token on a state. */
export function decodeStep(model: MaTVLM, id: number, past: DecoderState): Step {
  return noGrad(() =>
    scope(() => lastStep(model, model.decoder.embed(fromData(model.backend, [id], [1, 1], 'i32')), past)),
  );
}

function lastStep(model: MaTVLM, embeds: Tensor, past: DecoderState | null): Step {
  const { hidden, state } = model.decoder.forward(embeds, { past });
  return { logits: model.decoder.logits(slice(hidden.at(-1)!, 1, -1)), state };
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
 */
export async function* generateIds(
  model: MaTVLM,
  ids: readonly number[],
  pixels: Float32Array | null,
  options: GenerateOptions = {},
): AsyncGenerator<number> {
  checkSampling(options);
  const { maxNewTokens = 64, stopIds = [], seed = 0, signal } = options;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new ArgumentError(`maxNewTokens is ${maxNewTokens}, expected a whole number from 0`);
  }
  if (signal?.aborted || maxNewTokens === 0) return;
  const random = new Random(seed);
  const seen = new Set(ids.filter((id) => id >= 0));
  const context = model.config.model.text_config.max_position_embeddings;
  let step = keepStep(start(model, ids, pixels));
  try {
    for (let made = 0; made < maxNewTokens && !signal?.aborted; made++) {
      const logits = Float32Array.from(await step.logits.data());
      await breathe();
      if (signal?.aborted) return;
      const id = chooseToken(logits, seen, options, random);
      if (stopIds.includes(id)) return;
      seen.add(id);
      yield id;
      if (made + 1 === maxNewTokens || step.state.length >= context) return;
      const next = keepStep(decodeStep(model, id, step.state));
      disposeStep(step);
      step = next;
    }
  } finally {
    disposeStep(step);
  }
}

function start(model: MaTVLM, ids: readonly number[], pixels: Float32Array | null): Step {
  const size = model.config.model.vision_config.image_size;
  return scope(() => prefill(model, ids, pixels && fromData(model.backend, pixels, [1, 3, size, size])));
}

function keepStep(step: Step): Step {
  return { logits: keep(step.logits), state: mapState(step.state, keep) };
}

function disposeStep(step: Step): void {
  step.logits.dispose();
  disposeState(step.state);
}
