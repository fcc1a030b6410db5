import type { Chart, Series } from './chart.ts';
import { aroundMean, type Interval, wilson } from './interval.ts';

/** A line of metrics.jsonl. */
export interface LogLine {
  readonly step: number;
  readonly [metric: string]: unknown;
}

/** A run's log. */
export interface LoggedRun {
  readonly name: string;
  readonly lines: readonly LogLine[];
}

/** Metrics of every step and how they are drawn. */
const OF_STEPS: readonly (readonly [metric: string, title: string, yLabel: string, more: Partial<Chart>])[] = [
  ['train/loss', 'Total loss', 'loss', { log: true, smooth: true }],
  ['train/kl', 'KL divergence to the teacher', 'loss', { log: true, smooth: true }],
  ['train/layer', 'Layer-wise distance to the teacher', 'loss', { log: true, smooth: true }],
  ['train/ce', 'Cross-entropy of the answers', 'loss', { log: true, smooth: true }],
  ['grad_norm', 'Gradient norm, before clipping', 'norm', { log: true, smooth: true }],
  ['tokens_per_second', 'Throughput', 'tokens a second', { smooth: true }],
  ['lr', 'Learning rate', 'rate', {}],
];

const ACCURACY = 'eval/accuracy';

/** Charts of what runs have logged of each step, one line a run. A metric that no run logged gives no chart. */
export function trainingCurves(runs: readonly LoggedRun[]): Chart[] {
  return OF_STEPS.flatMap(([metric, title, yLabel, more]) => {
    // Runs that stand beside one another share a schedule.
    return chart(metric === 'lr' ? runs.slice(0, 1) : runs, metric, title, yLabel, more);
  });
}

/**
 * Charts of the evaluations along the way, one line a run, with 95 % intervals: divergence from the teacher, and
 * accuracy by kind of question. Only what was asked the same questions as most is drawn: an evaluation of more or fewer
 * would be no point of the same curve.
 */
export function testCurves(runs: readonly LoggedRun[]): Chart[] {
  const alike = sameQuestions(runs);
  const metrics = new Set(alike.flatMap(({ lines }) => lines.flatMap((line) => Object.keys(line))));
  const kinds = [...metrics].filter((m) => m.startsWith(`${ACCURACY}/`)).sort();
  const divergence = { log: true, spread: ({ 'eval/kl': mean, 'eval/kl_stderr': error }: LogLine) => around(mean, error) };
  return [
    ...chart(alike, 'eval/kl', 'KL divergence to the teacher', 'nats a token', divergence),
    ...(kinds.length > 0 ? kinds : [ACCURACY]).flatMap((metric) => {
      const kind = metric.slice(ACCURACY.length);
      const spread = (line: LogLine) => ofShare(line[metric], line[`eval/questions${kind}`]);
      return chart(alike, metric, `Accuracy, ${kind.slice(1) || 'all'}`, 'right answers', { percent: true, spread });
    }),
  ];
}

/** Questions and images behind each point of `testCurves`; null where there is none. */
export function askedAtEachPoint(runs: readonly LoggedRun[]): { questions: number; images: number | null } | null {
  const line = sameQuestions(runs).flatMap(({ lines }) => lines)[0];
  if (!line) return null;
  const images = line['eval/images'];
  return { questions: Number(line['eval/questions']), images: typeof images === 'number' ? images : null };
}

/** The evaluations that asked as many questions as most did. */
function sameQuestions(runs: readonly LoggedRun[]): LoggedRun[] {
  const counts = new Map<unknown, number>();
  const evaluated = runs.map(({ name, lines }) => ({ name, lines: lines.filter((line) => ACCURACY in line) }));
  for (const { lines } of evaluated) {
    for (const { 'eval/questions': n } of lines) counts.set(n, (counts.get(n) ?? 0) + 1);
  }
  const [most] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? [];
  return evaluated.map(({ name, lines }) => ({ name, lines: lines.filter((l) => l['eval/questions'] === most) }));
}

interface Look extends Omit<Partial<Chart>, 'series'> {
  readonly spread?: (line: LogLine) => Interval | null;
}

function chart(runs: readonly LoggedRun[], metric: string, title: string, yLabel: string, look: Look): Chart[] {
  const { spread, ...more } = look;
  const series = runs.map((run) => seriesOf(run, metric, spread)).filter((s) => s.points.length > 0);
  return series.length > 0 ? [{ title, xLabel: 'step', yLabel, series, ...more }] : [];
}

function seriesOf({ name, lines }: LoggedRun, metric: string, spread: Look['spread']): Series {
  const measured = lines.filter((line) => isFinite(line[metric]));
  const points = measured.map((line) => [line.step, line[metric] as number] as const);
  const bars = measured.flatMap((line): [number, Interval][] => {
    const bar = spread?.(line);
    return bar ? [[line.step, bar]] : [];
  });
  return { name, points, ...(bars.length > 0 ? { spread: new Map(bars) } : {}) };
}

function around(mean: unknown, error: unknown): Interval | null {
  return isFinite(mean) && isFinite(error) ? aroundMean(mean, error) : null;
}

function ofShare(share: unknown, count: unknown): Interval | null {
  return isFinite(share) && isFinite(count) && count > 0 ? wilson(share, count) : null;
}

function isFinite(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}
