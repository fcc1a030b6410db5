import { basename, dirname } from 'node:path';
import { diskFolder } from '../../../../../engine/node/index.ts';
import { filesFolder } from '../../../../../engine/safetensors/index.ts';
import { ConfigError } from '../../../../nn/errors.ts';
import { emptyParameters } from '../../../../nn/parameters.ts';
import { Random } from '../../../../nn/random.ts';
import { type MatvlmConfig, parseConfig } from '../../../config.ts';
import type { VqaDataset } from '../../../data/dataset.ts';
import { initialise } from '../../../initialise.ts';
import { MaTVLM } from '../../../model.ts';
import { openDatasets } from '../../node/datasets.ts';
import { readModel, tokenizerFiles } from '../../node/model-folder.ts';
import { tinyConfig } from '../../../presets.ts';
import { outline } from '../../../sizes.ts';
import type { PromptEncoder } from '../../../template.ts';
import type { Tokenizer } from '../../../../nn/text/tokenizer.ts';
import type { BatchLoader } from '../../../train/loader.ts';
import { pretrainTask, type TrainSettings } from '../../../train/loop.ts';
import { promptEncoder, readTokenizer, Vlm } from '../../../vlm.ts';
import { readConfig, readJson } from '../../../weights.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../../../data/word-tokenizer.ts';
import type { Context } from '../command.ts';
import { sayDryRun } from '../training/dry-run.ts';
import { interrupted } from '../terminal/interrupt.ts';
import { detail, warn } from '../terminal/output.ts';
import type { Settings } from '../options/options.ts';
import { modelSize } from '../training/report.ts';
import { runSession } from '../training/session.ts';
import { checkSteps } from '../training/resume.ts';
import { trainTable } from './train.ts';
import {
  finishRun,
  isFinished,
  makeLoader,
  type Opened,
  openSettings,
  sessionSettings,
  trainSettings,
  withBackend,
  withRun,
} from '../training/training.ts';
import { buildAdvice, expectSpoken } from '../training/vocabulary.ts';

type TrainTable = typeof trainTable;

/** `matvlm train` */
export async function train(context: Context<TrainTable>): Promise<void> {
  const opened = await openSettings(trainTable, context);
  const signal = interrupted('Stopping after this step and saving; Ctrl-C again quits at once.');
  const prepared = await prepare(opened, signal);
  if (context.flags.dryRun) return sayTrainDryRun(prepared);
  const { settings, config, tokenizer, tests } = prepared;
  if (await isFinished(opened, settings.steps, settings.finalEval)) return;
  await withBackend(settings, async (backend) => {
    const model = new MaTVLM(config, backend, emptyParameters(backend));
    const vlm = new Vlm(model, tokenizer);
    if (!opened.point) initialise(model, new Random(settings.seed));
    const exact = { ...settings, backend: backend.kind };
    await withRun({ ...opened, settings: exact }, { command: 'train', steps: settings.steps }, async (run, made) => {
      const outcome = await runSession({
        ...{ run, made, vlm, tests, signal, loader: prepared.loader, tokenizer: prepared.files, training: prepared.training },
        resume: opened.point?.checkpoint.path ?? null,
        task: pretrainTask(model),
        steps: settings.steps,
        ...sessionSettings(settings),
        card: {
          title: 'A teacher',
          command: ['train', '-c', 'config.yaml'],
          datasets: tests.map(({ name }) => name),
        },
      });
      const models = [modelSize('model', model, () => true)];
      const { steps } = settings;
      await finishRun(outcome, { command: 'train', run, steps, settings, tests, backend, models, signal });
    });
    vlm.dispose();
  });
}

/** What is known before anything is computed. */
interface Prepared {
  readonly settings: Settings<TrainTable>;
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly tokenizer: Tokenizer;
  readonly config: MatvlmConfig;
  readonly training: TrainSettings;
  readonly encoder: PromptEncoder;
  readonly sets: readonly VqaDataset[];
  readonly tests: readonly VqaDataset[];
  readonly loader: BatchLoader;
}

/** Opens files and data sets and checks that all fits. A resumed run has configuration and tokenizer of its own. */
async function prepare({ settings, point }: Opened<Settings<TrainTable>>, signal: AbortSignal): Promise<Prepared> {
  const files = point ? await tokenizerFiles(point.checkpoint.path) : await tokenizerOf(settings.tokenizer);
  const tokenizer = await readTokenizer(filesFolder("the tokenizer's folder", files));
  const stored = point && diskFolder(point.checkpoint.path);
  const config = stored ? await readConfig(stored) : await configOf(settings.model, tokenizer);
  checkSteps(settings.steps, point?.checkpoint.step ?? 0);
  const training = trainSettings(settings, settings.steps);
  const encoder = promptEncoder(config, tokenizer);
  const sets = await openDatasets(settings.data, 'train', settings.images, signal);
  const tests = await openDatasets(settings.data, 'test', null, signal);
  expectSpoken([...sets, ...tests], { encoder, tokenizer }, buildAdvice(settings.data));
  const loader = makeLoader({ model: outline(config), encoder, tokenizer }, sets, settings);
  return { settings, files, tokenizer, config, training, encoder, sets, tests, loader };
}

function sayTrainDryRun({ config, settings, sets, encoder }: Prepared): Promise<void> {
  const { questions } = sets[0].get(0);
  const dry = {
    config,
    trained: () => true,
    teacherOnly: null,
    images: sets.reduce((sum, set) => sum + set.length, 0),
    steps: settings.steps,
    questionsPerImage: questions.length,
    questionLength: Math.max(...questions.map((q) => encoder.questionIds(q.question, q.answer).ids.length)),
  };
  return sayDryRun(dry, settings);
}

async function tokenizerOf(folder: string | null): Promise<Map<string, Uint8Array>> {
  if (folder !== null) return readModel(folder, tokenizerFiles, warn);
  const texts = Object.entries(tokenizerFileTexts(tinyTokenizer()));
  return new Map(texts.map(([name, text]) => [name, new TextEncoder().encode(text)]));
}

/** The configuration that `--model` names, checked. */
async function configOf(model: string, tokenizer: Tokenizer): Promise<MatvlmConfig> {
  if (model === 'tiny') return parseConfig(tinyConfig(tokenizer));
  const json = await readJson(diskFolder(dirname(model)), basename(model));
  if (json === null) throw new ConfigError(`${model}: there is no such file; give "tiny" or a config.json`);
  detail(`configuration ${model}`);
  return parseConfig(json, null, model);
}
