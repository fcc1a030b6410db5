import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { modelFolder } from '../node/model-folder.ts';
import { UsageError } from './errors.ts';
import { dashed } from './options.ts';
import { warn } from './output.ts';

type Values = Readonly<Record<string, unknown>>;

/** Settings that hold the path of a model's or a tokenizer's folder. */
const FOLDERS = ['teacher', 'student', 'tokenizer'];
/** Settings that say what is trained and how it began: a checkpoint has them in its weights. */
const FIXED = [...FOLDERS, 'model', 'layers', 'ratio', 'init', 'identityConv', 'bias', 'seed'];
/** Settings that say which batch comes at which step. */
const BATCHES = ['data', 'images', 'batch', 'questions', 'augment', 'accumulate'];

/**
 * Checks the settings of a resumed run against those that it was begun with, and warns where the run will no longer
 * be the one that it would have been.
 * @throws UsageError for a setting that cannot change, naming flag, stored and given value
 */
export async function checkResumed(run: string, stored: Values, given: Values): Promise<void> {
  for (const key of FIXED) {
    if (key in stored && !(await isSame(key, stored[key], given[key]))) {
      throw new UsageError(
        `--${dashed(key)}: the run ${run} has ${show(stored[key])}, got ${show(given[key])}, and this cannot change; ` +
          'leave it out, or begin a new run without --resume',
      );
    }
  }
  const changed = BATCHES.filter((key) => key in stored && !isDeepStrictEqual(stored[key], given[key]));
  if (changed.length === 0) return;
  const list = changed.map((key) => `--${dashed(key)} (${show(stored[key])}, now ${show(given[key])})`);
  warn(`other batches than the run began with: ${list.join(', ')}; it is no longer the same bit for bit`);
}

/** @throws UsageError when a run shall end before the step at which it is */
export function checkSteps(steps: number, step: number): void {
  if (steps >= step) return;
  throw new UsageError(
    `--steps: ${steps}, but the run is at step ${step} already; give more, or resume one of its older checkpoints`,
  );
}

/** The same settings with paths that hold in any working directory; names of what comes with the package stay. */
export function withAbsolutePaths<T extends Values>(settings: T): T {
  const paths = [...FOLDERS, 'model']
    .filter((key) => typeof settings[key] === 'string' && settings[key] !== 'tiny' && existsSync(settings[key]))
    .map((key) => [key, resolve(settings[key] as string)]);
  return { ...settings, ...Object.fromEntries(paths) };
}

async function isSame(key: string, stored: unknown, given: unknown): Promise<boolean> {
  if (isDeepStrictEqual(stored, given)) return true;
  if (typeof stored !== 'string' || typeof given !== 'string') return false;
  if (!FOLDERS.includes(key)) return resolve(stored) === resolve(given);
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
