import * as v from 'valibot';
import { ConfigError } from '../../engine/errors.ts';
import { editDistance } from './suggest.ts';

const count = (most: number) => v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(most));
const probability = v.pipe(v.number(), v.minValue(0), v.maxValue(0.999));
const positive = v.pipe(v.number(), v.finite(), v.gtValue(0));

/** SigLIP's vision tower. */
const VisionSchema = v.looseObject({
  model_type: v.optional(v.picklist(['siglip_vision_model', 'siglip']), 'siglip_vision_model'),
  hidden_size: count(65536),
  num_attention_heads: count(1024),
  num_hidden_layers: count(1024),
  intermediate_size: count(1 << 20),
  image_size: count(16384),
  patch_size: count(1024),
  num_channels: v.optional(v.literal(3), 3),
  layer_norm_eps: v.optional(positive, 1e-6),
  hidden_act: v.optional(v.picklist(['gelu_pytorch_tanh']), 'gelu_pytorch_tanh'),
});

/** Phi's decoder. */
const TextSchema = v.looseObject({
  model_type: v.optional(v.literal('phi'), 'phi'),
  hidden_size: count(65536),
  num_attention_heads: count(1024),
  num_key_value_heads: v.optional(v.nullable(count(1024))),
  num_hidden_layers: count(1024),
  intermediate_size: count(1 << 20),
  vocab_size: count(1 << 22),
  layer_norm_eps: v.optional(positive, 1e-5),
  partial_rotary_factor: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(1)), 0.5),
  rope_theta: v.optional(positive, 10000),
  hidden_act: v.optional(v.picklist(['gelu_new', 'gelu_pytorch_tanh']), 'gelu_new'),
  resid_pdrop: v.optional(probability, 0),
  embd_pdrop: v.optional(v.literal(0), 0),
  attention_dropout: v.optional(v.literal(0), 0),
  max_position_embeddings: v.optional(count(1 << 24), 2048),
  qk_layernorm: v.optional(v.literal(false), false),
  tie_word_embeddings: v.optional(v.literal(false), false),
  bos_token_id: v.optional(v.nullable(v.number())),
  eos_token_id: v.optional(v.nullable(v.number())),
});

const ConfigSchema = v.looseObject({
  model_type: v.optional(v.string(), 'tinyllava'),
  connector_type: v.optional(v.literal('mlp2x_gelu'), 'mlp2x_gelu'),
  image_token_index: v.optional(v.literal(-200), -200),
  ignore_index: v.optional(v.literal(-100), -100),
  vision_feature_layer: v.optional(v.pipe(v.number(), v.integer()), -2),
  vision_feature_select_strategy: v.optional(v.picklist(['patch', 'cls_patch']), 'patch'),
  image_aspect_ratio: v.optional(v.picklist(['square', 'pad']), 'square'),
  tokenizer_model_max_length: v.optional(count(1 << 24), 2048),
  conv_version: v.optional(v.string(), 'phi'),
  text_config: TextSchema,
  vision_config: VisionSchema,
});

const MambaSchema = v.looseObject({
  d_model: count(65536),
  d_inner: count(65536),
  d_xb: count(65536),
  ssm_cfg: v.looseObject({
    expand: v.optional(v.literal(1), 1),
    ngroups: count(1024),
    d_state: count(1024),
  }),
  n_layer: count(1024),
  attn_layers: v.array(v.pipe(v.number(), v.integer(), v.minValue(0))),
  is_bias: v.optional(v.boolean(), false),
  bidirectional: v.optional(v.literal(false), false),
});

export type VisionConfig = v.InferOutput<typeof VisionSchema>;
export type TextConfig = v.InferOutput<typeof TextSchema>;
/** `config.json` of a checkpoint folder, as TinyLLaVA Factory writes it. */
export type ModelConfig = v.InferOutput<typeof ConfigSchema>;
/** `mamba_config.json` of a student folder. */
export type MambaConfig = v.InferOutput<typeof MambaSchema>;

/** A model's whole configuration; `mamba` is null for a pure transformer (the teacher). */
export interface MatvlmConfig {
  readonly model: ModelConfig;
  readonly mamba: MambaConfig | null;
}

function parse<T>(schema: v.GenericSchema<unknown, T>, json: unknown, file: string): T {
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const path = v.getDotPath(issue) ?? '(the whole file)';
  throw new ConfigError(`${file}: ${path}: ${issue.message}`);
}

/** Misspellings are looked for up to this distance, in words long enough that no other word is so near. */
const NEAR = 2;
const LONG = 8;

/**
 * Refuses a key that is one of ours misspelt: what it sets would else silently be the default. Keys that are nothing
 * like ours belong to other readers of the file.
 */
function checkSpelling(schema: { readonly entries: object }, json: unknown, file: string, at = ''): void {
  const known = Object.keys(schema.entries);
  for (const key of Object.keys(json as object)) {
    if (known.includes(key) || key.length < LONG) continue;
    const meant = known.find((name) => name.length >= LONG && editDistance(key, name) <= NEAR);
    if (!meant) continue;
    // Both may be there: then the other spelling is a key of its own.
    if (!Object.hasOwn(json as object, meant)) {
      throw new ConfigError(`${file}: unknown key ${at}${key}; did you mean "${meant}"?`);
    }
  }
}

/**
 * Checks the contents of `config.json` and, for a student, `mamba_config.json`.
 * @throws ConfigError naming file and field, before anything is allocated
 */
export function parseConfig(model: unknown, mamba: unknown = null, file = 'config.json'): MatvlmConfig {
  const config = { model: parse(ConfigSchema, model, file), mamba: null as MambaConfig | null };
  checkSpelling(ConfigSchema, model, file);
  checkSpelling(TextSchema, (model as ModelConfig).text_config, file, 'text_config.');
  checkSpelling(VisionSchema, (model as ModelConfig).vision_config, file, 'vision_config.');
  checkVision(config.model, file);
  checkText(config.model, file);
  if (mamba !== null) {
    config.mamba = parse(MambaSchema, mamba, 'mamba_config.json');
    checkSpelling(MambaSchema, mamba, 'mamba_config.json');
    checkMamba(config.model.text_config, config.mamba);
  }
  return config;
}

function checkVision({ vision_config: c, ...model }: ModelConfig, file: string): void {
  if (c.patch_size > c.image_size) {
    throw new ConfigError(`${file}: vision_config.patch_size ${c.patch_size} is larger than image_size ${c.image_size}`);
  }
  if (c.hidden_size % c.num_attention_heads !== 0) {
    throw new ConfigError(
      `${file}: vision_config.hidden_size ${c.hidden_size} is not a multiple of num_attention_heads ${c.num_attention_heads}`,
    );
  }
  const index = featureLayer(model.vision_feature_layer, c.num_hidden_layers);
  if (index < 0 || index > c.num_hidden_layers) {
    throw new ConfigError(
      `${file}: vision_feature_layer ${model.vision_feature_layer} is out of range for ${c.num_hidden_layers} layers`,
    );
  }
}

function checkText({ text_config: c }: ModelConfig, file: string): void {
  if (c.hidden_size % c.num_attention_heads !== 0) {
    throw new ConfigError(
      `${file}: text_config.hidden_size ${c.hidden_size} is not a multiple of num_attention_heads ${c.num_attention_heads}`,
    );
  }
  const kv = kvHeads(c);
  if (c.num_attention_heads % kv !== 0) {
    throw new ConfigError(
      `${file}: text_config.num_attention_heads ${c.num_attention_heads} is not a multiple of num_key_value_heads ${kv}`,
    );
  }
  if (rotaryDim(c) % 2 !== 0 || rotaryDim(c) < 2) {
    throw new ConfigError(`${file}: text_config.partial_rotary_factor gives ${rotaryDim(c)} rotary dimensions, expected an even number`);
  }
}

function checkMamba(text: TextConfig, c: MambaConfig): void {
  const heads = text.num_attention_heads;
  const headSize = text.hidden_size / heads;
  const expected: Record<string, [number, number]> = {
    d_model: [c.d_model, text.hidden_size],
    d_inner: [c.d_inner, text.hidden_size],
    d_xb: [c.d_xb, kvHeads(text) * headSize],
    'ssm_cfg.ngroups': [c.ssm_cfg.ngroups, heads],
    'ssm_cfg.d_state': [c.ssm_cfg.d_state, headSize],
    n_layer: [c.n_layer, text.num_hidden_layers],
  };
  for (const [field, [got, want]] of Object.entries(expected)) {
    if (got !== want) throw new ConfigError(`mamba_config.json: ${field} is ${got}, but config.json's text_config gives ${want}`);
  }
  const outside = c.attn_layers.find((i) => i >= c.n_layer);
  if (outside !== undefined || new Set(c.attn_layers).size !== c.attn_layers.length) {
    throw new ConfigError(`mamba_config.json: attn_layers must be distinct layers below ${c.n_layer}, got [${c.attn_layers}]`);
  }
}

/** KV heads; as many as heads where the configuration does not say. */
export function kvHeads(c: TextConfig): number {
  return c.num_key_value_heads ?? c.num_attention_heads;
}

/** Rotary dimensions of a head, from the front. */
export function rotaryDim(c: TextConfig): number {
  return Math.floor((c.hidden_size / c.num_attention_heads) * c.partial_rotary_factor);
}

/** Index into the tower's hidden states (0 = embeddings) that `vision_feature_layer` names. */
export function featureLayer(layer: number, layers: number): number {
  return layer < 0 ? layers + 1 + layer : layer;
}

/** Image tokens that reach the decoder. */
export function imageTokens({ vision_config: c, ...model }: ModelConfig): number {
  const patches = Math.floor(c.image_size / c.patch_size) ** 2;
  return model.vision_feature_select_strategy === 'patch' ? patches - 1 : patches;
}

/** Decoder layers that hold a Mamba-2 mixer. */
export function ssmLayers({ model, mamba }: MatvlmConfig): number[] {
  if (!mamba) return [];
  const attention = new Set(mamba.attn_layers);
  return Array.from({ length: model.text_config.num_hidden_layers }, (_, i) => i).filter((i) => !attention.has(i));
}

/** The `mamba_config.json` of a student that replaces these layers of a teacher. @throws ConfigError when out of range */
export function mambaConfig(text: TextConfig, layers: readonly number[], isBias = false): MambaConfig {
  const n = text.num_hidden_layers;
  for (const i of layers) {
    if (!Number.isInteger(i) || i < 0 || i >= n) {
      throw new ConfigError(`layers: ${i} is no layer of a decoder with ${n} layers; give numbers from 0 to ${n - 1}`);
    }
  }
  const headSize = text.hidden_size / text.num_attention_heads;
  return {
    d_model: text.hidden_size,
    ssm_cfg: { expand: 1, ngroups: text.num_attention_heads, d_state: headSize },
    layer_norm_eps: text.layer_norm_eps,
    vocab_size: null,
    d_inner: text.hidden_size,
    d_xb: kvHeads(text) * headSize,
    intermediate_size: text.intermediate_size,
    hidden_act: text.hidden_act,
    n_layer: n,
    attn_layers: Array.from({ length: n }, (_, i) => i).filter((i) => !layers.includes(i)),
    resid_pdrop: text.resid_pdrop,
    bidirectional: false,
    is_bias: isBias,
  };
}
