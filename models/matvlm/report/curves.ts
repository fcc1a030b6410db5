import type { Chart, Series } from './chart.ts';

/** A run's log: lines of metrics.jsonl. */
export interface LoggedRun {
  readonly name: string;
  readonly lines: readonly { readonly step: number; readonly [metric: string]: unknown }[];
}

const LOSSES: readonly (readonly [metric: string, title: string])[] = [
  ['train/loss', 'Total loss'],
  ['train/kl', 'Kullback–Leibler divergence to the teacher'],
  ['train/layer', 'Layer-wise distance to the teacher'],
  ['train/ce', 'Cross-entropy of the answers'],
];

/**
 * Charts of what runs have logged: each loss, each `eval/accuracy…`, both with one line a run, and the first run's
 * learning rate. A metric that no run logged gives no chart.
 */
export function curvesOf(runs: readonly LoggedRun[]): Chart[] {
  const chart = (metric: string, title: string, yLabel: string, more: Partial<Chart> = {}, of = runs): Chart[] => {
    const series = of.map((run) => seriesOf(run, metric)).filter((s) => s.points.length > 0);
    return series.length > 0 ? [{ title, xLabel: 'step', yLabel, series, ...more }] : [];
  };
  const metrics = new Set(runs.flatMap((run) => run.lines.flatMap((line) => Object.keys(line))));
  const accuracies = [...metrics].filter((m) => m.startsWith('eval/accuracy')).sort();
  const kindOf = (metric: string) => metric.slice('eval/accuracy'.length).replace(/^[/_]/, '');
  return [
    ...LOSSES.flatMap(([metric, title]) => chart(metric, title, 'loss', { log: true, smooth: true })),
    ...accuracies.flatMap((m) => {
      return chart(m, kindOf(m) ? `Accuracy, ${kindOf(m)}` : 'Accuracy', 'right answers', { percent: true });
    }),
    // Runs that stand beside one another share a schedule.
    ...chart('lr', 'Learning rate', 'rate', {}, runs.slice(0, 1)),
  ];
}

function seriesOf({ name, lines }: LoggedRun, metric: string): Series {
  const points = lines.flatMap((line): [number, number][] => {
    const value = line[metric];
    return typeof value === 'number' && Number.isFinite(value) ? [[line.step, value]] : [];
  });
  return { name, points };
}
