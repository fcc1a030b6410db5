import { Storage, Tensor } from '../../engine/tensor.ts';
import { imageTokens, kvHeads, type MatvlmConfig, ssmLayers } from './config.ts';
import { CONV_WIDTH } from './layers/mamba2.ts';
import { MaTVLM } from './model.ts';
import { isMixer, type Part, partOf, PARTS } from './names.ts';
import { ShapesBackend } from './shapes-backend.ts';

/** A model without data: its parameters' names and shapes, at no cost in memory. */
export function outline(config: MatvlmConfig): MaTVLM {
  const backend = new ShapesBackend();
  return new MaTVLM(config, backend, (_, shape) => new Tensor(new Storage(backend, null), shape, 'f32'));
}

/** Parameters of each part; parts without any are left out. */
export function countByPart(model: MaTVLM, which: (name: string) => boolean = () => true): Map<Part, number> {
  const counts = new Map<Part, number>(PARTS.map((part) => [part, 0]));
  for (const [name, { size }] of model.parameters) {
    const part = partOf(name, model.config.model.text_config);
    if (which(name)) counts.set(part, counts.get(part)! + size);
  }
  return new Map([...counts].filter(([, count]) => count > 0));
}

/** Bytes that keys, values and SSM states of one sequence of `length` positions occupy, in f32. */
export function cacheBytes(config: MatvlmConfig, length: number): number {
  const { hidden_size: d, num_attention_heads: heads, num_hidden_layers: layers } = config.model.text_config;
  const kvWidth = kvHeads(config.model.text_config) * (d / heads);
  const ssm = ssmLayers(config).length;
  const mixer = (CONV_WIDTH - 1) * (d + 2 * kvWidth) + d * (d / heads);
  return 4 * ((layers - ssm) * 2 * kvWidth * length + ssm * mixer);
}

/**
 * Bytes that training holds beside activations: weights, and for those trained a gradient and two moments.
 * @param shared parameters of a teacher that the student does not share
 */
export function trainingBytes(model: MaTVLM, trained: (name: string) => boolean, shared = 0): number {
  let bytes = 4 * shared;
  for (const [name, { size }] of model.parameters) bytes += 4 * size * (trained(name) ? 4 : 1);
  return bytes;
}

/** A batch as its size is estimated. */
export interface BatchSize {
  readonly images: number;
  readonly questions: number;
  /** Tokens of a question with its answer. */
  readonly length: number;
  /** Decoder layers are recomputed in backward. */
  readonly checkpointing: boolean;
}

/**
 * Bytes of activations that one batch keeps for backward, estimated: about 14 D + 3 MLP numbers a token and layer (of
 * recomputed layers the input, and one layer at a time), and the logits thrice.
 */
export function activationBytes({ model }: MatvlmConfig, batch: BatchSize): number {
  const { text_config: t, vision_config: c } = model;
  const layer = (d: number, mlp: number) => 14 * d + 3 * mlp;
  const own = layer(t.hidden_size, t.intermediate_size);
  const layers = batch.checkpointing ? t.num_hidden_layers * t.hidden_size + own : t.num_hidden_layers * own;
  const patches = batch.images * imageTokens(model);
  const vision = patches * c.num_hidden_layers * layer(c.hidden_size, c.intermediate_size);
  return 4 * (vision + (patches + batch.questions * batch.length) * (layers + 3 * t.vocab_size));
}

/**
 * Floating-point operations of the linear layers in one batch's forward and backward, two for each weight and position;
 * frozen weights need no gradient of their own, and nothing below the lowest trained part needs any.
 * @param teacherOnly parameters of a teacher, which runs forward beside it, that the model does not share; null for none
 */
export function stepFlops(
  model: MaTVLM,
  batch: BatchSize,
  trained: (name: string) => boolean,
  teacherOnly: number | null,
): number {
  const patches = batch.images * imageTokens(model.config.model);
  const positions = patches + batch.questions * batch.length;
  const work = (which: (name: string) => boolean): { vision: number; connector: number; decoder: number } => {
    const counts = countByPart(model, (name) => which(name) && model.parameters.get(name)!.shape.length > 1);
    const of = (...parts: Part[]) => parts.reduce((sum, part) => sum + (counts.get(part) ?? 0), 0);
    return {
      vision: 2 * patches * of('vision tower'),
      connector: 2 * patches * of('connector'),
      decoder: 2 * positions * of('attention', 'mamba', 'mlp', 'head'),
    };
  };
  const forward = work(() => true);
  const weights = work(trained);
  const recomputed = batch.checkpointing ? forward.decoder : 0;
  const inputs = weights.vision > 0 ? forward.vision + forward.connector : 0;
  const replaced = work(isMixer).decoder;
  const teacher = teacherOnly === null ? 0 : forward.decoder - replaced + 2 * positions * teacherOnly;
  const sum = ({ vision, connector, decoder }: typeof forward) => vision + connector + decoder;
  return sum(forward) + sum(weights) + inputs + forward.decoder + recomputed + teacher;
}
