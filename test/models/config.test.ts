// Configuration files: every key is honoured, must say what is computed anyway, or has no effect; untrusted JSON.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { KernelError, MatvlmError } from '../../engine/errors.ts';
import { ConfigError } from '../../models/nn/errors.ts';
import { excerpt, quote } from '../../engine/excerpt.ts';
import { parseJson } from '../../models/nn/json.ts';
import { filesFolder } from '../../engine/safetensors/index.ts';
import { endIds, mambaConfig, type ModelConfig, parseConfig, rotaryDim } from '../../models/matvlm/config.ts';
import { tinyConfig } from '../../models/matvlm/presets.ts';
import { readConfig } from '../../models/matvlm/weights.ts';
import { rejects, throws } from '../support/expect.ts';

type Fields = Record<string, unknown>;
const base = tinyConfig({ size: 70, bosId: 0, eosId: 0 }) as Fields & { text_config: Fields; vision_config: Fields };
const withText = (fields: Fields): Fields => ({ ...base, text_config: { ...base.text_config, ...fields } });
const withVision = (fields: Fields): Fields => ({ ...base, vision_config: { ...base.vision_config, ...fields } });

const refused = (model: unknown, says: RegExp, mamba: unknown = null) =>
  throws(() => parseConfig(model, mamba), ConfigError, says);

const rotary = suite('rotary settings');

/** Heads of 80 dimensions; the factor beside `rope_parameters` is left out unless given. */
function text(fields: Fields): ModelConfig['text_config'] {
  const { partial_rotary_factor, ...rest } = base.text_config;
  assert.is(partial_rotary_factor, 0.5);
  return parseConfig({ ...base, text_config: { ...rest, hidden_size: 320, ...fields } }).model.text_config;
}

rotary('rope_parameters are honoured, and win over a default beside them', () => {
  const inside = { rope_type: 'default', rope_theta: 1e6, partial_rotary_factor: 0.4 };
  const rows: [Fields, dim: number, theta: number][] = [
    [{ rope_parameters: inside }, 32, 1e6],
    [{ rope_parameters: inside, partial_rotary_factor: 0.5, rope_theta: 10000 }, 32, 1e6],
    [{ rope_parameters: inside, rope_scaling: null }, 32, 1e6],
    [{ rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.4 }, rope_theta: 5000 }, 32, 5000],
    [{ rope_parameters: { rope_theta: 5000 }, rope_theta: 5000 }, 40, 5000],
    [{ rope_scaling: { type: 'default', rope_theta: 20000 } }, 40, 20000],
    [{}, 40, 10000],
  ];
  for (const [fields, dim, theta] of rows) {
    const c = text(fields);
    assert.equal([rotaryDim(c), c.rope_theta], [dim, theta], JSON.stringify(fields));
  }
});

rotary('what is written is read again as the same', () => {
  const c = parseConfig(withText({ rope_parameters: { partial_rotary_factor: 0.25, rope_theta: 7 } }));
  assert.equal(parseConfig(JSON.parse(JSON.stringify(c.model))), c);
});

rotary('other conflicts name both, scaled positions are refused by name', () => {
  const inner = { rope_theta: 1e6, partial_rotary_factor: 0.4 };
  const rows: [Fields, RegExp][] = [
    [
      { rope_theta: 5000, rope_parameters: inner },
      /text_config.rope_parameters.rope_theta is 1000000, but text_config.rope_theta is 5000:/,
    ],
    [
      { partial_rotary_factor: 0.25, rope_parameters: inner },
      /rope_parameters.partial_rotary_factor is 0.4, but text_config.partial_rotary_factor is 0.25/,
    ],
    [{ rope_scaling: { rope_theta: 7 }, rope_parameters: inner }, /rope_parameters.*but.*rope_scaling.rope_theta is 7/],
    ...['yarn', 'linear', 'dynamic', 'longrope', 'llama3'].flatMap((type): [Fields, RegExp][] => [
      [{ rope_parameters: { rope_type: type, factor: 4 } }, new RegExp(`rope_type is "${type}": only rotary`)],
      [{ rope_scaling: { type, factor: 4 } }, new RegExp(`rope_scaling.type is "${type}": only rotary`)],
    ]),
    [{ rope_scaling: { factor: 2 } }, /rope_scaling.factor is 2: only rotary/],
    [{ rope_scaling: { ['x'.repeat(1e6)]: 2 } }, /^config.json: text_config.rope_scaling.x{170,180}… is 2: .{9,300}$/],
    [{ rope_parameters: { full_attention: inner } }, /rope_parameters.full_attention/],
  ];
  for (const [fields, says] of rows) refused(withText(fields), says);
  refused({ ...base, rope_theta: 5 }, /rope_theta is 5/);
});

const keys = suite('keys of public configurations');

keys('those that change the computation are refused by name, with what to do', () => {
  const cases: [unknown, RegExp][] = [
    [{ ...base, quantization_config: { bits: 4 } }, /config.json: quantization_config is \{"bits": 4\}, which is not computed/],
    [withText({ quantization_config: { bits: 4 } }), /text_config.quantization_config/],
    [{ ...base, quantization: { bits: 4 } }, /config.json: quantization is \{"bits": 4\}/],
    [{ ...base, compression_config: { format: 'int8' } }, /config.json: compression_config is/],
    [withText({ sliding_window: 4096 }), /text_config.sliding_window is 4096/],
    [withText({ use_sliding_window: true, sliding_window: 4096 }), /sliding_window/],
    [withText({ layer_types: ['full_attention', 'sliding_attention'] }), /layer_types/],
    [withText({ head_dim: 64 }), /text_config.head_dim is 64, .*expected 32 as hidden_size/],
    [withText({ qk_layernorm: true }), /qk_layernorm/],
    [withText({ tie_word_embeddings: true }), /tie_word_embeddings/],
    [withText({ attn_logit_softcapping: 50 }), /unknown key "text_config.attn_logit_softcapping" with 50 may change/],
    [withText({ repetition_penalty: 1.2 }), /repetition_penalty is 1.2/],
    [withText({ is_causal: false }), /is_causal is false/],
    [withVision({ attention_dropout: 0.1 }), /vision_config.*attention_dropout/],
    [withVision({ num_registers: 4 }), /unknown key "vision_config.num_registers"/],
    [withVision({ model_type: 'clip_vision_model' }), /vision_config.model_type is "clip_vision_model"/],
    [{ ...base, hidden_size: 64 }, /config.json: hidden_size is 64, .*expected 128 as text_config.hidden_size/],
    [{ ...base, vision_hidden_size: 64 }, /vision_hidden_size is 64/],
    [{ ...base, vision_feature_select_strategy: 'default' }, /vision_feature_select_strategy is "default"/],
    [{ ...base, mm_use_im_start_end: true }, /mm_use_im_start_end is true/],
    [{ ...base, multimodal_projector_bias: false }, /multimodal_projector_bias is false/],
    [{ ...base, image_seq_length: 576 }, /image_seq_length is 576, .*expected 64/],
    [withText({ num_hidden_layers: 1e9 }), /text_config.num_hidden_layers/],
    [withText({ num_attention_heads: 3 }), /hidden_size 128 is not a multiple of num_attention_heads 3/],
    [withVision({ patch_size: 65 }), /patch_size 65 is larger than image_size 64/],
    [withText({ eos_token_id: [0, 70] }), /eos_token_id 70 is not below text_config.vocab_size 70/],
  ];
  for (const [model, says] of cases) refused(model, says);
});

keys('those without effect, or that say what is computed anyway, are taken', () => {
  const taken = [
    { ...base, hidden_size: 128, vocab_size: 70, architectures: ['X'], tokenizer_padding_side: 'right', mine: [1] },
    withText({ sliding_window: 4096, use_sliding_window: false, max_window_layers: 3, head_dim: 32, pretraining_tp: 1 }),
    withText({ layer_types: Array(8).fill('full_attention'), _name_or_path: 'x', torch_dtype: 'float16', pad_token_id: 3 }),
    withText({ quantization_config: null, attn_logit_softcapping: null, pruned_heads: {}, temperature: 1, top_k: 50 }),
    withVision({ model_name_or_path: 'x', model_name_or_path2: '', vision_use_head: false, attention_dropout: 0 }),
    withVision({ tie_word_embeddings: true, num_beams: 1, repetition_penalty: 1, top_k: 50, max_length: 20, bad_words_ids: null }),
  ];
  for (const model of taken) assert.ok(parseConfig(model));
});

/** The base with one key of it, or of a part of it, by another name. */
const renamed = (from: string, to: string, part?: 'text_config'): Fields => {
  const { [from]: value, ...rest } = part ? base[part] : base;
  return part ? { ...base, [part]: { ...rest, [to]: value } } : { ...rest, [to]: value };
};

keys('misspelt', () => {
  const text = renamed('max_position_embeddings', 'max_position_embedings', 'text_config');
  refused(text, /unknown key "text_config.max_position_embedings"; did you mean "max_position_embeddings"/);
  const own = renamed('vision_feature_layer', 'vision_feature_layre');
  refused(own, /unknown key "vision_feature_layre"; did you mean "vision_feature_layer"/);
  // Keys that another part has, or that must say what is computed anyway, would be passed over too.
  const outside = {
    ...{ num_atention_heads: 4, hiden_size: 64, vocab_sise: 5, imge_size: 3, quantisation_config: { bits: 4 } },
    ...{ mm_projecter_type: 'linear', repetition_penality: 2, rope_teta: 5, sliding_windw: 3, imag_token_id: 7 },
  };
  for (const [key, value] of Object.entries(outside)) {
    refused({ ...base, [key]: value }, new RegExp(`config.json: unknown key "${key}"; did you mean "[a-z_]+"\\?$`));
  }
  refused(withText({ num_atention_heads: 4 }), /"text_config.num_atention_heads"; did you mean "num_attention_heads"|may change/);
});

keys('beside a part can only repeat it', () => {
  const { model_type, ...own } = { ...base.vision_config, ...base.text_config };
  assert.ok(parseConfig({ ...base, ...own, num_key_value_heads: null }));
  refused({ ...base, num_attention_heads: 2 }, /num_attention_heads is 2, .*expected 4 as text_config.num_attention_heads/);
  refused({ ...base, image_size: 384 }, /config.json: image_size is 384, .*expected 64 as vision_config.image_size gives/);
  refused({ ...base, num_key_value_heads: 1 }, /num_key_value_heads is 1/);
  refused({ ...base, intermediate_size: 1 }, /intermediate_size is 1/);
});

keys('of public files that none of ours is meant by are taken', () => {
  const found = `mm_hidden_size mm_vision_tower mm_patch_merge_type mm_projector_lr mm_resampler_type mm_tunable_parts
    mm_spatial_pool_mode tune_mm_mlp_adapter freeze_mm_mlp_adapter use_mm_proj image_crop_resolution vision_tower
    image_split_resolution unfreeze_mm_vision_tower text_hidden_act video_token_id audio_token_id num_image_tokens
    hidden_dim num_heads num_layers in_channels kv_channels rotary_pct rotary_emb head_size max_seq_len seq_length
    attn_config vision_tower_path tokenizer_path weight_decay learning_rate num_experts router_aux_loss_coef`;
  assert.ok(parseConfig({ ...base, ...Object.fromEntries(found.trim().split(/\s+/).map((key) => [key, 7])) }));
});

keys('mamba_config.json', () => {
  const good = mambaConfig(parseConfig(base).model.text_config, [0]);
  const ssm = (fields: Fields): Fields => ({ ...good, ssm_cfg: { ...good.ssm_cfg, ...fields } });
  const taken = [good, ssm({ d_conv: 4, headdim: 32, chunk_size: 64, dt_min: 0.1 }), { ...good, out_bias: false }];
  for (const mamba of taken) assert.ok(parseConfig(base, mamba));
  const rows: [Fields, RegExp][] = [
    [ssm({ d_conv: 2 }), /mamba_config.json: ssm_cfg.d_conv is 2/],
    [ssm({ headdim: 64 }), /ssm_cfg.headdim is 64, .*expected 32/],
    [ssm({ conv_bias: false }), /ssm_cfg.conv_bias is false/],
    [ssm({ dt_limit: [0, 1] }), /unknown key "ssm_cfg.dt_limit"/],
    [{ ...good, layer_norm_eps: 0.1 }, /layer_norm_eps is 0.1, .*expected 0.00001/],
    [{ ...good, resid_pdrop: 0.1 }, /resid_pdrop is 0.1/],
    [{ ...good, out_bias: true }, /out_bias is true/],
    [{ ...good, norm_before_gate: true }, /unknown key "norm_before_gate"/],
  ];
  for (const [mamba, says] of rows) refused(base, says, mamba);
});

keys('60,000 of them, or a very long one, are told in a line', () => {
  const many = Object.fromEntries(Array.from({ length: 60_000 }, (_, i) => [`max_position_embed${i}`, 1]));
  refused({ ...base, ...many }, /has 600\d\d keys, expected at most 1000/);
  refused(withText({ hidden_size: 'x'.repeat(1e7) }), /text_config.hidden_size is "xxx.*…": Invalid type/);
  refused(withText({ ['y'.repeat(1e7)]: 1 }), /unknown key "text_config.yyy/);
});

const beside = suite('files beside config.json');

type Files = Readonly<Record<string, unknown>>;

function folder(files: Files) {
  const list = Object.entries({ 'config.json': base, ...files });
  return filesFolder('model', new Map(list.map(([name, json]) => [name, new TextEncoder().encode(JSON.stringify(json))])));
}

const refusedFile = (files: Files, says: RegExp) => rejects(readConfig(folder(files)), ConfigError, says);

beside('generation_config.json: its ends of text are kept, what changes the likeliest answer is refused', async () => {
  assert.equal(endIds((await readConfig(folder({}))).model), [0]);
  const sampling = { do_sample: true, temperature: 0.6, top_p: 0.9, num_beams: 1, transformers_version: '5' };
  const config = await readConfig(folder({ 'generation_config.json': { eos_token_id: [5, 0], ...sampling } }));
  assert.equal(endIds(config.model), [0, 5]);
  assert.equal(endIds(parseConfig(JSON.parse(JSON.stringify(config.model))).model), [0, 5]);
  const cases: [Fields, RegExp][] = [
    [{ eos_token_id: 70 }, /eos_token_id 70/],
    [{ eos_token_id: '5' }, /generation_config.json: eos_token_id is "5"/],
    [{ repetition_penalty: 1.1 }, /repetition_penalty is 1.1/],
    [{ num_beams: 4 }, /num_beams is 4/],
    [{ suppress_tokens: [1] }, /suppress_tokens is \[1\]/],
    [{ min_new_tokens: 5 }, /min_new_tokens/],
  ];
  for (const [json, says] of cases) await refusedFile({ 'generation_config.json': json }, says);
});

beside('preprocessor_config.json must be what is done to images', async () => {
  const half = [0.5, 0.5, 0.5];
  const siglip = {
    ...{ do_resize: true, do_rescale: true, do_normalize: true, image_mean: half, image_std: half, resample: 3 },
    ...{ rescale_factor: 0.00392156862745098, size: { height: 64, width: 64 }, image_processor_type: 'SiglipImageProcessor' },
  };
  assert.ok(await readConfig(folder({ 'preprocessor_config.json': siglip })));
  const cases: [Fields, RegExp][] = [
    [{ image_mean: [0.48145466, 0.4578275, 0.40821073] }, /preprocessor_config.json: image_mean is \[0.48/],
    [{ image_std: [0.5, 0.5] }, /image_std/],
    [{ resample: 2 }, /resample is 2/],
    [{ size: { shortest_edge: 64 } }, /size is \{"shortest_edge": 64\}/],
    [{ size: { height: 384, width: 384 } }, /size is .*expected \{"height": 64, "width": 64\}, vision_config.image_size/],
    [{ do_center_crop: true }, /do_center_crop/],
    [{ do_normalize: false }, /do_normalize is false/],
    [{ rescale_factor: 1 }, /rescale_factor is 1/],
  ];
  for (const [json, says] of cases) await refusedFile({ 'preprocessor_config.json': { ...siglip, ...json } }, says);
});

beside('a list where an object belongs', async () => {
  for (const file of ['config.json', 'mamba_config.json', 'generation_config.json', 'preprocessor_config.json']) {
    await refusedFile({ [file]: [1] }, new RegExp(file.replace('.', '\\.')));
  }
});

const json = suite('untrusted JSON');

const deep = (levels: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = i % 2 ? [value] : { value };
  return value;
};

json('an excerpt shows what is small and cuts what is large or deep', () => {
  assert.is(excerpt('a "b"'), '"a \\"b\\""');
  assert.is(excerpt([1, 'a', null]), '[1, "a", null]');
  assert.is(excerpt({ toString: 1, b: [true] }), '{"toString": 1, "b": [true]}');
  assert.is(excerpt([1, 2, 3, 4, 5]), '[1, 2, 3, 4, …]');
  assert.is(excerpt(undefined), 'undefined');
  for (const large of ['x'.repeat(1e7), Array(1e6).fill('y'.repeat(100)), { ['k'.repeat(1e6)]: 1 }, deep(200_000)]) {
    assert.ok(excerpt(large).length <= 130, excerpt(large));
  }
  assert.is(quote('x'.repeat(120)), `"${'x'.repeat(120)}"`);
});

json('a message is cut, except a shader that is numbered in it', () => {
  const long = 'é'.repeat(1e6);
  assert.is(new MatvlmError(long).message.length, 4000);
  assert.is(new ConfigError('short').message, 'short');
  assert.is(new KernelError(long).message.length, 1e6);
});

json('nesting is bounded before anything walks it; brackets in texts do not count', () => {
  for (const [open, close] of [['[', ']'], ['{"a":', '}']]) {
    const text = `${open.repeat(200_000)}1${close.repeat(200_000)}`;
    const says = /config.json: nested deeper than 100 at character \d+/;
    throws(() => parseJson(text, 'config.json', ConfigError), ConfigError, says);
  }
  assert.equal(parseJson('{"a\\"[":"[{"}', 'x', ConfigError), { 'a"[': '[{' });
  assert.ok(parseJson('['.repeat(100) + ']'.repeat(100), 'x', ConfigError));
  throws(() => parseJson('{"a":', 'x', ConfigError), ConfigError, /x: no valid JSON/);
});

for (const tests of [rotary, keys, beside, json]) tests.run();
