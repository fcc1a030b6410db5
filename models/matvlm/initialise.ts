import { ConfigError } from '../../engine/errors.ts';
import type { Random } from '../../engine/random.ts';
import { type MambaConfig, ssmLayers } from './config.ts';
import { CONV_WIDTH } from './layers/mamba2.ts';
import type { MaTVLM } from './model.ts';

/**
 * Fresh weights for a model to be trained from nothing: linear layers uniform in ±1/√fan_in, those that end a
 * residual branch scaled down by √(2·layers), embeddings normal with 1/√width, norms one, biases zero.
 */
export function initialise(model: MaTVLM, random: Random): void {
  const layers = model.config.model.text_config.num_hidden_layers;
  for (const [name, tensor] of model.parameters) {
    if (name.includes('.mamba.')) continue;
    model.backend.write(tensor.buffer, freshWeights(name, tensor.shape, layers, random));
  }
  for (const i of ssmLayers(model.config)) writeMixer(model, i, mixerWeights(model.config.mamba!, random, false));
}

function freshWeights(name: string, shape: readonly number[], layers: number, random: Random): Float32Array {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (name.endsWith('bias')) return data;
  if (/norm\d?\.weight$/.test(name)) return data.fill(1);
  if (/embed_tokens|position_embedding/.test(name)) {
    const std = 1 / Math.sqrt(shape[1]);
    return data.map(() => random.normal() * std);
  }
  const fanIn = shape.slice(1).reduce((a, b) => a * b, 1);
  const scale = /(dense|fc2|out_proj)\.weight$/.test(name) ? 1 / Math.sqrt(2 * layers) : 1;
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
 * rows x ← v_proj, B ← k_proj, C ← q_proj and out_proj ← dense; with `is_bias` their biases too.
 * @param teacher attention weights by their public names
 */
export function initialiseMixers(student: MaTVLM, teacher: Weights, random: Random, options: InitOptions): void {
  for (const layer of ssmLayers(student.config)) {
    const weights = mixerWeights(student.config.mamba!, random, options.identityConv);
    if (options.from === 'attention') overlayAttention(weights, teacher, layer, student.config.mamba!);
    writeMixer(student, layer, weights);
  }
}

function writeMixer(model: MaTVLM, layer: number, weights: Map<string, Float32Array>): void {
  for (const [name, data] of weights) {
    const tensor = model.parameters.get(`language_model.model.layers.${layer}.mamba.${name}`);
    if (tensor) model.backend.write(tensor.buffer, data);
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

function overlayAttention(weights: Map<string, Float32Array>, teacher: Weights, layer: number, c: MambaConfig): void {
  const from = (name: string): Float32Array => {
    const full = `language_model.model.layers.${layer}.self_attn.${name}`;
    const found = teacher.get(full);
    if (!found) throw new ConfigError(`the teacher has no "${full}"; only attention layers can be replaced`);
    return found;
  };
  const copy = (kind: 'weight' | 'bias', width: number) => {
    const target = weights.get(`in_proj.${kind}`)!;
    target.set(from(`v_proj.${kind}`), c.d_inner * width);
    target.set(from(`k_proj.${kind}`), (c.d_inner + c.d_xb) * width);
    target.set(from(`q_proj.${kind}`), (c.d_inner + 2 * c.d_xb) * width);
    weights.set(`out_proj.${kind}`, from(`dense.${kind}`));
  };
  copy('weight', c.d_model);
  if (c.is_bias) copy('bias', 1);
}
