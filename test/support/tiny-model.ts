import type { Backend } from '../../engine/backend.ts';
import type { VqaDataset } from '../../models/matvlm/data/dataset.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { BatchLoader, type LoaderOptions } from '../../models/matvlm/train/loader.ts';
import type { TrainSettings } from '../../models/matvlm/train/loop.ts';
import { emptyParameters } from '../../models/nn/parameters.ts';
import { Random } from '../../models/nn/random.ts';
import { type MatvlmConfig, mambaConfig, parseConfig } from '../../models/matvlm/config.ts';
import { initialise, initialiseMixers } from '../../models/matvlm/initialise.ts';
import { MaTVLM } from '../../models/matvlm/model.ts';
import { isMixer, isTrainable } from '../../models/matvlm/names.ts';
import { PromptEncoder } from '../../models/matvlm/template.ts';
import { Tokenizer } from '../../models/nn/text/tokenizer.ts';
import { disposeModel, sharedParameters } from '../../models/matvlm/weights.ts';
import { tinyTokenizer } from '../../models/matvlm/data/word-tokenizer.ts';

const files = tinyTokenizer();
export const tokenizer = Tokenizer.fromJSON(files.tokenizer, files.config);
export const encoder = new PromptEncoder(tokenizer, 'short');

/** A configuration small enough for hundreds of passes in a test. */
export function smallConfig(text: Record<string, unknown> = {}): MatvlmConfig {
  return parseConfig({
    conv_version: 'short',
    vision_feature_layer: -1,
    vision_feature_select_strategy: 'cls_patch',
    vision_config: {
      image_size: 16,
      patch_size: 8,
      hidden_size: 16,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      intermediate_size: 24,
    },
    text_config: {
      vocab_size: tokenizer.size,
      hidden_size: 32,
      num_hidden_layers: 3,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      intermediate_size: 48,
      max_position_embeddings: 128,
      ...text,
    },
  });
}

/** A model with seeded random weights. */
export function smallTeacher(backend: Backend, config = smallConfig()): MaTVLM {
  const model = new MaTVLM(config, backend, emptyParameters(backend));
  initialise(model, new Random(1));
  return model;
}

/** A student of `teacher` that shares its frozen tensors, its mixers drawn at random. */
export function smallStudent(teacher: MaTVLM, layers: readonly number[]): MaTVLM {
  const config = { model: teacher.config.model, mamba: mambaConfig(teacher.config.model.text_config, layers) };
  const student = new MaTVLM(config, teacher.backend, sharedParameters(teacher));
  const random = new Random(2);
  for (const [name, tensor] of student.parameters) {
    if (!isTrainable(name) || isMixer(name)) continue;
    student.backend.write([tensor.buffer], [new Float32Array(tensor.size).map(() => random.uniform(-0.2, 0.2))]);
  }
  initialiseMixers(student, new Map(), random, { from: 'random', identityConv: false });
  return student;
}

/** A teacher with a student of it, and what frees both. */
export function smallPair(backend: Backend, layers: readonly number[], config = smallConfig()) {
  const teacher = smallTeacher(backend, config);
  const student = smallStudent(teacher, layers);
  const dispose = () => {
    disposeModel(student, teacher);
    disposeModel(teacher);
  };
  return { teacher, student, dispose };
}

/** Drawings, the i-th with its first `counts[i]` questions. */
export function drawings(counts: readonly number[]): VqaDataset {
  const set = new SortOfClevr('train', { length: counts.length });
  const get = (i: number) => ({ ...set.get(i), questions: set.get(i).questions.slice(0, counts[i]) });
  return { name: 'drawings', split: 'train', length: counts.length, get };
}

/** Batches as the small configuration takes them, of two images unless told otherwise. */
export function batchesOf(data: VqaDataset, options: Partial<LoaderOptions> = {}): BatchLoader {
  const fitting = { imageSize: 16, aspect: 'square', padId: tokenizer.padId } as const;
  return new BatchLoader([data], encoder, { imagesPerBatch: 2, seed: 1, ...fitting, ...options });
}

/** Settings under which a small model trains. */
export const SETTINGS: TrainSettings = {
  optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 },
  lr: 1e-3,
  schedule: { warmup: 2, stable: 50, decay: 10 },
  accumulate: 1,
  checkpointing: false,
  maxSkipped: 3,
  seed: 5,
};
