import { cpus } from 'node:os';
import { join } from 'node:path';
import type { VqaDataset, VqaSample } from '../../../data/dataset.ts';
import { pngDataUri } from '../../node/encode-png.ts';
import { readMetrics } from '../../node/metrics.ts';
import { packageVersion, sourceCommit } from '../../node/package-root.ts';
import {
  type AccuracyRow,
  type AccuracyTable,
  askedAtEachPoint,
  type Headline,
  type LoggedRun,
  type ModelSize,
  renderReport,
  type ReportData,
  type ReportSample,
  type Setting,
  settingText,
  testCurves,
  trainingCurves,
} from '../../report/report.ts';
import type { MaTVLM } from '../../../model.ts';
import { countByPart } from '../../../sizes.ts';
import { evaluate, type Evaluation } from '../../../train/evaluate.ts';
import type { Vlm } from '../../../vlm.ts';
import { writeFileAtomic } from '../../store/index.ts';
import { shares } from './evaluation.ts';
import { dashed } from '../options/options.ts';
import { thousands } from '../terminal/output.ts';

/** A model's evaluation under the name that the report shows. */
export interface Measured {
  readonly name: string;
  readonly source: AccuracyRow['source'];
  readonly evaluation: Evaluation;
}

export interface ReportInput {
  /** The run's folder; `report.html` goes there. */
  readonly run: string;
  readonly title: string;
  readonly summary?: string;
  readonly command: string;
  readonly headlines?: readonly Headline[];
  /** Of evaluations that may be compared: see `comparable`. */
  readonly measured: readonly Measured[];
  /** Models that were not evaluated, to be asked about the samples. */
  readonly others?: readonly { readonly name: string; readonly vlm: Vlm }[];
  readonly models: readonly ModelSize[];
  /** Runs whose curves are drawn together, by name: folders with a metrics.jsonl. */
  readonly curves: ReadonlyMap<string, string>;
  readonly tests: readonly VqaDataset[];
  readonly settings: Readonly<Record<string, unknown>>;
  /** The backend's own words. */
  readonly backend: string;
}

/** What others have published for these kinds of questions. */
const PUBLISHED: readonly AccuracyRow[] = [
  {
    name: 'Relation network (Santoro et al. 2017)',
    source: 'published',
    scores: { 'non-relational': 0.94, relational: 0.94 },
  },
  { name: 'CNN + MLP (Santoro et al. 2017)', source: 'published', scores: { relational: 0.63 } },
  { name: 'Best published CNN (easy-VQA)', source: 'published', scores: { 'easy-vqa': 0.938 } },
  { name: 'The question alone (easy-VQA)', source: 'published', scores: { 'easy-vqa': 0.67 } },
  { name: 'Always "yes" (easy-VQA)', source: 'published', scores: { 'easy-vqa': 0.373 } },
];

const SAMPLE_IMAGES = 8;
const QUESTIONS_AN_IMAGE = 6;

/** Writes `report.html` into the run's folder and gives its path. */
export async function writeReport(input: ReportInput): Promise<string> {
  const runs: LoggedRun[] = [];
  for (const [name, folder] of input.curves)
    runs.push({ name, lines: await readMetrics(join(folder, 'metrics.jsonl')) });
  const html = renderReport({
    title: input.title,
    summary: input.summary,
    command: input.command,
    created: new Date(),
    headlines: input.headlines,
    learning: learningOf(runs),
    accuracy: input.measured.length > 0 ? accuracyOf(input.measured) : undefined,
    curves: trainingCurves(runs),
    samples: await samplesOf(input),
    models: input.models,
    settings: await settingsOf(input),
    environment: await environment(input.backend),
  });
  const path = join(input.run, 'report.html');
  await writeFileAtomic(path, html);
  return path;
}

/** The settings, with what was given to a resumed run in place of its own. */
async function settingsOf({ run, settings }: ReportInput): Promise<Record<string, Setting>> {
  const lines = await readMetrics(join(run, 'metrics.jsonl'));
  const shown = Object.entries(settings).map(([name, value]): [string, Setting] => {
    const key = dashed(name);
    const former = lines.flatMap(({ step, override }) =>
      override && key in override ? [`${settingText(override[key].from as Setting)} up to step ${thousands(step)}`] : [],
    );
    return [key, former.length > 0 ? [settingText(value as Setting), ...former].join('; ') : (value as Setting)];
  });
  return Object.fromEntries(shown);
}

function accuracyOf(measured: readonly Measured[]): AccuracyTable {
  const kinds = [...measured[0].evaluation.byKind.keys()];
  const counts = Object.fromEntries([...measured[0].evaluation.byKind].map(([kind, { total }]) => [kind, total]));
  const rows = measured.map(({ name, source, evaluation }): AccuracyRow => {
    const known = [...shares(evaluation)].filter(([kind]) => kinds.includes(kind));
    return { name, source, scores: Object.fromEntries(known) };
  });
  const published = PUBLISHED.filter(({ scores }) => Object.keys(scores).some((kind) => kinds.includes(kind)));
  return { kinds, counts, rows: [...rows, ...published] };
}

/** The size of a model. @param trained tells the parameters that were trained here */
export function modelSize(name: string, model: MaTVLM, trained?: (name: string) => boolean): ModelSize {
  const total = (counts: ReadonlyMap<string, number>) => [...counts.values()].reduce((a, b) => a + b, 0);
  return { name, parts: countByPart(model), trained: trained ? total(countByPart(model, trained)) : null };
}

function learningOf(runs: readonly LoggedRun[]): ReportData['learning'] {
  const asked = askedAtEachPoint(runs);
  if (!asked) return undefined;
  const { questions, images } = asked;
  const about = images === null ? '' : ` about the same ${images === 1 ? 'image' : `${thousands(images)} images`}`;
  const note =
    `Every point asks the same ${thousands(questions)} questions${about} ` +
    'of the test split. Bars span 95 %: of an accuracy by the interval of Wilson, questions taken as independent; of a ' +
    'divergence, which is a mean over the words of the right answers on each image, by 1.96 standard errors over images.';
  return { note, charts: testCurves(runs) };
}

/** Images from all over the test sets, with some of their questions and what each model answered. */
async function samplesOf({ measured, tests, others = [] }: ReportInput): Promise<ReportSample[]> {
  const shown = chosen(measured, tests);
  const set: VqaDataset = { name: 'samples', split: 'test', length: shown.length, get: (i) => shown[i] };
  const asked = [];
  for (const { name, vlm } of others) asked.push({ name, evaluation: await evaluate(vlm, set) });
  const answers = [...asked, ...measured].map(({ name, evaluation }) => ({
    name,
    byQuestion: new Map(evaluation.samples.map((s) => [`${s.id} ${s.question}`, s.predicted])),
  }));
  const samples: ReportSample[] = [];
  for (const sample of shown) {
    const image = await pngDataUri(await sample.image());
    for (const { kind, question, answer } of distinct(sample)) {
      const texts = answers.map(({ name, byQuestion }) => ({
        model: name,
        text: byQuestion.get(`${sample.id} ${question}`) ?? '',
      }));
      samples.push({ image, kind, question, gold: answer, answers: texts });
    }
  }
  return samples;
}

/** Samples that every model was asked about, evenly spread over the sets. */
function chosen(measured: readonly Measured[], tests: readonly VqaDataset[]): VqaSample[] {
  if (measured.length === 0) return [];
  const asked = measured.map(({ evaluation }) => new Set(evaluation.samples.map(({ id }) => id)));
  return tests.flatMap((set) => {
    const common = Array.from({ length: set.length }, (_, i) => i).filter((i) =>
      asked.every((ids) => ids.has(set.get(i).id)),
    );
    const count = Math.min(common.length, Math.ceil(SAMPLE_IMAGES / tests.length));
    return Array.from({ length: count }, (_, i) => set.get(common[Math.floor((i * common.length) / count)]));
  });
}

/** Some different questions on an image, from each kind as many. */
function distinct({ questions }: VqaSample): VqaSample['questions'] {
  const different = [...new Map(questions.map((q) => [q.question, q])).values()];
  const kinds = [...new Set(different.map((q) => q.kind))];
  const each = Math.ceil(QUESTIONS_AN_IMAGE / kinds.length);
  return kinds.flatMap((kind) => different.filter((q) => q.kind === kind).slice(0, each));
}

async function environment(backend: string): Promise<Record<string, string>> {
  const [cpu] = cpus();
  const source = await sourceCommit();
  const commit = source && `, commit ${source.commit}${source.changed ? ' with changes' : ''}`;
  return {
    matvlm: `${packageVersion()}${commit ?? ''}`,
    backend,
    node: process.version,
    system: `${process.platform} ${process.arch}`,
    processor: `${cpus().length} × ${cpu?.model.trim() ?? 'unknown'}`,
  };
}
