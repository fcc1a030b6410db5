import type { Backend } from '../../../../../engine/backend.ts';
import { scope } from '../../../../../engine/scope.ts';
import { fromData, type Tensor } from '../../../../../engine/tensor.ts';
import { backward, linear, sum } from '../../../../../ops/index.ts';
import { imageTokens, type MatvlmConfig } from '../../../config.ts';
import { activationBytes, type BatchSize, countByPart, outline, stepFlops, trainingBytes } from '../../../sizes.ts';
import { bytes, duration, print, saySettings, table, thousands } from '../terminal/output.ts';
import { type TrainingSettings, withBackend } from './training.ts';

/** What a dry run tells. */
export interface DryRun {
  readonly config: MatvlmConfig;
  readonly trained: (name: string) => boolean;
  /** Parameters of a teacher beside those that the student shares; null without a teacher. */
  readonly teacherOnly: number | null;
  readonly images: number;
  readonly steps: number;
  readonly questionsPerImage: number;
  readonly questionLength: number;
}

/** Tells settings, parameters, memory, steps and time of a training that is not begun. */
export async function sayDryRun(dry: DryRun, s: TrainingSettings): Promise<void> {
  saySettings(s);
  const model = outline(dry.config);
  const trained = countByPart(model, dry.trained);
  const rows = [...countByPart(model)].map(([part, count]) => [
    part,
    thousands(count),
    thousands(trained.get(part) ?? 0),
  ]);
  const total = (counts: Iterable<number>) => [...counts].reduce((a, b) => a + b, 0);
  print(
    table([
      ['part', 'parameters', 'trained'],
      ...rows,
      ['all', thousands(total(countByPart(model).values())), thousands(total(trained.values()))],
    ]),
  );
  const fixed = trainingBytes(model, dry.trained, dry.teacherOnly ?? 0);
  const questions = s.batch * Math.min(s.questions ?? Infinity, dry.questionsPerImage);
  const batch = { images: s.batch, questions, length: dry.questionLength, checkpointing: s.checkpointing };
  print(
    `memory  ${bytes(fixed)} for weights, gradients and moments, about ` +
      `${bytes(activationBytes(dry.config, batch))} for a batch's activations`,
  );
  const perStep = s.batch * s.accumulate;
  const epochs = (dry.steps * perStep) / dry.images;
  print(
    `steps   ${thousands(dry.steps)} of ${perStep} images with ${questions * s.accumulate} questions: ` +
      `${epochs.toFixed(2)} epochs of ${thousands(dry.images)} images`,
  );
  print(
    `tokens  ${imageTokens(dry.config.model)} an image, ${dry.questionLength} a question at most in the first sample`,
  );
  await sayTime(dry, s, batch);
}

/** The time that the linear layers take at least, by one of them run here. */
async function sayTime(dry: DryRun, s: TrainingSettings, batch: BatchSize): Promise<void> {
  const perStep = s.accumulate * stepFlops(outline(dry.config), batch, dry.trained, dry.teacherOnly);
  const { rate, on } = await withBackend(s, async (backend) => ({
    rate: await linearRate(backend, dry.config, batch),
    on: backend.description,
  }));
  print(
    `time    at least ${duration((dry.steps * perStep) / rate)}: ${figures(perStep / 1e9)} GFLOP a step in linear ` +
      `layers, one of which ran here at ${figures(rate / 1e9)} GFLOP/s (${on}); attention, scan and the rest ` +
      'come on top, often as much again',
  );
}

/** Three figures of a number. */
function figures(x: number): string {
  return thousands(Number(x.toPrecision(3)));
}

/** A call of the probe takes as many rows as fill this many milliseconds, from a few rows on. */
const PROBE_MS = 100;
const FEW_ROWS = 16;

/** Numbers that no arithmetic finds easy. */
function waves(backend: Backend, rows: number, columns: number): Tensor {
  return fromData(backend, Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i)), [rows, columns]);
}

/** Floating-point operations a second of the MLP's first layer, forward and backward, at a batch's positions. */
async function linearRate(backend: Backend, { model }: MatvlmConfig, batch: BatchSize): Promise<number> {
  const { hidden_size: d, intermediate_size: width } = model.text_config;
  const positions = batch.images * imageTokens(model) + batch.questions * batch.length;
  for (let rows = Math.min(positions, FEW_ROWS); ; rows = Math.min(positions, 2 * rows)) {
    const seconds = await linearSeconds(backend, rows, d, width);
    if (rows === positions || seconds * 1000 > PROBE_MS) return (6 * rows * d * width) / seconds;
  }
}

/** Seconds of the layer's second call: the first compiles and allocates. */
async function linearSeconds(backend: Backend, rows: number, d: number, width: number): Promise<number> {
  const [x, w] = [waves(backend, rows, d), waves(backend, width, d)];
  for (const tensor of [x, w]) tensor.requiresGrad = true;
  let start = 0;
  for (let call = 0; call < 2; call++) {
    start = performance.now();
    scope(() => backward(sum(linear(x, w))));
    for (const tensor of [x, w]) {
      tensor.grad?.dispose();
      tensor.grad = null;
    }
    await backend.sync();
  }
  const seconds = (performance.now() - start) / 1000;
  x.dispose();
  w.dispose();
  return seconds;
}
