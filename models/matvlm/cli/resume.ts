import { existsSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { MetricLine, Overrides } from '../node/metrics.ts';
import { modelFolder } from '../node/model-folder.ts';
import { UsageError } from './errors.ts';
import { dashed } from './options.ts';
import { warn } from './output.ts';

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
  /** The settings that it was made with, up to that step. */
  readonly stored: Values;
}

/**
 * Compares the settings given to a resumed run with its own: `FREE` ones may differ, `FIXED` ones may not, and all
 * others only with `--override`.
 * @returns what is overridden, to be logged
 * @throws UsageError for what may not differ, naming flag, stored and given value
 */
export async function reviewResume(
  { run, step, stored }: Resumed,
  given: Values,
  override: boolean,
): Promise<Overrides> {
  const changed: Record<string, Overrides[string]> = {};
  for (const [key, from] of Object.entries(stored)) {
    const to = given[key];
    if (FREE.includes(key) || PLACE.includes(key) || (await isSame(key, from, to))) continue;
    const differs = `--${dashed(key)}: the run ${run} has ${show(from)}, got ${show(to)}`;
    const another = 'leave it out, or begin a new run without --resume';
    if (FIXED.includes(key)) throw new UsageError(`${differs}, and this cannot change; ${another}`);
    if (!override) {
      throw new UsageError(`${differs}; ${another}, or change it after step ${step} with --override, which is logged`);
    }
    changed[dashed(key)] = { from, to };
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
 * The settings with which a run had been made up to a step: those that stand in its folder, without what was
 * overridden at that step or later.
 * @param lines its log
 */
export function settingsAt<T extends Values>(settings: T, lines: readonly MetricLine[], step: number): T {
  const undone: Record<string, unknown> = { ...settings };
  const keys = new Map(Object.keys(settings).map((key) => [dashed(key), key]));
  for (const { override, step: at } of [...lines].reverse()) {
    if (!override || at < step) continue;
    for (const [name, { from }] of Object.entries(override)) undone[keys.get(name) ?? name] = from;
  }
  return undone as T;
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
