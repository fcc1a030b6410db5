/**
 * Keys of public configuration files beside those that `config.ts` reads: transformers' Phi, SigLIP, LLaVA, Mamba-2 and
 * generation settings, and TinyLLaVA Factory's. Each either must say what this package computes anyway, or has no
 * effect here. What only one family has stands in its file.
 */
import { ConfigError } from '../nn/errors.ts';
import { excerpt, quote } from '../../engine/excerpt.ts';
import { editDistance } from '../nn/did-you-mean.ts';

/** The only values that a key may have; `expected` says them to a user. */
export interface Rule {
  readonly expected: string;
  readonly accepts: (value: unknown) => boolean;
}

export type Rules = Readonly<Record<string, Rule>>;

/** What a part of a configuration may hold. */
export interface Part {
  readonly file: string;
  /** The keys that lead to the part, such as `text_config.`. */
  readonly at: string;
  /** Keys that the schema reads. */
  readonly read: readonly string[];
  readonly rules: Rules;
  /** Keys without effect on what is computed here. */
  readonly inert: ReadonlySet<string>;
  /** Whether all that the part holds describes a computation, so that an unknown key cannot be passed over. */
  readonly closed: boolean;
}

/** Keys that one object may hold: far above any real one. */
const KEY_LIMIT = 1000;
/** Misspellings are looked for up to this distance and one letter in five, in words so long that few are so near. */
const NEAR = 2;
const LONG = 8;

/** Absent in effect: null, false, 0, an empty text, list or object. */
function isNeutral(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0;
  return !value;
}

/** One of these values, or one that is as good as absent. */
export function only(...values: readonly unknown[]): Rule {
  return {
    expected: values.length > 0 ? values.map((value) => excerpt(value)).join(' or ') : 'none',
    accepts: (value) => isNeutral(value) || values.includes(value),
  };
}

/** Exactly one of these values, or null. */
export function exactly(...values: readonly unknown[]): Rule {
  return {
    expected: values.map((value) => excerpt(value)).join(' or '),
    accepts: (value) => value === null || values.includes(value),
  };
}

/** The value that another key has, by the name of that key, or null. */
export function same(value: unknown, key: string): Rule {
  return { expected: `${excerpt(value)} as ${key} gives`, accepts: (given) => given === null || given === value };
}

/** A list whose every item is `item`, or null. */
export function all(item: unknown): Rule {
  return {
    expected: `${excerpt(item)} throughout`,
    accepts: (given) => isNeutral(given) || (Array.isArray(given) && given.every((x) => x === item)),
  };
}

/**
 * Checks every key of a part that its schema does not read: misspelt, of another value than is computed here, or, in a
 * closed part, unknown.
 * @throws ConfigError naming file and key
 */
export function checkFields(json: unknown, part: Part): void {
  if (Array.isArray(json)) {
    throw new ConfigError(`${part.file}: ${part.at || 'the whole file'} is a list, expected an object`);
  }
  const keys = Object.keys(json as object);
  if (keys.length > KEY_LIMIT) {
    const found = `${part.at}… has ${keys.length} keys, expected at most ${KEY_LIMIT}`;
    throw new ConfigError(`${part.file}: ${found}; this is not the file it should be`);
  }
  const object = json as Readonly<Record<string, unknown>>;
  for (const key of keys) {
    if (part.read.includes(key) || part.inert.has(key)) continue;
    if (Object.hasOwn(part.rules, key)) {
      const { expected, accepts } = part.rules[key];
      if (accepts(object[key])) continue;
      throw new ConfigError(
        `${part.file}: ${part.at}${key} is ${excerpt(object[key])}, which is not computed here (expected ${expected}): ` +
          'take a checkpoint without it, or remove the key if the weights do not need it',
      );
    }
    // Where both spellings are there the other is a key of its own.
    const meant = misspelt(key, [...part.read, ...Object.keys(part.rules)]);
    if (meant !== undefined && !Object.hasOwn(object, meant)) {
      throw new ConfigError(`${part.file}: unknown key ${quote(part.at + key)}; did you mean "${meant}"?`);
    }
    if (part.closed && !isNeutral(object[key])) {
      throw new ConfigError(
        `${part.file}: unknown key ${quote(part.at + key)} with ${excerpt(object[key])} may change what is computed: ` +
          'take a checkpoint without it, or remove the key if the weights do not need it',
      );
    }
  }
}

/** The known key that another one misspells; what it sets would else silently be passed over. */
function misspelt(key: string, known: readonly string[]): string | undefined {
  if (key.length < LONG) return undefined;
  const most = Math.min(NEAR, Math.floor(key.length / 5));
  const near = (name: string) => name.length >= LONG && Math.abs(name.length - key.length) <= most;
  return known.find((name) => near(name) && editDistance(key, name) <= most);
}

const words = (text: string) => text.trim().split(/\s+/);

/** What every transformers configuration may hold, of no effect on the arithmetic of a pass. */
const COMMON = words(`
  _name_or_path name_or_path _commit_hash _attn_implementation attn_implementation attn_implementation_internal
  _attn_implementation_internal _flash_attn_2_enabled auto_map transformers_version architectures torch_dtype dtype
  torchscript use_bfloat16 tf_legacy_loss return_dict output_attentions output_hidden_states use_cache
  gradient_checkpointing chunk_size_feed_forward initializer_range initializer_factor id2label label2id num_labels
  problem_type finetuning_task task_specific_params prefix tokenizer_class decoder_start_token_id pad_token_id
  bos_token_id sep_token_id unsloth_version unsloth_fixed`);

/** Settings of generation that the caller chooses here, whatever a file proposes, or that only beams would read. */
const SAMPLING = words(`
  do_sample temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff max_length max_new_tokens max_time
  num_return_sequences length_penalty early_stopping num_beam_groups diversity_penalty return_dict_in_generate
  output_scores output_logits output_attentions output_hidden_states remove_invalid_values renormalize_logits
  cache_implementation use_cache trust_remote_code transformers_version _from_model_config pad_token_id bos_token_id
  decoder_start_token_id assistant_confidence_threshold num_assistant_tokens num_assistant_tokens_schedule
  target_lookbehind assistant_lookbehind is_assistant disable_compile low_memory`);

/** Settings of generation that change the likeliest answer. */
export const DECODING_RULES: Rules = {
  ...Object.fromEntries(
    words(`no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids force_words_ids constraints suppress_tokens
      begin_suppress_tokens forced_bos_token_id forced_eos_token_id forced_decoder_ids sequence_bias min_length
      min_new_tokens exponential_decay_length_penalty stop_strings penalty_alpha dola_layers watermarking_config
      prompt_lookup_num_tokens token_healing`).map((key) => [key, only()]),
  ),
  repetition_penalty: exactly(1),
  encoder_repetition_penalty: exactly(1),
  num_beams: exactly(1),
  guidance_scale: exactly(1),
};

/** How the weights of a checkpoint are stored, by the names that several tools give it. */
export const QUANTIZED: Rules = Object.fromEntries(
  ['quantization_config', 'compression_config', 'quantization'].map((key) => [key, only()]),
);

const inert = (...lists: readonly (readonly string[])[]) => new Set(lists.flat());

/** Keys without effect in each part of `config.json` and `mamba_config.json`, and in `generation_config.json`. */
export const INERT = {
  config: inert(
    COMMON,
    SAMPLING,
    words(`image_grid_pinpoints num_queries num_resampler_layers resampler_hidden_size pad_token tokenizer_padding_side
      tokenizer_use_fast cache_dir llm_model_name_or_path tokenizer_name_or_path vision_model_name_or_path
      tune_type_llm tune_type_connector tune_type_vision_tower tune_vision_tower_from_layer`),
  ),
  text: inert(COMMON, SAMPLING, ['max_window_layers', 'pretraining_tp']),
  // Older files have all that any model of transformers could have, for the tower too.
  vision: inert(COMMON, SAMPLING, Object.keys(DECODING_RULES), words(`
      model_name_or_path vision_use_head projection_dim tie_word_embeddings`)),
  mamba: inert(COMMON, ['pad_vocab_size_multiple', 'fused_add_norm', 'residual_in_fp32']),
  generation: inert(SAMPLING),
  ssm: inert(
    words(`chunk_size dt_min dt_max dt_init_floor A_init_range conv_init use_mem_eff_path layer_idx device dtype
      time_step_min time_step_max time_step_floor time_step_rank rescale_prenorm_residual`),
  ),
} as const;

/** Keys of a transformers decoder that are taken only with the value that is computed here. */
export const DECODER_RULES: Rules = {
  ...DECODING_RULES,
  layer_types: all('full_attention'),
  is_causal: exactly(true),
  logit_scale: exactly(1),
  embedding_multiplier: exactly(1),
  residual_multiplier: exactly(1),
};

/** Three times the same number, as an image processor's mean or deviation. */
function grey(value: number): Rule {
  return {
    expected: `[${value}, ${value}, ${value}]`,
    accepts: (given) => given === null || (Array.isArray(given) && given.length === 3 && given.every((x) => x === value)),
  };
}

/**
 * `preprocessor_config.json`: images are prepared as SigLIP's own processor does, see `preprocess`.
 * @param size the side of the square that the tower takes
 * @throws ConfigError for a step that is not that processor's
 */
export function checkPreprocessor(json: unknown, file: string, size: number): void {
  const square: Rule = {
    expected: `{"height": ${size}, "width": ${size}}, vision_config.image_size`,
    accepts: (given) => {
      if (typeof given !== 'object' || given === null) return given === null || given === size;
      const { height, width, ...rest } = given as Record<string, unknown>;
      return height === size && width === size && isNeutral(rest);
    },
  };
  const rules: Rules = {
    size: square,
    image_mean: grey(0.5),
    image_std: grey(0.5),
    resample: exactly(3),
    rescale_factor: {
      expected: '1/255',
      accepts: (given) => given === null || (typeof given === 'number' && Math.abs(given * 255 - 1) < 1e-6),
    },
    ...Object.fromEntries(
      ['do_resize', 'do_rescale', 'do_normalize', 'do_convert_rgb'].map((key) => [key, exactly(true)]),
    ),
    do_center_crop: only(),
    do_pad: only(),
    do_image_splitting: only(),
    do_flip_channel_order: only(),
  };
  checkFields(json, { file, at: '', read: [], rules, inert: inert(), closed: false });
}
