import type { Backend } from '../engine/backend.ts';
import { keep, scope } from '../engine/scope.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { emptyParameters } from '../models/nn/parameters.ts';
import { Random } from '../models/nn/random.ts';
import { parseConfig } from '../models/matvlm/config.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { prefill } from '../models/matvlm/generate.ts';
import { initialise } from '../models/matvlm/initialise.ts';
import { publishedLosses } from '../models/matvlm/losses.ts';
import { MaTVLM } from '../models/matvlm/model.ts';
import { tinyConfig } from '../models/matvlm/presets.ts';
import { createStudent, evenLayers } from '../models/matvlm/student.ts';
import { PromptEncoder } from '../models/matvlm/template.ts';
import { TokenStream } from '../models/matvlm/token-stream.ts';
import type { DecoderCache } from '../models/nn/cache.ts';
import { Tokenizer } from '../models/nn/text/tokenizer.ts';
import { BatchLoader } from '../models/matvlm/train/loader.ts';
import { distillTask, pretrainTask, Trainer, type TrainSettings, type TrainTask } from '../models/matvlm/train/loop.ts';
import type { VqaBatch } from '../models/matvlm/vqa-batch.ts';
import { disposeModel } from '../models/matvlm/weights.ts';
import { tinyTokenizer } from '../models/matvlm/data/word-tokenizer.ts';
import type { Batch } from './measure.ts';

/** One kind of step, ready to run; `close` frees what it holds. */
export interface OpenStep {
  readonly run: Batch;
  readonly close: () => void | Promise<void>;
}

export interface ModelCase {
  readonly name: string;
  /** What a rate counts. */
  readonly unit: 'steps/s' | 'tokens/s' | 'prompts/s';
  readonly open: (backend: Backend) => Promise<OpenStep>;
}

const files = tinyTokenizer();
const tokenizer = Tokenizer.fromJSON(files.tokenizer, files.config);
const encoder = new PromptEncoder(tokenizer, 'short');

const SETTINGS: Omit<TrainSettings, 'maxSkipped'> = {
  optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 },
  lr: 1e-4,
  schedule: { warmup: 10, stable: 1e6, decay: 10 },
  accumulate: 1,
  checkpointing: false,
  seed: 1,
};

function tinyTeacher(backend: Backend): MaTVLM {
  const model = new MaTVLM(parseConfig(tinyConfig(tokenizer)), backend, emptyParameters(backend));
  initialise(model, new Random(1));
  return model;
}

/** A quarter of the decoder's layers replaced, initialised from attention. */
function quarterStudent(teacher: MaTVLM): Promise<MaTVLM> {
  const layers = evenLayers(teacher.config.model.text_config.num_hidden_layers, 0.25);
  return createStudent(teacher, { layers, bias: false, from: 'attention', identityConv: true }, new Random(2));
}

/** The first batch of the built-in data, which stays the same: reading data is not what is timed. */
async function fixedBatch(images: number, questionsPerImage: number): Promise<{ batch: () => Promise<VqaBatch> }> {
  const options = { imagesPerBatch: images, questionsPerImage, seed: 1, imageSize: 64 };
  const data = new SortOfClevr('train', { length: images });
  const batch = await new BatchLoader([data], encoder, { ...options, aspect: 'square', padId: tokenizer.padId }).batch(0);
  return { batch: async () => batch };
}

/** A batch, and how many steps without a finite gradient in a row are too many. */
interface StepSize {
  readonly images: number;
  readonly questions: number;
  readonly maxSkipped: number;
}

async function training(task: TrainTask, size: StepSize, close: () => void): Promise<OpenStep> {
  const data = await fixedBatch(size.images, size.questions);
  const trainer = new Trainer(task, data, { ...SETTINGS, maxSkipped: size.maxSkipped });
  const run = (n: number) => trainer.run({ until: trainer.state.step + n });
  return { run, close: () => (trainer.dispose(), close()) };
}

/** Teacher alone, or its student too. */
async function models(backend: Backend, hybrid: boolean): Promise<{ model: MaTVLM; teacher: MaTVLM; close: () => void }> {
  const teacher = tinyTeacher(backend);
  if (!hybrid) return { model: teacher, teacher, close: () => disposeModel(teacher) };
  const student = await quarterStudent(teacher);
  return { model: student, teacher, close: () => (disposeModel(student, teacher), disposeModel(teacher)) };
}

/** A prompt with its image. */
function prompt(): { ids: number[]; pixels: Float32Array } {
  const ids = [...encoder.prefixIds(), ...encoder.questionIds('what shape is the red object?').ids];
  return { ids, pixels: Float32Array.from({ length: 3 * 64 * 64 }, (_, i) => Math.sin(i)) };
}

/** A cache with the prompt in it, and the logits behind it. */
function start(model: MaTVLM): { cache: DecoderCache; logits: Tensor } {
  const { ids, pixels } = prompt();
  const cache = model.decoder.cache();
  const logits = scope(() => prefill(model, ids, fromData(model.backend, pixels, [1, 3, 64, 64]), cache));
  return { cache, logits: keep(logits) };
}

/** Tokens after the prompt as generation makes them; at the end of the context it begins again. */
async function decoding(backend: Backend, hybrid: boolean): Promise<OpenStep> {
  const { model, close } = await models(backend, hybrid);
  const { cache, logits } = start(model);
  const prompt = cache.snapshot();
  const stream = () => new TokenStream(model.decoder, cache, logits, { maxNewTokens: cache.context });
  let tokens = stream();
  const run = async (n: number) => {
    for (let i = 0; i < n; i++) {
      if (await tokens.next(Infinity)) continue;
      await tokens.dispose();
      cache.restore(prompt);
      tokens = stream();
    }
  };
  const end = async () => {
    await tokens.dispose();
    logits.dispose();
    cache.dispose();
    close();
  };
  return { run, close: end };
}

async function prompting(backend: Backend, hybrid: boolean): Promise<OpenStep> {
  const { model, close } = await models(backend, hybrid);
  const run = async (n: number) => {
    for (let i = 0; i < n; i++) {
      const { cache, logits } = start(model);
      await logits.data();
      logits.dispose();
      cache.dispose();
    }
  };
  return { run, close };
}

const WHO = [['teacher', false], ['student', true]] as const;

/**
 * The steps of the tiny teacher and of its student, at that batch.
 * @param maxSkipped Infinity where nothing is computed
 */
export function modelCases(images: number, questions: number, maxSkipped = 3): ModelCase[] {
  const size = { images, questions, maxSkipped };
  const batch = `${images} ${images === 1 ? 'image' : 'images'} × ${questions} questions`;
  const train: ModelCase = {
    name: `train step, teacher, ${batch}`,
    unit: 'steps/s',
    open: async (backend) => {
      const { model, close } = await models(backend, false);
      return training(pretrainTask(model), size, close);
    },
  };
  const distil: ModelCase = {
    name: `distil step, teacher + student, ${batch}`,
    unit: 'steps/s',
    open: async (backend) => {
      const { model, teacher, close } = await models(backend, true);
      return training(distillTask(teacher, model, publishedLosses), size, close);
    },
  };
  const each = WHO.flatMap(([who, hybrid]): ModelCase[] => [
    { name: `prefill, ${who}`, unit: 'prompts/s', open: (backend) => prompting(backend, hybrid) },
    { name: `decode step, ${who}`, unit: 'tokens/s', open: (backend) => decoding(backend, hybrid) },
  ]);
  return [train, distil, ...each];
}
