import type { VqaDataset } from '../../../data/dataset.ts';
import { accuracy, evaluate, type Evaluation, restrict } from '../../../train/evaluate.ts';
import type { Vlm } from '../../../vlm.ts';
import { percent, table } from '../terminal/output.ts';
import { Progress } from '../terminal/progress.ts';
import type { Styled } from '../terminal/terminal.ts';

export interface EvaluateAllOptions {
  /** Images of each set at most. */
  readonly limit?: number;
  readonly batch?: number;
  readonly signal?: AbortSignal;
  /** What stands before the progress bar; none is shown without. */
  readonly label?: string;
}

/** Evaluates a model on several sets and adds up. @throws the signal's reason when aborted */
export async function evaluateAll(
  vlm: Vlm,
  sets: readonly VqaDataset[],
  { limit, batch, signal, label }: EvaluateAllOptions = {},
): Promise<Evaluation> {
  const all: Evaluation = { total: 0, correct: 0, byKind: new Map(), samples: [] };
  const images = sets.reduce((sum, set) => sum + Math.min(limit ?? Infinity, set.length), 0);
  const progress = new Progress(label ?? '', images, 0, label === undefined);
  let before = 0;
  for (const set of sets) {
    const onProgress = (done: number) => progress.update(before + done, 'images');
    merge(all, await evaluate(vlm, set, { limit, batch, signal, onProgress }));
    before += Math.min(limit ?? Infinity, set.length);
  }
  progress.end();
  return all;
}

function merge(all: Evaluation, one: Evaluation): void {
  all.total += one.total;
  all.correct += one.correct;
  all.samples.push(...one.samples);
  for (const [kind, { total, correct }] of one.byKind) {
    const score = all.byKind.get(kind) ?? { total: 0, correct: 0 };
    all.byKind.set(kind, { total: score.total + total, correct: score.correct + correct });
  }
}

/** Ids of the first `limit` images of each set. */
export function imageIds(sets: readonly VqaDataset[], limit: number): Set<string> {
  const idsOf = (set: VqaDataset) => Array.from({ length: Math.min(limit, set.length) }, (_, i) => set.get(i).id);
  return new Set(sets.flatMap(idsOf));
}

/** Several models' evaluations on the images that all of them were asked about: what may be compared. */
export function comparable<T extends { readonly evaluation: Evaluation }>(measured: readonly T[]): T[] {
  const asked = measured.map(({ evaluation }) => new Set(evaluation.samples.map(({ id }) => id)));
  const common = new Set([...(asked[0] ?? [])].filter((id) => asked.every((ids) => ids.has(id))));
  return measured.map((one) => ({ ...one, evaluation: restrict(one.evaluation, common) }));
}

/** Accuracy, 0…1, of every kind and, last, of all. */
export function shares(evaluation: Evaluation): Map<string, number> {
  const kinds = [...evaluation.byKind].map(([kind, score]): [string, number] => [kind, accuracy(score)]);
  return new Map(kinds.length === 1 ? kinds : [...kinds, ['all', accuracy(evaluation)]]);
}

/** A table of several models' accuracy, a row a kind. */
export function accuracyTable(columns: ReadonlyMap<string, Evaluation>): Styled {
  const [first] = columns.values();
  const kinds = [...shares(first).keys()];
  const rows = kinds.map((kind) => {
    const count = kind === 'all' ? first.total : first.byKind.get(kind)!.total;
    return [kind, ...[...columns.values()].map((e) => percent(shares(e).get(kind) ?? 0)), String(count)];
  });
  return table([['questions', ...columns.keys(), 'asked'], ...rows]);
}
