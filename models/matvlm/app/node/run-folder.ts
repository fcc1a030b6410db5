import { copyFile, mkdir, readdir, rmdir, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ArgumentError, CheckpointError, SystemError } from '../../../../engine/errors.ts';
import { systemError } from '../../../../engine/node/index.ts';
import { type CheckpointFolder, latestCheckpoint, listCheckpoints, verifyCheckpoint } from '../store/checkpoints.ts';
import { acquireLock, type Lock } from '../store/lock.ts';
import { disk, writeFileAtomic } from '../store/index.ts';
import { verifyTrainer } from './load-trainer.ts';

/** A run's folder: config.yaml, metrics.jsonl, checkpoint-N, samples, report.html. Held by a lock until released. */
export interface RunFolder {
  readonly path: string;
  release(): Promise<void>;
}

/** Whether a text can name a run: one part of a path, on any system. */
export function isRunName(name: string): boolean {
  return /^[\p{L}\p{N}_][\p{L}\p{N}_.-]{0,99}$/u.test(name);
}

/**
 * Makes `<root>/<name>`, or `<name>-2`, `<name>-3`, … when there are such already: nothing is ever overwritten.
 * @throws SystemError naming the folder and the cause; ArgumentError for a name that is a path
 */
export async function createRun(root: string, name: string): Promise<RunFolder> {
  if (!isRunName(name)) {
    throw new ArgumentError(
      `run name "${name}": expected letters, digits, "_", "." and "-"; --runs chooses the folder`,
    );
  }
  try {
    await disk.makeFolder(root);
  } catch (error) {
    throw systemError('create', root, error);
  }
  for (let i = 1; ; i++) {
    const path = join(root, i === 1 ? name : `${name}-${i}`);
    try {
      await mkdir(path);
      return lockRun(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw systemError('create', path, error);
    }
  }
}

/** Takes an existing run. @throws SystemError when another process has it */
async function lockRun(path: string): Promise<RunFolder> {
  const lock: Lock = await acquireLock(path);
  return { path, release: () => lock.release() };
}

/** What a run's folder holds before anything was computed. */
const UNUSED = ['config.yaml', 'metrics.jsonl', 'run.lock'];

/** Removes a new run's folder in which there is nothing yet but its settings; the lock must still be held. */
export async function discardUnused({ path, release }: RunFolder): Promise<void> {
  const entries = await readdir(path).catch(() => []);
  const metrics = await stat(join(path, 'metrics.jsonl')).catch(() => ({ size: 0 }));
  if (metrics.size > 0 || entries.some((entry) => !UNUSED.includes(entry))) return;
  for (const entry of entries) if (entry !== 'run.lock') await unlink(join(path, entry)).catch(() => {});
  await release();
  // Not empty where another process put something into it meanwhile: it stays then.
  await rmdir(path).catch(() => {});
}

/** Where a run goes on. */
export interface ResumePoint {
  readonly run: string;
  readonly checkpoint: CheckpointFolder;
  /** Whether newer checkpoints follow in the same run. */
  readonly superseded: boolean;
  /** Step of the newest checkpoint folder of the run, whole or not, when it was looked at. */
  readonly newest: number;
}

/**
 * Finds what `--resume` means: `latest` is the newest run of that name, else the path of a run or of a checkpoint.
 * @throws CheckpointError when there is none, or the named one is broken
 */
export async function findResume(
  which: string,
  root: string,
  name: string,
  warn: (line: string) => void,
): Promise<ResumePoint> {
  const path = which === 'latest' ? await newestRun(root, name) : resolve(which);
  const [, step] = /^checkpoint-(\d+)$/.exec(basename(path)) ?? [];
  if (step !== undefined) {
    await verifyCheckpoint(path);
    await verifyTrainer(path);
    const run = dirname(path);
    const newest = await newestStep(run);
    return { run, checkpoint: { path, step: Number(step) }, superseded: newest > Number(step), newest };
  }
  const newest = await newestStep(path);
  const checkpoint = await latestCheckpoint(path, { warn, verify: verifyTrainer });
  if (checkpoint) return { run: path, checkpoint, superseded: false, newest };
  throw new CheckpointError(`${path}: no checkpoint to resume from; leave out --resume to begin a new run`);
}

async function newestStep(run: string): Promise<number> {
  return (await listCheckpoints(run))[0]?.step ?? -1;
}

/**
 * Takes the run to go on with.
 * @throws SystemError when another process has it, or has taken it further since it was looked at
 */
export async function lockResumed({ run, newest }: ResumePoint): Promise<RunFolder> {
  const folder = await lockRun(run);
  if ((await newestStep(run)) === newest) return folder;
  await folder.release();
  throw new SystemError(`${run}: another process has written this run just now; resume it again`);
}

async function newestRun(root: string, name: string): Promise<string> {
  const names = await readdir(root).catch(() => []);
  const numbered = names
    .map((entry) => (entry === name ? 1 : entry.startsWith(`${name}-`) ? Number(entry.slice(name.length + 1)) : NaN))
    .filter((i) => Number.isSafeInteger(i) && i > 0)
    .sort((a, b) => b - a);
  for (const i of numbered) {
    const path = join(root, i === 1 ? name : `${name}-${i}`);
    if ((await listCheckpoints(path)).length > 0) return path;
  }
  throw new CheckpointError(
    `${join(root, name)}: no run with a checkpoint to resume; leave out --resume, or give the run with --resume PATH`,
  );
}

/** A new run that goes on from an older checkpoint of another: the other stays as it is. */
export async function forkRun(from: string): Promise<RunFolder> {
  const run = await createRun(dirname(from), basename(from).replace(/-\d+$/, ''));
  const metrics = join(run.path, 'metrics.jsonl');
  await copyFile(join(from, 'metrics.jsonl'), metrics).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw systemError('write', metrics, error);
  });
  return run;
}

/** Writes the settings that a run was started with. */
export function writeSettings(run: RunFolder, yaml: string): Promise<void> {
  return writeFileAtomic(join(run.path, 'config.yaml'), yaml);
}
