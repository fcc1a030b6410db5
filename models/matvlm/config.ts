import * as v from 'valibot';
import { ConfigError } from '../nn/errors.ts';
import { cut, excerpt } from '../../engine/excerpt.ts';
import { checkFields, DECODER_RULES, DECODING_RULES, exactly, INERT, only, QUANTIZED, type Rules, same } from './config-keys.ts';
import { familyOf, TextSchema } from './families/index.ts';
import {
  count,
  type GivenTextConfig,
  kvHeads,
  positive,
  type Rotary,
  rotaryDim,
  type TextConfig,
  tokenIds,
} from './families/text-config.ts';

export { kvHeads, rotaryDim, type TextConfig } from './families/text-config.ts';

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
  eos_token_id: tokenIds,
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
/** `config.json` of a checkpoint folder, as TinyLLaVA Factory writes it. */
export type ModelConfig = v.InferOutput<typeof ConfigSchema>;
type GivenConfig = v.InferInput<typeof ConfigSchema> & { readonly text_config: GivenTextConfig };
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
  const path = cut(v.getDotPath(issue) ?? '(the whole file)', 200);
  // Of an unknown key the issue's own input is its name.
  const found = issue.path ? issue.path.at(-1)?.value : issue.input;
  throw new ConfigError(`${file}: ${path} is ${excerpt(found)}: ${cut(issue.message, 200)}`);
}

/**
 * Checks the contents of `config.json` and, for a student, `mamba_config.json`.
 * @throws ConfigError naming file and field, before anything is allocated
 */
export function parseConfig(model: unknown, mamba: unknown = null, file = 'config.json'): MatvlmConfig {
  const parsed = parse(ConfigSchema, model, file);
  const given = model as GivenConfig;
  const config = { ...parsed, text_config: withRotary(parsed.text_config, given.text_config, file) };
  checkVision(config, file);
  checkText(config, file);
  checkModelFields(config, given, file);
  if (mamba === null) return { model: config, mamba: null };
  const hybrid = parse(MambaSchema, mamba, 'mamba_config.json');
  checkMamba(config.text_config, hybrid);
  checkMambaFields(config.text_config, hybrid);
  return { model: config, mamba: hybrid };
}

/**
 * The rotary settings that count: those in `rope_parameters` (or `rope_scaling`) win over a value beside it that is
 * the family's default, as transformers 5 may leave one there; any other difference is a ConfigError that names both.
 */
function withRotary(parsed: TextConfig, given: GivenTextConfig, file: string): TextConfig {
  const { rotary } = familyOf(parsed);
  const settings: { -readonly [K in keyof Rotary]: number } = { ...rotary };
  for (const key of Object.keys(rotary) as (keyof Rotary)[]) {
    const places = (['rope_parameters', 'rope_scaling'] as const).map((place) => [`${place}.${key}`, given[place]?.[key]]);
    const beside = given[key] === rotary[key] ? undefined : given[key];
    const said = [...places, [key, beside]].filter(([, value]) => value !== undefined && value !== null);
    const [first, ...others] = said as [string, number][];
    const odd = others.find(([, value]) => value !== first[1]);
    if (odd) {
      throw new ConfigError(
        `${file}: text_config.${first[0]} is ${first[1]}, but text_config.${odd[0]} is ${odd[1]}: ` +
          'keep the one that the weights were trained with',
      );
    }
    if (first) settings[key] = first[1];
  }
  return { ...parsed, ...settings };
}

const fieldsOf = (schema: { readonly entries: object }) => Object.keys(schema.entries);

const GenerationSchema = v.looseObject({ eos_token_id: tokenIds });

/**
 * A configuration with the ids that `generation_config.json` ends answers at, so that copies of the model keep them.
 * @throws ConfigError for a setting that changes the likeliest answer
 */
export function withGeneration(config: MatvlmConfig, json: unknown, file: string): MatvlmConfig {
  const { eos_token_id } = parse(GenerationSchema, json, file);
  const [read, rules] = [fieldsOf(GenerationSchema), DECODING_RULES];
  checkFields(json, { file, at: '', read, rules, inert: INERT.generation, closed: false });
  const ends = [...new Set([...endIds(config.model), ...[eos_token_id ?? []].flat()])];
  const model = ends.length > 0 ? { ...config.model, eos_token_id: ends } : config.model;
  checkText(model, file);
  return { ...config, model };
}

/** Keys of a part beside the part itself, where older files have some of them: they can only repeat it. */
function repeated(part: TextConfig | VisionConfig, schema: { readonly entries: object }, at: string): Rules {
  const values = part as Readonly<Record<string, unknown>>;
  return Object.fromEntries(fieldsOf(schema).map((key) => [key, same(values[key], `${at}.${key}`)]));
}

/** Every key of `config.json` beside those of the schemas. */
function checkModelFields(config: ModelConfig, given: GivenConfig, file: string): void {
  const { text_config: text, vision_config: vision } = config;
  const { schema } = familyOf(text);
  const rules: Rules = {
    ...DECODER_RULES,
    ...QUANTIZED,
    ...repeated(vision, VisionSchema, 'vision_config'),
    ...repeated(text, schema, 'text_config'),
    vision_hidden_size: same(vision.hidden_size, 'vision_config.hidden_size'),
    num_key_value_heads: same(kvHeads(text), 'text_config.num_key_value_heads'),
    rope_parameters: only(),
    rope_scaling: only(),
    sliding_window: only(),
    vision_model_name_or_path2: only(),
    projector_hidden_act: exactly('gelu'),
    multimodal_projector_bias: exactly(true),
    image_seq_length: same(imageTokens(config), 'vision_config'),
    image_token_id: same(config.image_token_index, 'image_token_index'),
    mm_projector_type: same(config.connector_type, 'connector_type'),
    mm_vision_select_layer: same(config.vision_feature_layer, 'vision_feature_layer'),
    mm_vision_select_feature: same(config.vision_feature_select_strategy, 'vision_feature_select_strategy'),
    mm_use_im_start_end: only(),
    mm_use_im_patch_token: only(),
  };
  checkFields(given, { file, at: '', read: fieldsOf(ConfigSchema), rules, inert: INERT.config, closed: false });
  checkFields(given.text_config, {
    file,
    at: 'text_config.',
    read: fieldsOf(schema),
    rules: {
      ...DECODER_RULES,
      ...QUANTIZED,
      head_dim: same(text.hidden_size / text.num_attention_heads, 'hidden_size / num_attention_heads'),
      rotary_dim: same(rotaryDim(text), 'partial_rotary_factor'),
      // Without use_sliding_window, as Qwen2's configurations have it, the number means nothing.
      sliding_window: given.text_config.use_sliding_window === false ? { expected: 'any', accepts: () => true } : only(),
    },
    inert: INERT.text,
    closed: true,
  });
  checkFields(given.vision_config, {
    file,
    at: 'vision_config.',
    read: fieldsOf(VisionSchema),
    rules: QUANTIZED,
    inert: INERT.vision,
    closed: true,
  });
}

/** Every key of `mamba_config.json` beside those of the schema. */
function checkMambaFields(text: TextConfig, mamba: MambaConfig): void {
  const { normEps, activations } = familyOf(text);
  const repeats = ['vocab_size', 'intermediate_size', 'resid_pdrop', normEps];
  const rules: Rules = {
    ...Object.fromEntries(repeats.map((key) => [key, same(text[key], 'config.json')])),
    hidden_act: exactly(...activations),
    out_bias: same(mamba.is_bias, 'is_bias'),
  };
  const file = 'mamba_config.json';
  checkFields(mamba, { file, at: '', read: fieldsOf(MambaSchema), rules, inert: INERT.mamba, closed: true });
  checkFields(mamba.ssm_cfg, {
    file,
    at: 'ssm_cfg.',
    read: fieldsOf(MambaSchema.entries.ssm_cfg),
    rules: {
      d_conv: exactly(4),
      conv_kernel: exactly(4),
      headdim: same(mamba.d_inner / mamba.ssm_cfg.ngroups, 'd_inner / ngroups'),
      conv_bias: exactly(true),
      bias: same(mamba.is_bias, 'is_bias'),
      activation: exactly('silu', 'swish'),
      rmsnorm: exactly(true),
      layer: exactly('Mamba2'),
    },
    inert: INERT.ssm,
    closed: true,
  });
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

function checkText({ text_config: c, ...model }: ModelConfig, file: string): void {
  const end = endIds({ ...model, text_config: c }).find((id) => id >= c.vocab_size);
  if (end !== undefined) {
    throw new ConfigError(`${file}: eos_token_id ${end} is not below text_config.vocab_size ${c.vocab_size}`);
  }
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

/** Ids at which `config.json` ends an answer, in either of its places. */
export function endIds({ eos_token_id, text_config }: ModelConfig): number[] {
  return [...new Set([eos_token_id, text_config.eos_token_id].flat())].filter((id) => typeof id === 'number');
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
  const { normEps } = familyOf(text);
  return {
    d_model: text.hidden_size,
    ssm_cfg: { expand: 1, ngroups: text.num_attention_heads, d_state: headSize },
    [normEps]: text[normEps],
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
