import { existsSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { MetricLine, Overrides } from '../../node/metrics.ts';
import { modelFolder } from '../../node/model-folder.ts';
import { UsageError } from '../terminal/errors.ts';
import { dashed, type Layer } from '../options/options.ts';
import { warn } from '../terminal/output.ts';

type Values = Readonly<Record<string, unknown>>;

/** Settings that hold the path of a model's or a tokenizer's folder. */
const FOLDERS = ['teacher', 'student', 'tokenizer'];
/** Settings that say what is trained and how it began: a checkpoint has them in its weights, none can change. */
const FIXED = [...FOLDERS, 'model', 'layers', 'ratio', 'init', 'identityConv', 'bias', 'seed'];
/** Settings that may change from one resume to the next: how long a run is, and when it evaluates and saves. */
const FREE = ['steps', 'saveEvery', 'saveTotalLimit', 'evalEvery', 'evalImages', 'finalEval'];
/** Settings that say where a run lies: its folder tells. */
const PLACE = ['runs', 'name'];

/** What the settings of a resumed run are compared with. */
export interface Resumed {
  /** The run's folder. */
  readonly run: string;
  /** The step at which it goes on. */
  readonly step: number;
  /** The settings that its checkpoint was made with. */
  readonly stored: Values;
  /** Those in its folder, which may have been edited since. */
  readonly file: Layer;
}

/** The settings that a checkpoint keeps: all but those that may change and those that say where the run lies. */
export function madeWith(settings: Values): Values {
  return Object.fromEntries(Object.entries(settings).filter(([key]) => ![...FREE, ...PLACE].includes(key)));
}

/**
 * Compares the settings given to a resumed run, by flags or by an edited file in its folder, with those that its
 * checkpoint was made with: `FIXED` ones may not differ, and others only with `--override`.
 * @returns what is overridden, to be logged
 * @throws UsageError for what may not differ, naming flag or line, stored and given value
 */
export async function reviewResume(
  { run, step, stored, file }: Resumed,
  given: Values,
  override: boolean,
): Promise<Overrides> {
  const changed: Record<string, Overrides[string]> = {};
  for (const [key, to] of Object.entries(madeWith(given))) {
    const from = stored[key];
    if (from === undefined || (await isSame(key, from, to))) continue;
    const edited = isDeepStrictEqual(file.values.get(key), to);
    const differs = `${edited ? file.where(key) : `--${dashed(key)}`}: the run ${run} has ${show(from)}, got ${show(to)}`;
    const another = `${edited ? 'put it back' : 'leave it out'}, or begin a new run without --resume`;
    if (FIXED.includes(key)) throw new UsageError(`${differs}, and this cannot change; ${another}`);
    if (!override) {
      throw new UsageError(`${differs}; ${another}, or change it after step ${step} with --override, which is logged`);
    }
    changed[dashed(key)] = { from, to: withAbsolutePaths({ [key]: to })[key] };
  }
  return changed;
}

/** Refuses flags that name another place than that of the run that `--resume` names. @throws UsageError */
export function checkPlace(run: string, { name, runs }: Values): void {
  if (name !== undefined && name !== basename(run)) {
    throw new UsageError(`--name: ${show(name)}, but --resume names ${run}; leave one of them out`);
  }
  if (runs !== undefined && resolve(String(runs)) !== dirname(resolve(run))) {
    throw new UsageError(`--runs: ${show(runs)}, but --resume names ${run}; leave one of them out`);
  }
}

/** @throws UsageError when a run shall end before the step at which it is */
export function checkSteps(steps: number, step: number): void {
  if (steps >= step) return;
  throw new UsageError(
    `--steps: ${steps}, but the run is at step ${step} already; give more, or resume one of its older checkpoints`,
  );
}

/**
 * The settings in a run's folder, without what was overridden at a step or later: a checkpoint of that step knows
 * nothing of it.
 * @param lines the run's log
 */
export function withoutLater({ values, where }: Layer, lines: readonly MetricLine[], step: number): Layer {
  const later = Object.assign({}, ...lines.filter((line) => line.step >= step).map((line) => line.override)) as Overrides;
  const isLater = (key: string, value: unknown) => isDeepStrictEqual(later[dashed(key)]?.to, value);
  return { values: new Map([...values].filter(([key, value]) => !isLater(key, value))), where };
}

/** The same settings with paths that hold in any working directory; names of what comes with the package stay. */
export function withAbsolutePaths<T extends Values>(settings: T): T {
  const paths = [...FOLDERS, 'model']
    .filter((key) => typeof settings[key] === 'string' && settings[key] !== 'tiny' && existsSync(settings[key]))
    .map((key) => [key, resolve(settings[key] as string)]);
  const data = Array.isArray(settings.data) ? { data: settings.data.map(absoluteSet) } : {};
  return { ...settings, ...Object.fromEntries(paths), ...data };
}

/** `easy-vqa=FOLDER` with the whole path of the folder. */
function absoluteSet(spec: string): string {
  const [name, folder] = spec.split(/=(.*)/s);
  return folder ? `${name}=${resolve(folder)}` : spec;
}

async function isSame(key: string, stored: unknown, given: unknown): Promise<boolean> {
  const plain = (value: unknown) => withAbsolutePaths({ [key]: value })[key];
  if (isDeepStrictEqual(plain(stored), plain(given))) return true;
  if (!FOLDERS.includes(key) || typeof stored !== 'string' || typeof given !== 'string') return false;
  const folder = resolve(await modelFolder(given, warn));
  const former = await modelFolder(stored).catch(() => null);
  if (former !== null) return folder === resolve(former);
  // A teacher may have moved. Its frozen weights are compared with the student's later on.
  if (key === 'teacher') warn(`the run's teacher ${stored} is gone; going on with ${folder} in its place`);
  return key === 'teacher';
}

function show(value: unknown): string {
  return Array.isArray(value) ? value.join(',') : value === null ? 'none' : String(value);
}
