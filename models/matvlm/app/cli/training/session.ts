import { dirname, join } from 'node:path';
import { NumericError } from '../../../../nn/errors.ts';
import { diskFolder, systemError } from '../../../../../engine/node/index.ts';
import { pruneCheckpoints } from '../../store/checkpoints.ts';
import { Checkpoint } from '../../../../../engine/safetensors/index.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { loadTrainer } from '../../node/load-trainer.ts';
import { type MetricLine, MetricsLog, readMetrics } from '../../node/metrics.ts';
import { type CardFacts, modelCard } from '../../node/model-card.ts';
import type { RunFolder } from '../../node/run-folder.ts';
import { finiteTensors, saveModel } from '../../node/save-model.ts';
import { accuracy, type Evaluation, restrict } from '../../../train/evaluate.ts';
import type { BatchLoader } from '../../../train/loader.ts';
import { type StepReport, Trainer, type TrainSettings, type TrainTask } from '../../../train/loop.ts';
import type { Vlm } from '../../../vlm.ts';
import { loadWeights } from '../../../weights.ts';
import { disk, writeFileAtomic } from '../../store/index.ts';
import { evaluateAll, imageIds, shares } from './evaluation.ts';
import { detail, warn } from '../terminal/output.ts';
import { Progress } from '../terminal/progress.ts';

/** All that a run of training needs. */
export interface Session {
  readonly run: RunFolder;
  /** The checkpoint folder to go on from. */
  readonly resume: string | null;
  /** The model that is trained, with its tokenizer. */
  readonly vlm: Vlm;
  readonly tokenizer: ReadonlyMap<string, Uint8Array>;
  readonly task: TrainTask;
  readonly loader: BatchLoader;
  readonly tests: readonly VqaDataset[];
  readonly training: TrainSettings;
  /** The settings that the run is made with, for its checkpoints: what it is resumed from must be given the same. */
  readonly made: Readonly<Record<string, unknown>>;
  readonly steps: number;
  readonly saveEvery: number;
  readonly saveTotalLimit: number;
  readonly evalEvery: number;
  readonly evalImages: number | null;
  readonly finalEval: boolean;
  /** Evaluate on the whole test split before the first step too. */
  readonly evalFirst?: boolean;
  /** KL divergence from the teacher, in nats, for each of the first `limit` images of every test set. */
  readonly divergence?: (limit: number) => Promise<readonly number[]>;
  readonly card: Omit<CardFacts, 'step' | 'accuracy'>;
  readonly signal: AbortSignal;
}

/** How a run ended. */
export interface Outcome {
  readonly step: number;
  /** The checkpoint folder of the last step; null where the run was stopped before there was a step to save. */
  readonly checkpoint: string | null;
  readonly finished: boolean;
  readonly skipped: number;
  /** The evaluation on the whole test split before the first step, if asked for. */
  readonly before: Evaluation | null;
  /** The evaluation on the whole test split at the end, if the run came there. */
  readonly evaluation: Evaluation | null;
  /** The last evaluation of all, on whatever part of the test split, and the step at which it was. */
  readonly latest: { readonly step: number; readonly evaluation: Evaluation } | null;
}

/** What is said of an outcome without a checkpoint. */
export const NOTHING_SAVED = 'stopped before the first step; nothing to save';

/** Questions of an evaluation that are kept with their answers. */
const SAMPLES = 200;

/**
 * Runs training to its end or until the signal aborts: logs each step, saves checkpoints that can be resumed from,
 * evaluates. Whatever ends it, the newest checkpoint stays whole.
 * @throws NumericError where no step could be taken: the model is then what it was before
 */
export async function runSession(session: Session): Promise<Outcome> {
  const trainer = new Trainer(session.task, session.loader, session.training);
  try {
    if (session.resume) await restore(session, trainer, session.resume);
    const path = join(session.run.path, 'metrics.jsonl');
    const log = await MetricsLog.open(path, trainer.state.step);
    try {
      return await new Runner(session, trainer, log, await readMetrics(path)).run();
    } finally {
      await log.close();
    }
  } finally {
    trainer.dispose();
  }
}

async function restore({ task }: Session, trainer: Trainer, folder: string): Promise<void> {
  const checkpoint = await Checkpoint.open(diskFolder(folder));
  try {
    await loadWeights(task.model, checkpoint, {}, (name) => task.parameters.has(name));
  } finally {
    await checkpoint.close();
  }
  const { snapshot, tensors } = await loadTrainer(folder, trainer.optimiserTensors());
  trainer.restore(snapshot, tensors);
}

/** Tokens a second over the last steps: a single step's time says little, as several are under way at once. */
class Speed {
  private readonly recent: { tokens: number; milliseconds: number }[] = [];

  add(tokens: number, milliseconds: number): number {
    this.recent.push({ tokens, milliseconds });
    if (this.recent.length > 20) this.recent.shift();
    const sum = (key: 'tokens' | 'milliseconds') => this.recent.reduce((all, step) => all + step[key], 0);
    return Math.round((sum('tokens') / sum('milliseconds')) * 1000);
  }
}

class Runner {
  private readonly speed = new Speed();
  /** The newest checkpoint in the run's own folder. */
  private checkpoint: string | null;
  private readonly first: number;
  private readonly progress: Progress;
  private latest: Outcome['latest'] = null;

  /** @param logged what the log holds already */
  constructor(
    private readonly session: Session,
    private readonly trainer: Trainer,
    private readonly log: MetricsLog,
    private readonly logged: readonly MetricLine[],
  ) {
    const { resume, run } = session;
    // A run that goes on in a new folder has nothing there yet.
    this.checkpoint = resume !== null && dirname(resume) === run.path ? resume : null;
    this.first = trainer.state.step;
    this.progress = new Progress('train', session.steps, trainer.state.step);
  }

  async run(): Promise<Outcome> {
    const { steps, signal, finalEval } = this.session;
    const before = this.session.evalFirst && this.step === 0 ? await this.evaluateSplit('start') : null;
    // The first point of the curves; of a resumed run, one that was due and that a crash or Ctrl-C prevented.
    if (this.step < steps && this.isDue(this.session.evalEvery)) await this.addPoint(before);
    while (this.step < steps && !signal.aborted) {
      await this.trainer.run({ until: this.milestone(), signal, onStep: (report) => this.note(report) });
      // Saved before it is evaluated: an evaluation that fails or is killed must not cost the steps before it.
      if (this.isDue(this.session.saveEvery) || this.step === steps || signal.aborted) await this.save();
      if (this.isDue(this.session.evalEvery) && this.step < steps && !signal.aborted) await this.addPoint();
    }
    this.progress.end();
    this.expectLearning();
    // Ctrl-C within an evaluation comes after steps that were not due to be saved.
    if (this.step >= steps || (signal.aborted && this.step > this.first)) await this.save();
    const ended = this.step >= steps && !signal.aborted;
    const evaluation = ended && finalEval ? await this.evaluateSplit('test') : null;
    if (ended && this.session.evalEvery > 0) await this.addPoint(evaluation);
    if (evaluation) await this.complete(evaluation);
    const { skipped } = this.trainer.state;
    if (skipped > 0) warn(`${skipped} steps were skipped: their loss or gradient was not finite`);
    const { step, checkpoint, latest } = this;
    return { step, checkpoint, finished: step >= steps, skipped, before, evaluation, latest };
  }

  /** Whether every step so far was skipped: the weights are what they were. */
  private get untouched(): boolean {
    return this.trainer.state.skippedInARow >= this.step - this.first;
  }

  private expectLearning(): void {
    const steps = this.step - this.first;
    if (steps === 0 || !this.untouched) return;
    throw new NumericError(
      `${steps === 1 ? 'the only step was' : `all ${steps} steps were`} skipped: loss or gradient was not finite, so ` +
        'the model is what it was and nothing was saved; lower the learning rate, or check the model that it began with',
    );
  }

  private get step(): number {
    return this.trainer.state.step;
  }

  private folder(): string {
    return join(this.session.run.path, `checkpoint-${this.step}`);
  }

  /** The next step at which something is to be done. */
  private milestone(): number {
    const after = (every: number) => (every > 0 ? (Math.floor(this.step / every) + 1) * every : Infinity);
    return Math.min(this.session.steps, after(this.session.saveEvery), after(this.session.evalEvery));
  }

  private isDue(every: number): boolean {
    return every > 0 && this.step % every === 0;
  }

  private async note(report: StepReport): Promise<void> {
    const rate = this.speed.add(report.tokens, report.milliseconds);
    await this.log.add(metricLine(report, rate));
    const loss = `loss ${report.loss.toPrecision(4)}`;
    this.progress.update(report.step, `${loss}  ${rate.toLocaleString('en-US')} tokens/s`);
  }

  /** Saves what was learned since the last checkpoint, if anything. */
  private async save(): Promise<void> {
    if (this.checkpoint === this.folder() || (this.step > this.first && this.untouched)) return;
    const { run, vlm, tokenizer, card, made, saveTotalLimit } = this.session;
    const { config, parameters } = vlm.model;
    const trainer = { snapshot: this.trainer.snapshot(), tensors: this.trainer.optimiserTensors(), settings: made };
    const options = { config, tensors: finiteTensors(parameters), tokenizer, card: { ...card, step: this.step } };
    await saveModel(this.folder(), options, trainer);
    this.checkpoint = this.folder();
    await pruneCheckpoints(run.path, saveTotalLimit, { warn });
  }

  /** Tells the measured accuracy in the last checkpoint's card. */
  private complete(evaluation: Evaluation): Promise<void> {
    const { vlm, card } = this.session;
    const facts = { ...card, step: this.step, accuracy: shares(evaluation) };
    return writeFileAtomic(join(this.folder(), 'README.md'), modelCard(vlm.model.config, facts));
  }

  /** Evaluates on the whole test split, logs and keeps some answers; null when interrupted. */
  private evaluateSplit(label: 'start' | 'test'): Promise<Evaluation | null> {
    return this.interruptible(async () => {
      const { vlm, tests, signal } = this.session;
      const evaluation = await evaluateAll(vlm, tests, { signal, label });
      await this.logOnce('test/accuracy', { step: this.step, ...scores('test', evaluation) });
      await this.keep(evaluation);
      return evaluation;
    });
  }

  /**
   * Logs a point of the run's curves: accuracy, and divergence from a teacher, on the first images of each test set,
   * the same ones at every step.
   * @param whole the evaluation on the whole split at this step, where it is known
   */
  private async addPoint(whole: Evaluation | null = null): Promise<void> {
    if (this.isLogged('eval/accuracy')) return;
    await this.interruptible(async () => {
      const { vlm, tests, signal, divergence } = this.session;
      const limit = this.session.evalImages ?? Infinity;
      const evaluation = whole
        ? restrict(whole, imageIds(tests, limit))
        : await evaluateAll(vlm, tests, { limit, signal, label: 'eval' });
      const kl = divergence ? spread(await divergence(limit)) : {};
      await this.log.add({ step: this.step, ...scores('eval', evaluation), ...kl });
      if (!whole) await this.keep(evaluation);
    });
  }

  /** Keeps some answers of an evaluation in the run's folder. */
  private async keep(evaluation: Evaluation): Promise<void> {
    this.latest = { step: this.step, evaluation };
    await writeSamples(this.session.run.path, this.step, evaluation);
  }

  private isLogged(metric: string): boolean {
    return this.logged.some((line) => line.step === this.step && metric in line);
  }

  /** A finished run that is resumed is evaluated again, for its report, but has its line. */
  private async logOnce(metric: string, line: MetricLine): Promise<void> {
    if (!this.isLogged(metric)) await this.log.add(line);
  }

  /** Runs an evaluation; null when interrupted. */
  private async interruptible<T>(work: () => Promise<T>): Promise<T | null> {
    this.progress.end();
    try {
      return await work();
    } catch (error) {
      if (!this.session.signal.aborted) throw error;
      return null;
    }
  }
}

function metricLine(report: StepReport, rate: number): MetricLine {
  const { step, loss, kl, layer, ce, lr, gradNorm, skipped, tokens } = report;
  return {
    step,
    'train/loss': loss,
    ...(kl === undefined ? {} : { 'train/kl': kl }),
    ...(layer === undefined ? {} : { 'train/layer': layer }),
    ...(ce === undefined ? {} : { 'train/ce': ce }),
    lr,
    grad_norm: gradNorm,
    ...(skipped ? { skipped } : {}),
    tokens,
    tokens_per_second: rate,
  };
}

/** Accuracy and the number of questions, in all and by kind. */
function scores(prefix: 'eval' | 'test', evaluation: Evaluation): Record<string, number> {
  const { total, byKind } = evaluation;
  const all = { [`${prefix}/accuracy`]: accuracy(evaluation), [`${prefix}/questions`]: total };
  const kinds = [...byKind].map(([kind, score]) => ({
    [`${prefix}/accuracy/${kind}`]: accuracy(score),
    [`${prefix}/questions/${kind}`]: score.total,
  }));
  return Object.assign(all, ...kinds);
}

/** Mean of the images' divergences and, of two or more, its standard error. */
function spread(values: readonly number[]): Record<string, number> {
  const n = values.length;
  if (n === 0) return {};
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1);
  return { 'eval/kl': mean, ...(n > 1 ? { 'eval/kl_stderr': Math.sqrt(variance / n) } : {}), 'eval/images': n };
}

/** Keeps answers from all over the evaluation in `samples/step-N.json`. */
async function writeSamples(run: string, step: number, { samples }: Evaluation): Promise<void> {
  const folder = join(run, 'samples');
  try {
    await disk.makeFolder(folder);
  } catch (error) {
    throw systemError('create', folder, error);
  }
  const every = Math.max(1, Math.floor(samples.length / SAMPLES));
  const kept = samples.filter((_, i) => i % every === 0).slice(0, SAMPLES);
  await writeFileAtomic(join(folder, `step-${step}.json`), `${JSON.stringify(kept, null, 1)}\n`);
  detail(`answers ${join(folder, `step-${step}.json`)}`);
}
