import { existsSync } from 'node:fs';
import type { Backend } from '../../../../../engine/backend.ts';
import { ArgumentError, CheckpointError } from '../../../../../engine/errors.ts';
import { diskFolder } from '../../../../../engine/node/index.ts';
import { Checkpoint } from '../../../../../engine/safetensors/index.ts';
import { Random } from '../../../../nn/random.ts';
import type { MatvlmConfig } from '../../../config.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { isTrainable } from '../../../names.ts';
import type { LossOptions } from '../../../losses.ts';
import { MaTVLM } from '../../../model.ts';
import { openDatasets } from '../../node/datasets.ts';
import { modelFolder, readModel, SHIPPED, tokenizerFiles } from '../../node/model-folder.ts';
import { countByPart, outline } from '../../../sizes.ts';
import { createStudent, evenLayers, studentConfig } from '../../../student.ts';
import { divergences } from '../../../train/divergence.ts';
import { distillTask } from '../../../train/loop.ts';
import { loadVlm, promptEncoder, readTokenizer, Vlm } from '../../../vlm.ts';
import { disposeModel, finished, loadWeights, readConfig, sharedParameters } from '../../../weights.ts';
import type { Context } from '../command.ts';
import { besideRandom, isCompared } from '../training/comparison.ts';
import { sayDryRun } from '../training/dry-run.ts';
import { distillTable } from './distill.ts';
import { hostFloats } from '../../../../nn/parameters.ts';
import { UsageError } from '../terminal/errors.ts';
import { interrupted } from '../terminal/interrupt.ts';
import type { Settings } from '../options/options.ts';
import { detail, warn } from '../terminal/output.ts';
import { modelSize } from '../training/report.ts';
import { checkSteps } from '../training/resume.ts';
import { type Outcome, runSession } from '../training/session.ts';
import {
  finishRun,
  isFinished,
  makeLoader,
  openSettings,
  sessionSettings,
  trainSettings,
  withBackend,
  withRun,
} from '../training/training.ts';
import { buildAdvice, expectSpoken } from '../training/vocabulary.ts';

type DistillTable = typeof distillTable;
export type DistillSettings = Settings<DistillTable>;

/** `matvlm distill` */
export async function distill(context: Context<DistillTable>): Promise<void> {
  const { settings, point, overrides } = await openSettings(distillTable, context);
  const signal = interrupted('Stopping after this step and saving; Ctrl-C again quits at once.');
  const plan = await planDistillation(settings, point?.checkpoint.path ?? null, signal);
  checkSteps(plan.steps, point?.checkpoint.step ?? 0);
  if (context.flags.dryRun) return sayPlan(plan, settings);
  if (await isFinished({ point }, plan.steps, settings.finalEval)) return;
  // A run's newest checkpoint may be another one when this run is resumed.
  const shipped = SHIPPED.includes(settings.teacher) && !existsSync(settings.teacher);
  const teacherFolder = shipped ? settings.teacher : plan.teacher;
  await withBackend(settings, async (backend) => {
    const teacher = await loadVlm(diskFolder(plan.teacher), backend, { signal, weights: 'f32' });
    const student = await studentOf(teacher.model, plan, settings, backend);
    const exact = { ...settings, teacher: teacherFolder, backend: backend.kind };
    await withRun({ settings: exact, point, overrides }, { command: 'distill', steps: plan.steps }, async (run, made) => {
      const resume = point?.checkpoint.path ?? null;
      const compared = { run: run.path, steps: plan.steps, wanted: isCompared(run.path), signal };
      const { outcome, random } = await besideRandom(compared, () =>
        distillInto({ ...plan, teacher, student, run, made, settings, resume, signal }),
      );
      const models = [modelSize('teacher', teacher.model), modelSize('student', student, isTrainable)];
      await finishRun(outcome, {
        ...{ command: 'distill', run, steps: plan.steps, settings, tests: plan.tests },
        ...{ backend, models, teacher, random, signal },
      });
    });
    disposeModel(student, teacher.model);
    teacher.dispose();
  });
}

/** What is known before anything is computed. */
export interface DistillPlan {
  /** Folder of the teacher. */
  readonly teacher: string;
  /** Folder of a student that the run begins or goes on with. */
  readonly from: string | null;
  readonly config: MatvlmConfig;
  readonly layers: readonly number[];
  readonly loader: ReturnType<typeof makeLoader>;
  readonly tests: readonly VqaDataset[];
  readonly steps: number;
  readonly first: { readonly questions: number; readonly length: number };
  readonly signal: AbortSignal;
}

/** Opens folders and data sets and checks that all fits, before a run folder is made. */
export async function planDistillation(
  settings: DistillSettings,
  resume: string | null,
  signal: AbortSignal,
): Promise<DistillPlan> {
  if (settings.klWeight + settings.layerWeight + settings.ceWeight === 0) {
    throw new UsageError('--kl-weight, --layer-weight and --ce-weight are all 0: there is no loss; give one a weight');
  }
  const teacher = await modelFolder(settings.teacher, warn);
  const source = diskFolder(teacher);
  const teacherConfig = await readConfig(source);
  const tokenizer = await readTokenizer(source);
  const from = resume ?? (settings.student && (await modelFolder(settings.student, warn)));
  const layers = settings.layers ?? evenLayers(teacherConfig.model.text_config.num_hidden_layers, settings.ratio);
  const config = from ? await readConfig(diskFolder(from)) : studentConfig(teacherConfig, layers, settings.bias);
  if (!config.mamba) throw new UsageError(`--student ${from}: it has no mamba_config.json, so it is no student`);
  const sets = await openDatasets(settings.data, 'train', settings.images, signal);
  const encoder = promptEncoder(config, tokenizer);
  const tests = await openDatasets(settings.data, 'test', null, signal);
  const advice = `the tokenizer is the teacher's: ${buildAdvice(settings.data)}`;
  expectSpoken([...sets, ...tests], { encoder, tokenizer }, advice);
  const loader = makeLoader({ model: outline(config), encoder, tokenizer }, sets, settings);
  const steps = settings.steps ?? Math.floor(loader.batchesPerEpoch / settings.accumulate);
  if (steps < 1)
    throw new ArgumentError(`an epoch of ${loader.images} images has no whole step; lower --batch or --accumulate`);
  // Told here, before anything is made or computed, of a schedule that does not fit.
  trainSettings(settings, steps);
  const { questions } = sets[0].get(0);
  const lengths = questions.map((q) => encoder.questionIds(q.question, q.answer).ids.length);
  const first = { questions: questions.length, length: Math.max(...lengths) };
  return { teacher, from, config, layers, loader, tests, steps, first, signal };
}

function sayPlan(plan: DistillPlan, settings: DistillSettings): Promise<void> {
  const attention = outline({ ...plan.config, mamba: null });
  const shared = new Set(outline(plan.config).parameters.keys());
  const replaced = [...countByPart(attention, (name) => !shared.has(name) || isTrainable(name)).values()];
  const dry = {
    config: plan.config,
    trained: isTrainable,
    teacherOnly: replaced.reduce((a, b) => a + b, 0),
    images: plan.loader.images,
    steps: plan.steps,
    questionsPerImage: plan.first.questions,
    questionLength: plan.first.length,
  };
  return sayDryRun(dry, settings);
}

/** The student on the teacher's backend: read from a folder, or made anew. */
export async function studentOf(
  teacher: MaTVLM,
  plan: Pick<DistillPlan, 'from' | 'config' | 'layers'>,
  settings: Pick<DistillSettings, 'init' | 'identityConv' | 'bias' | 'seed'>,
  backend: Backend,
): Promise<MaTVLM> {
  const { init: from, identityConv, bias, seed } = settings;
  if (!plan.from) return createStudent(teacher, { from, identityConv, bias, layers: plan.layers }, new Random(seed));
  const checkpoint = await Checkpoint.open(diskFolder(plan.from));
  try {
    const student = new MaTVLM(plan.config, backend, sharedParameters(teacher));
    return await finished(student, teacher, async () => {
      await loadWeights(student, checkpoint, {}, isTrainable);
      await expectSameFrozen(student, checkpoint);
    });
  } finally {
    await checkpoint.close();
  }
}

/** The student was made from this very teacher: told by the frozen vectors, which are quick to compare. */
async function expectSameFrozen(student: MaTVLM, checkpoint: Checkpoint): Promise<void> {
  for (const [name, tensor] of student.parameters) {
    if (isTrainable(name) || tensor.shape.length > 1) continue;
    const [own, stored] = [await hostFloats(tensor), await checkpoint.readAs(name, 'f32')];
    if (own.every((x, i) => x === stored[i])) continue;
    throw new CheckpointError(
      `${checkpoint.name}: "${name}" is not the teacher's; give the teacher that the student was made from`,
    );
  }
}

/** A student, its teacher, and the run to distil in. */
export interface Distillation extends Pick<DistillPlan, 'loader' | 'steps'> {
  readonly teacher: Vlm;
  readonly student: MaTVLM;
  readonly run: Parameters<typeof runSession>[0]['run'];
  readonly settings: DistillSettings;
  readonly made: Parameters<typeof runSession>[0]['made'];
  readonly resume: string | null;
  /** Steps that the schedule is made for, where the run ends earlier. */
  readonly planned?: number;
  readonly tests: readonly VqaDataset[];
  readonly evalFirst?: boolean;
  readonly signal: AbortSignal;
}

/** Runs the training of a distillation. */
export async function distillInto(d: Distillation): Promise<Outcome> {
  const { teacher, student, settings, made, steps, loader, tests, run, resume, signal } = d;
  const read = async (folder: string) => ({ folder, tokenizer: await tokenizerFiles(folder) });
  const { folder, tokenizer } = await readModel(settings.teacher, read, warn);
  detail(`teacher ${folder}`);
  const vlm = new Vlm(student, teacher.tokenizer);
  return runSession({
    ...{ run, made, resume, loader, tests, steps, signal },
    vlm,
    divergence: (limit) => divergences(teacher.model, vlm, tests, limit, signal),
    tokenizer,
    task: distillTask(teacher.model, student, lossOptions(settings)),
    training: trainSettings(settings, d.planned ?? steps),
    evalFirst: d.evalFirst,
    ...sessionSettings(settings),
    card: {
      title: 'A MaTVLM student distilled by matvlm',
      command: ['distill', '-c', 'config.yaml'],
      datasets: tests.map(({ name }) => name),
      teacher: settings.teacher,
    },
  });
}

function lossOptions(s: DistillSettings): LossOptions {
  return {
    klWeight: s.klWeight,
    layerWeight: s.layerWeight,
    ceWeight: s.ceWeight,
    temperature: s.temperature,
    kind: s.loss,
    layerKind: s.layerLoss,
    reduction: s.reduction,
  };
}
