import { existsSync } from 'node:fs';
import { basename, dirname, join, resolve as absolute } from 'node:path';
import type { Backend } from '../../../../../engine/backend.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { closeBackend, openBackend, type OpenedBackend } from '../../node/backend.ts';
import { trainerSettings } from '../../node/load-trainer.ts';
import { logOverrides, type Overrides, readMetrics } from '../../node/metrics.ts';
import {
  createRun,
  discardUnused,
  findResume,
  forkRun,
  isRunName,
  lockResumed,
  type ResumePoint,
  type RunFolder,
  writeSettings,
} from '../../node/run-folder.ts';
import { ownCommand } from '../../node/shell.ts';
import { BatchLoader } from '../../../train/loader.ts';
import type { TrainSettings } from '../../../train/loop.ts';
import { planSchedule } from '../../../../nn/schedule.ts';
import type { Vlm } from '../../../vlm.ts';
import type { Context } from '../command.ts';
import { curvesOf } from './comparison.ts';
import { UsageError } from '../terminal/errors.ts';
import { accuracyTable } from './evaluation.ts';
import type { Settings } from '../options/options.ts';
import { detail, print, say, saySettings, thousands, warn } from '../terminal/output.ts';
import { type ReportInput, writeReport } from './report.ts';
import { checkPlace, madeWith, reviewResume, withAbsolutePaths, withoutLater } from './resume.ts';
import { NOTHING_SAVED, type Outcome } from './session.ts';
import { toYaml, yamlLayer } from '../options/settings-file.ts';
import type { trainingOptions } from '../options/training-options.ts';

/** The settings that `train` and `distill` have in common. */
export type TrainingSettings = Settings<ReturnType<typeof trainingOptions>>;

/** Warmup where nothing is said: this share of the steps. */
const WARMUP_SHARE = 0.02;

/** The optimiser, schedule and loop as the settings say. */
export function trainSettings(s: TrainingSettings, steps: number): TrainSettings {
  const warmup = s.warmup ?? Math.round(steps * WARMUP_SHARE);
  return {
    optimiser: { betas: [s.betas[0], s.betas[1]], eps: s.eps, weightDecay: s.weightDecay, clip: s.clip },
    lr: s.lr,
    schedule: planSchedule(steps, warmup, s.decay),
    accumulate: s.accumulate,
    checkpointing: s.checkpointing,
    maxSkipped: s.maxSkipped,
    seed: s.seed,
  };
}

/** Batches of the training sets for a model. */
export function makeLoader(
  vlm: Pick<Vlm, 'model' | 'encoder' | 'tokenizer'>,
  sets: readonly VqaDataset[],
  s: TrainingSettings,
): BatchLoader {
  const { vision_config, image_aspect_ratio } = vlm.model.config.model;
  return new BatchLoader(sets, vlm.encoder, {
    imagesPerBatch: s.batch,
    questionsPerImage: s.questions ?? undefined,
    augment: s.augment,
    seed: s.seed,
    imageSize: vision_config.image_size,
    aspect: image_aspect_ratio,
    padId: vlm.tokenizer.padId,
  });
}

/** What the session takes straight from the settings. */
export function sessionSettings(s: TrainingSettings) {
  const { saveEvery, saveTotalLimit, evalEvery, evalImages, finalEval } = s;
  return { saveEvery, saveTotalLimit, evalEvery, evalImages, finalEval };
}

/** A run to begin or to go on with, and its settings. */
export interface Opened<S> {
  readonly settings: S;
  readonly point: ResumePoint | null;
  /** What the resumed run is given in place of its own settings. */
  readonly overrides: Overrides;
}

/**
 * The settings of a run. Those of one that is resumed are its own, with what is given now over them.
 * @throws UsageError for a run's name that is none, or settings that the run cannot go on with
 */
export async function openSettings<T extends ReturnType<typeof trainingOptions>>(
  table: T,
  context: Context<T>,
): Promise<Opened<Settings<T> & TrainingSettings>> {
  const { resume, override = false } = context.flags;
  const { runs, name } = context.some('runs', 'name') as Pick<TrainingSettings, 'runs' | 'name'>;
  if (!isRunName(name)) {
    throw new UsageError(
      `--name: run name "${name}": expected letters, digits, "_", "." and "-"; --runs chooses the folder`,
    );
  }
  if (resume === undefined) {
    if (override) throw new UsageError('--override: only a run that is resumed has settings to override; add --resume');
    return { settings: context.settings() as Settings<T> & TrainingSettings, point: null, overrides: {} };
  }
  if (resume === '') throw new UsageError('--resume: expected the folder of a run or checkpoint, got ""');
  const point = await findResume(resume === true ? 'latest' : String(resume), runs, name, warn);
  if (resume !== true && resume !== 'latest') checkPlace(point.run, context.flags);
  const { step, path } = point.checkpoint;
  const lines = await readMetrics(join(point.run, 'metrics.jsonl'));
  const stored = await trainerSettings(path);
  const made = {
    values: new Map(Object.entries(stored)),
    where: (key: string) => `${join(path, 'trainer_state.json')}: settings.${key}`,
  };
  const file = withoutLater(await yamlLayer(join(point.run, 'config.yaml'), table), lines, step);
  const settings = context.settings(made, file) as Settings<T> & TrainingSettings;
  const overrides = await reviewResume({ run: point.run, step, stored, file }, settings, override === true);
  return { settings, point, overrides };
}

/**
 * Whether a run that is resumed has nothing left to do: its steps are made, and its last evaluation and report are
 * there. Says so then.
 */
export async function isFinished({ point }: Pick<Opened<unknown>, 'point'>, steps: number, finalEval: boolean) {
  if (!point || point.superseded || point.checkpoint.step < steps) return false;
  const lines = await readMetrics(join(point.run, 'metrics.jsonl'));
  const evaluated = !finalEval || lines.some((line) => line.step === steps && 'test/accuracy' in line);
  if (!evaluated || !existsSync(join(point.run, 'report.html'))) return false;
  say(`${point.run} is finished: ${steps} of ${steps} steps; nothing was changed, --steps with more trains it further`);
  return true;
}

/**
 * Runs `body` in the run's folder, which is held meanwhile: the one to go on with, or a new one. A run that went
 * further than `--resume` is left alone. `body` is also given the settings that checkpoints keep.
 */
export async function withRun(
  { settings, point, overrides }: Opened<TrainingSettings>,
  { command, steps }: { readonly command: string; readonly steps: number },
  body: (run: RunFolder, made: Readonly<Record<string, unknown>>) => Promise<void>,
): Promise<void> {
  const run = await openRun(settings, point);
  try {
    saySettings(settings, detail);
    if (point) await logOverrides(join(run.path, 'metrics.jsonl'), point.checkpoint.step, overrides);
    const stored = withAbsolutePaths(point ? { ...settings, ...placeOf(run) } : settings);
    await writeSettings(run, toYaml(stored, await titleOf(run, command)));
    say(`run ${run.path}: ${workOf(settings, steps, point?.checkpoint.step ?? 0)}; settings in config.yaml`);
    await body(run, madeWith(stored));
  } finally {
    if (!point) await discardUnused(run);
    await run.release();
  }
}

/** What a run does, in a few words. @param first the step from which it goes on */
function workOf({ batch, accumulate, backend }: TrainingSettings, steps: number, first: number): string {
  if (first >= steps) return `its ${thousands(steps)} steps are made, the end is not`;
  const counted = (n: number, what: string) => `${thousands(n)} ${what}${n === 1 ? '' : 's'}`;
  const range = first + 1 === steps ? `step ${thousands(steps)}` : `steps ${thousands(first + 1)} to ${thousands(steps)}`;
  const which = first > 0 ? range : counted(steps, 'step');
  return `${which} of ${counted(batch * accumulate, 'image')} on ${backend}`;
}

/** What stands above a run's settings: how to repeat it, or that it was made with others before. */
async function titleOf(run: RunFolder, command: string): Promise<string> {
  const lines = await readMetrics(join(run.path, 'metrics.jsonl'));
  const former = lines.flatMap(({ step, override = {} }) =>
    Object.entries(override).map(([key, { from }]) => `${key} ${JSON.stringify(from)} up to step ${step}`),
  );
  if (former.length === 0) return `${ownCommand(command, '-c', 'config.yaml')} does the same again`;
  return `matvlm ${command}; made with other settings before: ${former.join(', ')}`;
}

/** A run may have been copied, renamed or forked since its settings were written. */
function placeOf({ path }: RunFolder): Pick<TrainingSettings, 'runs' | 'name'> {
  return { runs: dirname(absolute(path)), name: basename(path) };
}

function openRun(
  { runs, name }: Pick<TrainingSettings, 'runs' | 'name'>,
  point: ResumePoint | null,
): Promise<RunFolder> {
  if (!point) return createRun(runs, name);
  const { run, checkpoint, superseded } = point;
  detail(`resuming ${run} at step ${checkpoint.step}${superseded ? ', in a new folder' : ''}`);
  return superseded ? forkRun(run) : lockResumed(point);
}

/** Opens the backend for `body` and closes it afterwards. */
export async function withBackend<T>(
  s: Pick<TrainingSettings, 'backend'>,
  body: (b: OpenedBackend) => Promise<T>,
): Promise<T> {
  const backend = await openBackend(s.backend, detail);
  try {
    return await body(backend);
  } finally {
    closeBackend(backend);
  }
}

/** A run that has ended, with what its report shows. */
export interface Ended {
  readonly command: 'train' | 'distill';
  readonly run: RunFolder;
  readonly steps: number;
  readonly settings: TrainingSettings;
  readonly tests: readonly VqaDataset[];
  readonly backend: Backend;
  readonly models: ReportInput['models'];
  /** A teacher, whose answers stand beside. */
  readonly teacher?: Vlm;
  /** The folder of the comparison with random initialisation, where there is one. */
  readonly random?: string | null;
  readonly signal: AbortSignal;
}

/** What the user is told at the end, and the report, of a run that was stopped as far as it came. */
export async function finishRun(outcome: Outcome, ended: Ended): Promise<void> {
  const { step, finished, checkpoint, evaluation } = outcome;
  const { command, run, steps, settings, tests, backend, teacher, models, random = null, signal } = ended;
  if (!checkpoint) return say(NOTHING_SAVED);
  const name = basename(run.path);
  if (finished && evaluation) print(accuracyTable(new Map([[name, evaluation]])));
  const source = command === 'train' ? ('teacher' as const) : ('student' as const);
  const title = command === 'train' ? 'A teacher, trained' : 'A student, distilled';
  const measured = evaluation ?? outcome.latest?.evaluation;
  const report = await writeReport({
    run: run.path,
    title: finished ? title : `${title} for ${step} of ${steps} steps`,
    summary: finished ? undefined : stopped(outcome, steps),
    command: ownCommand(command, '-c', 'config.yaml'),
    measured: measured ? [{ name, source, evaluation: measured }] : [],
    // Whoever stopped the run waits for its end.
    others: teacher && !signal.aborted ? [{ name: 'teacher', vlm: teacher }] : [],
    curves: curvesOf(name, run.path, random),
    ...{ tests, settings, models, backend: backend.description },
  });
  if (finished) say(`saved in ${checkpoint}`);
  else {
    say(`stopped at step ${step} of ${steps}, saved in ${checkpoint}`);
    say(`go on with: ${ownCommand(command, '--resume', run.path)}`);
  }
  say(`report ${report}`);
}

/** What a report says of a run that was stopped. */
export function stopped({ step, latest }: Outcome, steps: number): string {
  const evaluated = latest ? ` Answers and accuracy are those at step ${latest.step}, the last that was evaluated.` : '';
  return `Stopped at step ${step} of ${steps}: this is how far it came.${evaluated}`;
}
