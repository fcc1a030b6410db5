import * as v from 'valibot';

export const count = (most: number) => v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(most));
const tokenId = v.pipe(v.number(), v.integer(), v.minValue(0));
const probability = v.pipe(v.number(), v.minValue(0), v.maxValue(0.999));
export const positive = v.pipe(v.number(), v.finite(), v.gtValue(0));
const share = v.pipe(v.number(), v.gtValue(0), v.maxValue(1));

/** One token id or several. */
export const tokenIds = v.optional(v.nullable(v.union([tokenId, v.array(tokenId)])));

/** Rotary settings as transformers 5 writes them, and `rope_scaling` of version 4 where it scales nothing. */
const UNSCALED = 'only rotary positions of type "default" are computed here; take a checkpoint that needs no scaling';
const RotarySchema = v.strictObject(
  {
    rope_type: v.optional(v.nullable(v.literal('default', UNSCALED))),
    type: v.optional(v.nullable(v.literal('default', UNSCALED))),
    rope_theta: v.optional(v.nullable(positive)),
    partial_rotary_factor: v.optional(v.nullable(share)),
  },
  UNSCALED,
);

/** The settings of rotary positions. */
export interface Rotary {
  /** Share of a head's dimensions that turn. */
  readonly partial_rotary_factor: number;
  readonly rope_theta: number;
}

/**
 * The fields of `text_config` that every family has. A family adds its own, and narrows what it computes in one way.
 * @param rotary what the family's rotary settings are where a file is silent
 * @param activations the names of its MLP's activation; the first where a file is silent
 */
export function decoderFields(rotary: Rotary, activations: readonly [string, ...string[]]) {
  return {
    model_type: v.string(),
    hidden_size: count(65536),
    num_attention_heads: count(1024),
    num_key_value_heads: v.optional(v.nullable(count(1024))),
    num_hidden_layers: count(1024),
    intermediate_size: count(1 << 20),
    vocab_size: count(1 << 22),
    partial_rotary_factor: v.optional(share, rotary.partial_rotary_factor),
    rope_theta: v.optional(positive, rotary.rope_theta),
    rope_parameters: v.optional(v.nullable(RotarySchema)),
    rope_scaling: v.optional(v.nullable(RotarySchema)),
    hidden_act: v.optional(v.picklist(activations), activations[0]),
    resid_pdrop: v.optional(probability, 0),
    embd_pdrop: v.optional(v.literal(0), 0),
    attention_dropout: v.optional(v.literal(0), 0),
    max_position_embeddings: v.optional(count(1 << 24), 2048),
    tie_word_embeddings: v.optional(v.literal(false), false),
    eos_token_id: tokenIds,
  };
}

type Fields = ReturnType<typeof decoderFields>;
/** What every family's `text_config` holds after it was checked. */
export type TextConfig = v.InferOutput<v.LooseObjectSchema<Fields, undefined>>;
/** And before. */
export type GivenTextConfig = v.InferInput<v.LooseObjectSchema<Fields, undefined>>;

/** KV heads; as many as heads where the configuration does not say. */
export function kvHeads(c: TextConfig): number {
  return c.num_key_value_heads ?? c.num_attention_heads;
}

/** Rotary dimensions of a head, from the front. */
export function rotaryDim(c: TextConfig): number {
  return Math.floor((c.hidden_size / c.num_attention_heads) * c.partial_rotary_factor);
}
