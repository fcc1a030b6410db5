import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../../../engine/errors.ts';
import { diskFolder } from '../../../engine/node/index.ts';
import type { VqaDataset } from '../data/dataset.ts';
import { openDatasets } from '../node/datasets.ts';
import { assetPath } from '../node/package-root.ts';
import type { RunFolder } from '../node/run-folder.ts';
import { accuracy, type Evaluation } from '../train/evaluate.ts';
import { loadVlm, type Vlm } from '../vlm.ts';
import { disposeModel } from '../weights.ts';
import { configLayer } from './command.ts';
import { compareWithRandom } from './comparison.ts';
import { distillTable } from './distill.ts';
import { distillInto, type DistillPlan, type DistillSettings, planDistillation, studentOf } from './distill-command.ts';
import { accuracyTable, evaluateAll, shares } from './evaluation.ts';
import { interrupted } from './interrupt.ts';
import { type Layer, resolve, type Settings } from './options.ts';
import { duration, percent, print, say } from './output.ts';
import { type Measured, writeReport } from './report.ts';
import { serveModels } from './serve-command.ts';
import { NOTHING_SAVED, type Outcome } from './session.ts';
import type { startTable } from './start.ts';
import { withBackend, withRun } from './training.ts';

type StartSettings = Settings<typeof startTable>;

/** Ports that are tried after one that is taken. */
const PORTS = 10;

/** `matvlm start`: the main job. */
export async function start(given: StartSettings): Promise<void> {
  const signal = interrupted('Stopping after this step and saving; Ctrl-C again quits at once.');
  const settings = await distillSettings(given);
  const plan = await planDistillation(settings, null, signal);
  let student: string | null = null;
  await withBackend(settings, async (backend) => {
    const teacher = await loadVlm(diskFolder(plan.teacher), backend, { signal });
    await withRun({ settings, point: null }, 'distill', async (run) => {
      student = await new Job(given, settings, plan, run, signal, backend.description).run(teacher);
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
  return resolve(distillTable, [recipe, flags]);
}

/** Distillation, comparison and report in one run folder. */
class Job {
  private readonly started = performance.now();

  constructor(
    private readonly given: StartSettings,
    private readonly settings: DistillSettings,
    private readonly plan: DistillPlan,
    private readonly folder: RunFolder,
    private readonly signal: AbortSignal,
    private readonly backend: string,
  ) {}

  /** The student's folder; null when interrupted. */
  async run(teacher: Vlm): Promise<string | null> {
    const tests = await openDatasets(this.settings.data, 'test', this.given.testImages, this.signal);
    const target = await evaluateAll(teacher, tests, { signal: this.signal, label: 'teacher' });
    const { outcome, random } = await this.distilBoth(teacher, tests);
    if (!outcome.evaluation || !outcome.checkpoint) return this.sayStopped(outcome);
    const measured: Measured[] = [
      { name: 'teacher', source: 'teacher', evaluation: target },
      ...(outcome.before
        ? [{ name: 'student, undistilled', source: 'before' as const, evaluation: outcome.before }]
        : []),
      { name: 'student', source: 'student', evaluation: outcome.evaluation },
    ];
    print(accuracyTable(new Map(measured.map(({ name, evaluation }) => [name, evaluation]))));
    const report = await this.report(measured, tests, random);
    say(`student ${outcome.checkpoint}`);
    say(`report  ${report}`);
    return outcome.checkpoint;
  }

  /** Distils, and beside it from random initialisation, which ends with this run whatever ends it. */
  private async distilBoth(
    teacher: Vlm,
    tests: readonly VqaDataset[],
  ): Promise<{ outcome: Outcome; random: string | null }> {
    const over = new AbortController();
    const comparison = this.given.compare
      ? compareWithRandom(this.folder.path, this.plan.steps, AbortSignal.any([this.signal, over.signal]))
      : Promise.resolve(null);
    try {
      const outcome = await this.distil(teacher, tests);
      return { outcome, random: outcome.evaluation && (await comparison) };
    } finally {
      over.abort();
      await comparison;
    }
  }

  private async distil(teacher: Vlm, tests: readonly VqaDataset[]): Promise<Outcome> {
    const { settings, folder: run, signal } = this;
    const { loader, steps } = this.plan;
    const student = await studentOf(teacher.model, this.plan, settings, teacher.model.backend);
    try {
      const common = { teacher, student, run, settings, loader, steps, tests, evalFirst: true };
      return await distillInto({ ...common, planned: steps, resume: null, signal });
    } finally {
      disposeModel(student, teacher.model);
    }
  }

  private report(measured: Measured[], tests: readonly VqaDataset[], random: string | null): Promise<string> {
    const [target, result] = ['teacher', 'student'].map((name) => measured.find((m) => m.name === name)!.evaluation);
    const layers = this.plan.layers.join(', ');
    return writeReport({
      run: this.folder.path,
      title: 'A teacher turned into a Mamba–Transformer hybrid',
      summary:
        `Layers ${layers} of the decoder became Mamba-2 mixers, initialised from attention and distilled in ` +
        `${this.plan.steps} steps; ${duration((performance.now() - this.started) / 1000)} in all.`,
      command: ['npm start', this.flags()].filter(Boolean).join(' -- '),
      headlines: headlines(target, result),
      measured,
      curves: new Map([['from attention', this.folder.path], ...(random ? [['from random', random] as const] : [])]),
      tests,
      settings: this.settings,
      backend: this.backend,
    });
  }

  private flags(): string {
    const { full, data, steps } = this.given;
    const parts = [full && '--full', data && `--data ${data.join(',')}`, steps && `--steps ${steps}`];
    return parts.filter(Boolean).join(' ');
  }

  private sayStopped({ step, checkpoint }: Outcome): null {
    if (!checkpoint) {
      say(NOTHING_SAVED);
      return null;
    }
    say(`stopped at step ${step} of ${this.plan.steps}, saved in ${checkpoint}`);
    say(`go on with: npx matvlm distill --resume ${this.folder.path}`);
    return null;
  }
}

function headlines(teacher: Evaluation, student: Evaluation): { label: string; value: string; note: string }[] {
  return [...shares(student)]
    .filter(([kind]) => kind !== 'all')
    .map(([kind, share]) => {
      const target = shares(teacher).get(kind) ?? accuracy(teacher);
      return { label: `student, ${kind}`, value: percent(share), note: `teacher ${percent(target)}` };
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
