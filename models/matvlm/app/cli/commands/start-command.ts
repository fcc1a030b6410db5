import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../../../../../engine/errors.ts';
import { diskFolder } from '../../../../../engine/node/index.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { openDatasets } from '../../node/datasets.ts';
import { isTrainable } from '../../../names.ts';
import { assetPath } from '../../node/package-root.ts';
import type { RunFolder } from '../../node/run-folder.ts';
import { ownCommand } from '../../node/shell.ts';
import { wilson } from '../../report/interval.ts';
import type { Headline } from '../../report/report.ts';
import { outline } from '../../../sizes.ts';
import { accuracy, type Evaluation } from '../../../train/evaluate.ts';
import { loadVlm, type Vlm } from '../../../vlm.ts';
import { disposeModel } from '../../../weights.ts';
import { configLayer } from '../command.ts';
import { besideRandom, curvesOf } from '../training/comparison.ts';
import { distillTable } from './distill.ts';
import {
  type Distillation,
  distillInto,
  type DistillPlan,
  type DistillSettings,
  planDistillation,
  studentOf,
} from './distill-command.ts';
import { accuracyTable, comparable, evaluateAll } from '../training/evaluation.ts';
import { interrupted } from '../terminal/interrupt.ts';
import { type Layer, resolve } from '../options/options.ts';
import { duration, percent, print, say } from '../terminal/output.ts';
import { type Measured, modelSize, writeReport } from '../training/report.ts';
import { serveModels } from './serve-command.ts';
import { NOTHING_SAVED, type Outcome } from '../training/session.ts';
import type { StartSettings } from './start.ts';
import { stopped, withBackend, withRun } from '../training/training.ts';

/** Ports that are tried after one that is taken. */
const PORTS = 10;

/** `matvlm start`: the main job. */
export async function start(given: StartSettings): Promise<void> {
  const signal = interrupted('Stopping after this step and saving; Ctrl-C again quits at once.');
  const settings = await distillSettings(given);
  const plan = await planDistillation(settings, null, signal);
  let student: string | null = null;
  await withBackend(settings, async (backend) => {
    const teacher = await loadVlm(diskFolder(plan.teacher), backend, { signal, weights: 'f32' });
    const exact = { ...settings, backend: backend.kind };
    const opened = { settings: exact, point: null, overrides: {} };
    await withRun(opened, { command: 'distill', steps: plan.steps }, async (run, made) => {
      student = await new Job(given, settings, plan, run, made, signal, backend.description).run(teacher);
    });
    teacher.dispose();
  });
  if (student && given.serve) await serveResult(plan.teacher, student, given.port);
}

/** The recipe's settings with what was given over them. */
async function distillSettings(given: StartSettings): Promise<DistillSettings> {
  const recipe = await configLayer(given.recipe ?? (given.full ? 'full' : 'start'), distillTable);
  const { teacher, data, steps, backend, runs } = given;
  const values = new Map(
    Object.entries({ teacher, data, steps, backend, runs, name: 'start' }).filter(([, v]) => v !== null),
  );
  const flags: Layer = { values, where: (key) => `--${key}` };
  const settings = resolve(distillTable, [recipe, flags]);
  // The comparison has no --test-images: both ask about the same images along the way.
  const evalImages = Math.min(settings.evalImages ?? Infinity, given.testImages ?? Infinity);
  return Number.isFinite(evalImages) ? { ...settings, evalImages } : settings;
}

/** Distillation, comparison and report in one run folder. */
class Job {
  private readonly started = performance.now();

  constructor(
    private readonly given: StartSettings,
    private readonly settings: DistillSettings,
    private readonly plan: DistillPlan,
    private readonly folder: RunFolder,
    private readonly made: Distillation['made'],
    private readonly signal: AbortSignal,
    private readonly backend: string,
  ) {}

  /** The student's folder; null when interrupted. */
  async run(teacher: Vlm): Promise<string | null> {
    const tests = await openDatasets(this.settings.data, 'test', this.given.testImages, this.signal);
    const target = await evaluateAll(teacher, tests, { signal: this.signal, label: 'teacher' });
    const compared = { run: this.folder.path, steps: this.plan.steps, wanted: this.given.compare, signal: this.signal };
    const { outcome, random } = await besideRandom(compared, () => this.distil(teacher, tests));
    if (!outcome.checkpoint) {
      say(NOTHING_SAVED);
      return null;
    }
    const measured = this.measured(target, outcome);
    const done = outcome.finished && !this.signal.aborted;
    if (done) print(accuracyTable(new Map(measured.map(({ name, evaluation }) => [name, evaluation]))));
    const report = await this.report(outcome, measured, teacher, tests, random);
    if (done) say(`student ${outcome.checkpoint}`);
    else this.sayStopped(outcome);
    say(`report  ${report}`);
    return done ? outcome.checkpoint : null;
  }

  /** What the report compares; of a run that was stopped, the student as it was evaluated last. */
  private measured(target: Evaluation, { before, evaluation, latest }: Outcome): Measured[] {
    const all: Measured[] = [{ name: 'teacher', source: 'teacher', evaluation: target }];
    if (before) all.push({ name: 'student, undistilled', source: 'before', evaluation: before });
    if (evaluation) all.push({ name: 'student', source: 'student', evaluation });
    else if (latest && latest.step > 0) {
      all.push({ name: `student, step ${latest.step}`, source: 'student', evaluation: latest.evaluation });
    }
    return comparable(all);
  }

  private async distil(teacher: Vlm, tests: readonly VqaDataset[]): Promise<Outcome> {
    const { settings, folder: run, made, signal } = this;
    const { loader, steps } = this.plan;
    const student = await studentOf(teacher.model, this.plan, settings, teacher.model.backend);
    try {
      const common = { teacher, student, run, made, settings, loader, steps, tests, evalFirst: true };
      return await distillInto({ ...common, planned: steps, resume: null, signal });
    } finally {
      disposeModel(student, teacher.model);
    }
  }

  private report(
    outcome: Outcome,
    measured: readonly Measured[],
    teacher: Vlm,
    tests: readonly VqaDataset[],
    random: string | null,
  ): Promise<string> {
    const { steps, config } = this.plan;
    const layers = this.plan.layers.join(', ');
    const finished = outcome.finished ? '' : `. ${stopped(outcome, steps)}`;
    return writeReport({
      run: this.folder.path,
      title: 'A teacher turned into a Mamba–Transformer hybrid',
      summary:
        `Layers ${layers} of the decoder became Mamba-2 mixers, initialised from attention and distilled in ` +
        `${outcome.step} steps; ${duration((performance.now() - this.started) / 1000)} in all${finished || '.'}`,
      command: ownCommand('start', ...this.flags()),
      headlines: headlines(measured),
      measured,
      curves: curvesOf('from attention', this.folder.path, random),
      tests,
      models: [modelSize('teacher', teacher.model), modelSize('student', outline(config), isTrainable)],
      settings: this.settings,
      backend: this.backend,
    });
  }

  /** What was given that bears on the result. */
  private flags(): string[] {
    const { full, recipe, teacher, data, steps, testImages, compare } = this.given;
    return [
      ...(full ? ['--full'] : []),
      ...(recipe ? ['--recipe', recipe] : []),
      ...(teacher ? ['--teacher', teacher] : []),
      ...(data ? ['--data', data.join(',')] : []),
      ...(steps ? ['--steps', String(steps)] : []),
      ...(testImages ? ['--test-images', String(testImages)] : []),
      ...(compare ? [] : ['--no-compare']),
    ];
  }

  private sayStopped({ step, checkpoint }: Outcome): void {
    say(`stopped at step ${step} of ${this.plan.steps}, saved in ${checkpoint}`);
    say(`go on with: ${ownCommand('distill', '--resume', this.folder.path)}`);
  }
}

/** The student's accuracy by kind, with its interval, and the teacher's; none before it was evaluated. */
function headlines(measured: readonly Measured[]): Headline[] {
  const [teacher, student] = (['teacher', 'student'] as const).map((role) => measured.find((m) => m.source === role));
  if (!teacher || !student) return [];
  return [...student.evaluation.byKind].map(([kind, { total, correct }]) => {
    const [low, high] = wilson(correct / total, total).map((share) => (share * 100).toFixed(1));
    const target = percent(accuracy(teacher.evaluation.byKind.get(kind)!));
    return {
      label: `${student.name}, ${kind}`,
      value: percent(correct / total),
      note: `${low} to ${high} with 95 %; teacher ${target}`,
    };
  });
}

/** Serves teacher, the new student and the shipped one; a port that is taken gives way to the next. */
async function serveResult(teacher: string, student: string, port: number): Promise<void> {
  const shipped = assetPath('student');
  const models = [
    { name: 'teacher', folder: teacher },
    { name: 'student', folder: student },
    ...(existsSync(join(shipped, 'config.json')) ? [{ name: 'student, distilled at length', folder: shipped }] : []),
  ];
  for (let i = 0; ; i++) {
    try {
      return await serveModels(models, { port: port === 0 ? 0 : port + i });
    } catch (error) {
      const taken = error instanceof SystemError && (error.cause as NodeJS.ErrnoException)?.code === 'EADDRINUSE';
      if (!taken || i === PORTS) throw error;
    }
  }
}
