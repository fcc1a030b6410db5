import { join, resolve } from 'node:path';
import { CheckpointError } from '../../../../engine/errors.ts';
import { Checkpoint } from '../../../../engine/safetensors/checkpoint.ts';
import { diskFolder, fileSource } from '../../../../engine/node/source.ts';
import { systemError } from '../../../../engine/node/system.ts';
import { parseJson } from '../../../nn/json.ts';
import { isCompleteFolder, readAll, removeFolderAtomic } from './atomic.ts';
import { disk } from './files.ts';
import type { FileSystem } from './files.ts';

/** A folder `checkpoint-<step>` of a run. */
export interface CheckpointFolder {
  readonly path: string;
  readonly step: number;
}

export interface CheckpointOptions {
  /** Hears a line for each folder that is passed over. */
  readonly warn?: (message: string) => void;
  readonly files?: FileSystem;
  /** Throws for a folder whose files are sound but hold what the caller cannot use: it is passed over too. */
  readonly verify?: (folder: string) => Promise<void>;
}

const JSON_LIMIT = 64 * 2 ** 20;
const INDEX = '.safetensors.index.json';

/** The `checkpoint-<step>` folders of a run, newest first, whole or not. An absent run has none. */
export async function listCheckpoints(runDir: string, files: FileSystem = disk): Promise<CheckpointFolder[]> {
  try {
    if (!(await files.stat(runDir))) return [];
    return (await files.list(runDir))
      .map((name) => /^checkpoint-(\d{1,15})$/.exec(name))
      .filter((match) => match !== null)
      .map(([name, step]) => ({ path: join(runDir, name), step: Number(step) }))
      .sort((a, b) => b.step - a.step);
  } catch (error) {
    throw systemError('read', runDir, error);
  }
}

/**
 * Throws unless the folder is whole: `_SUCCESS` and the files that it names, a sound header and length of every
 * safetensors file, index and shards that agree, JSON that parses. Tensor data is not read.
 */
export async function verifyCheckpoint(path: string, files: FileSystem = disk): Promise<void> {
  if (!(await isCompleteFolder(path, files))) {
    throw new CheckpointError(`${path}: incomplete: _SUCCESS, or a file that it names, is missing`);
  }
  for (const name of await files.list(path)) {
    if (name.endsWith('.safetensors')) {
      await (await Checkpoint.ofFile(await fileSource(join(path, name), files))).close();
    } else if (name.endsWith(INDEX)) {
      await (await Checkpoint.open(diskFolder(path, files), name.slice(0, -INDEX.length))).close();
    } else if (name.endsWith('.json')) {
      await verifyJson(join(path, name), files);
    }
  }
}

async function verifyJson(path: string, files: FileSystem): Promise<void> {
  const found = await files.stat(path);
  if (!found || found.size > JSON_LIMIT) return;
  parseJson(new TextDecoder().decode(await readAll(path, files)), path, CheckpointError);
}

/** Looks at a run that is being pruned meanwhile. */
const LOOKS = 20;

/**
 * The newest checkpoint of a run that is whole, or null. A newer one that is broken is passed over with a warning. The
 * run may be being written: where one has been deleted in the middle of this, there are newer ones, so looks again.
 */
export async function latestCheckpoint(
  runDir: string,
  { warn, files = disk, verify }: CheckpointOptions = {},
): Promise<CheckpointFolder | null> {
  for (let look = 1; ; look++) {
    const warnings: string[] = [];
    let [found, vanished]: [CheckpointFolder | null, boolean] = [null, false];
    for (const folder of await listCheckpoints(runDir, files)) {
      if (await isSound(folder, 'passed over', (line) => void warnings.push(line), files, verify)) found = folder;
      else vanished = (await files.stat(folder.path).catch(() => folder)) === null;
      if (found || vanished) break;
    }
    if (vanished && look < LOOKS) continue;
    for (const line of warnings) warn?.(line);
    return found;
  }
}

/**
 * Deletes all but the `keep` newest checkpoints (at least one) that are whole, and returns the deleted ones, oldest
 * first. Nothing is deleted unless the newest of all is whole. Folders without `_SUCCESS` are not ours to delete, and
 * stay with a warning, and so does what the file system does not let go; `protect` holds the paths of others that stay,
 * such as the best.
 */
export async function pruneCheckpoints(
  runDir: string,
  keep: number,
  { warn, files = disk, protect = [] }: CheckpointOptions & { readonly protect?: readonly string[] } = {},
): Promise<CheckpointFolder[]> {
  const all = await listCheckpoints(runDir, files);
  const doomed: CheckpointFolder[] = [];
  let kept = 0;
  for (const [i, folder] of all.entries()) {
    if (kept >= Math.max(1, keep)) {
      if (await isCompleteFolder(folder.path, files)) doomed.unshift(folder);
      else warn?.(`${folder.path}: left alone: it has no _SUCCESS or lacks a file`);
    } else if (await isSound(folder, 'not counted', warn, files)) kept++;
    else if (i === 0) return [];
  }
  const safe = new Set(protect.map((path) => resolve(path)));
  const removed: CheckpointFolder[] = [];
  for (const folder of doomed.filter(({ path }) => !safe.has(resolve(path)))) {
    try {
      await removeFolderAtomic(folder.path, files);
      removed.push(folder);
    } catch (error) {
      warn?.((error as Error).message);
    }
  }
  return removed;
}

async function isSound(
  folder: CheckpointFolder,
  outcome: string,
  warn: CheckpointOptions['warn'],
  files: FileSystem,
  verify?: CheckpointOptions['verify'],
): Promise<boolean> {
  try {
    await verifyCheckpoint(folder.path, files);
    await verify?.(folder.path);
    return true;
  } catch (error) {
    warn?.(`${folder.path}: ${outcome}: ${(error as Error).message}`);
    return false;
  }
}
