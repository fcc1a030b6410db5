import { ConfigError } from '../nn/errors.ts';
import type { Random } from '../nn/random.ts';
import { type MambaConfig, ssmLayers } from './config.ts';
import type { AttentionWeights } from './families/family.ts';
import { familyOf } from './families/index.ts';
import { CONV_WIDTH } from './layers/mamba2.ts';
import { SIGLIP_RESIDUALS } from './layers/siglip.ts';
import type { MaTVLM } from './model.ts';
import { isMixer, layerParameter, MIXER } from './names.ts';

/**
 * Fresh weights for a model to be trained from nothing: linear layers uniform in ±1/√fan_in, those that end a
 * residual branch scaled down by √(2·layers), embeddings normal with 1/√width, norms one, biases zero.
 */
export function initialise(model: MaTVLM, random: Random): void {
  const text = model.config.model.text_config;
  const residuals = [...SIGLIP_RESIDUALS, ...familyOf(text).residuals];
  for (const [name, tensor] of model.parameters) {
    if (isMixer(name)) continue;
    const scale = residuals.some((end) => name.endsWith(`.${end}.weight`)) ? 1 / Math.sqrt(2 * text.num_hidden_layers) : 1;
    model.backend.write([tensor.buffer], [freshWeights(name, tensor.shape, scale, random)]);
  }
  for (const i of ssmLayers(model.config)) writeMixer(model, i, mixerWeights(model.config.mamba!, random, false));
}

function freshWeights(name: string, shape: readonly number[], scale: number, random: Random): Float32Array {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (name.endsWith('bias')) return data;
  if (/norm\d?\.weight$/.test(name)) return data.fill(1);
  if (/embed_tokens|position_embedding/.test(name)) {
    const std = 1 / Math.sqrt(shape[1]);
    return data.map(() => random.normal() * std);
  }
  const fanIn = shape.slice(1).reduce((a, b) => a * b, 1);
  const bound = scale / Math.sqrt(fanIn);
  return data.map(() => random.uniform(-bound, bound));
}

/** How a replaced layer starts. */
export interface InitOptions {
  /** Take projections from attention (the published way) or draw all of them. */
  readonly from: 'attention' | 'random';
  /** Start the convolution as the identity in place of uniform noise (ours: quicker to recover at small sizes). */
  readonly identityConv: boolean;
}

/** Host copies of weights by name. */
export type Weights = ReadonlyMap<string, Float32Array>;

/**
 * Fills the mixers of a student: Mamba-2's own initialisation, then, from the attention each replaces (MaTVLM §3.2),
 * rows x ← value, B ← key, C ← query and out_proj ← output; with `is_bias` their biases too.
 * @param teacher attention weights by their public names
 */
export function initialiseMixers(student: MaTVLM, teacher: Weights, random: Random, options: InitOptions): void {
  const { attention } = familyOf(student.config.model.text_config);
  for (const layer of ssmLayers(student.config)) {
    const weights = mixerWeights(student.config.mamba!, random, options.identityConv);
    if (options.from === 'attention') overlayAttention(weights, attention, teacher, layer, student.config.mamba!);
    writeMixer(student, layer, weights);
  }
}

function writeMixer(model: MaTVLM, layer: number, weights: Map<string, Float32Array>): void {
  for (const [name, data] of weights) {
    const tensor = model.parameters.get(layerParameter(layer, MIXER, name));
    if (tensor) model.backend.write([tensor.buffer], [data]);
  }
}

/** Mamba-2's own initialisation of one mixer, by parameter name. */
function mixerWeights(c: MambaConfig, random: Random, identityConv: boolean): Map<string, Float32Array> {
  const heads = c.ssm_cfg.ngroups;
  const channels = c.d_inner + 2 * c.d_xb;
  const inRows = 2 * c.d_inner + 2 * c.d_xb + heads;
  const draw = (size: number, fanIn: number) => {
    const bound = 1 / Math.sqrt(fanIn);
    return new Float32Array(size).map(() => random.uniform(-bound, bound));
  };
  return new Map([
    ['in_proj.weight', draw(inRows * c.d_model, c.d_model)],
    ['in_proj.bias', draw(inRows, c.d_model)],
    ['out_proj.weight', draw(c.d_model * c.d_inner, c.d_inner)],
    ['out_proj.bias', draw(c.d_model, c.d_inner)],
    ['conv1d.weight', identityConv ? identityKernel(channels) : draw(channels * CONV_WIDTH, CONV_WIDTH)],
    ['conv1d.bias', identityConv ? new Float32Array(channels) : draw(channels, CONV_WIDTH)],
    ['A_log', new Float32Array(heads).map(() => Math.log(random.uniform(1, 16)))],
    ['dt_bias', new Float32Array(heads).map(() => drawDtBias(random))],
    ['D', new Float32Array(heads).fill(1)],
    ['norm.weight', new Float32Array(c.d_inner).fill(1)],
  ]);
}

/** Each channel passes its newest column. */
function identityKernel(channels: number): Float32Array {
  return new Float32Array(channels * CONV_WIDTH).map((_, i) => (i % CONV_WIDTH === CONV_WIDTH - 1 ? 1 : 0));
}

/** softplus⁻¹ of a step drawn log-uniformly from 0.001…0.1. */
function drawDtBias(random: Random): number {
  const dt = Math.max(Math.exp(random.uniform(Math.log(1e-3), Math.log(0.1))), 1e-4);
  return dt + Math.log(-Math.expm1(-dt));
}

function overlayAttention(
  weights: Map<string, Float32Array>,
  attention: AttentionWeights,
  teacher: Weights,
  layer: number,
  c: MambaConfig,
): void {
  const from = (name: string): Float32Array => {
    const full = layerParameter(layer, attention.at, name);
    const found = teacher.get(full);
    if (!found) throw new ConfigError(`the teacher has no "${full}"; only attention layers can be replaced`);
    return found;
  };
  const { query, key, value, output, bias, outputBias } = attention;
  const copyInput = (kind: 'weight' | 'bias', width: number) => {
    const target = weights.get(`in_proj.${kind}`)!;
    target.set(from(`${value}.${kind}`), c.d_inner * width);
    target.set(from(`${key}.${kind}`), (c.d_inner + c.d_xb) * width);
    target.set(from(`${query}.${kind}`), (c.d_inner + 2 * c.d_xb) * width);
  };
  copyInput('weight', c.d_model);
  weights.set('out_proj.weight', from(`${output}.weight`));
  if (c.is_bias && bias) copyInput('bias', 1);
  if (c.is_bias && outputBias) weights.set('out_proj.bias', from(`${output}.bias`));
}
