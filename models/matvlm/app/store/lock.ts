import { join, resolve } from 'node:path';
import { SystemError } from '../../../../engine/errors.ts';
import { codeOf, systemError } from '../../../../engine/node/system.ts';
import { disk } from './files.ts';
import type { FileSystem } from './files.ts';
import { type Owner, ownerName, parseOwner, self, stateOf } from './owner.ts';
import { release, removeTree, sibling, sweep } from './siblings.ts';

/** A run folder held by this process. */
export interface Lock {
  readonly path: string;
  /** Gives the folder back. Safe to call twice. */
  release(): Promise<void>;
}

/** Attempts, of which each fails because another process was quicker. */
const ATTEMPTS = 50;
/** What a rename onto a folder that holds something gives; the last two on Windows, where an empty one does too. */
const THERE = ['ENOTEMPTY', 'EEXIST', 'ENOTDIR', 'EPERM', 'EACCES'];

/** The locks of this process: their paths. */
const held = new Set<string>();
/** Those that could not be deleted when they were given back. */
const left = new Set<string>();

/**
 * Takes a run folder, so that two processes never write the same run, and cleans up what killed ones left in it. The
 * lock is a folder `run.lock` with one empty file, whose name is the owner's: it comes into being as a whole, and that
 * of a dead process is taken over by renaming that very file, which only one can do.
 * @throws SystemError that names the process that has it, which lives or cannot be judged from here, or what the file
 *   system refused
 */
export async function acquireLock(runDir: string, files: FileSystem = disk): Promise<Lock> {
  const folder = resolve(runDir);
  const path = join(folder, 'run.lock');
  if (held.has(path)) throw taken(runDir, path, self());
  held.add(path);
  try {
    await files.makeFolder(folder);
    await take(runDir, path, files);
  } catch (error) {
    held.delete(path);
    throw systemError('lock', path, error);
  }
  await sweep(folder, { files, locked: true });
  return { path, release: () => giveBack(path, files) };
}

async function take(runDir: string, path: string, files: FileSystem): Promise<void> {
  const mine = ownerName(self());
  const temp = sibling(path, 'tmp');
  try {
    await files.makeFolder(temp);
    await (await files.open(join(temp, mine), 'wx')).close();
    for (let attempt = 1; !(await move(temp, path, files, attempt === ATTEMPTS)); attempt++) {
      const there = await ownerIn(path, files);
      if (there === null) continue;
      const owner = parseOwner(there);
      const dead = owner && (stateOf(owner) === 'dead' || left.has(join(path, there)));
      if (!dead) throw taken(runDir, path, owner);
      if (await move(join(path, there), join(path, mine), files)) break;
    }
    left.delete(join(path, mine));
  } finally {
    await removeTree(temp, files).catch(() => {});
    release(temp);
  }
}

/** Renames; false where another process was quicker. */
async function move(from: string, to: string, files: FileSystem, last = false): Promise<boolean> {
  try {
    await files.rename(from, to);
    return true;
  } catch (error) {
    if (!last && ['ENOENT', ...THERE].includes(codeOf(error) ?? '')) return false;
    throw error;
  }
}

/** The name of the owner's file; that of anything else in its place; null when the lock is gone. */
async function ownerIn(path: string, files: FileSystem): Promise<string | null> {
  try {
    const names = await files.list(path);
    if (names.length > 0) return names.find((name) => parseOwner(name)) ?? names[0];
    await files.removeFolder(path);
  } catch (error) {
    if (codeOf(error) === 'ENOTDIR') return '';
    if (!['ENOENT', ...THERE].includes(codeOf(error) ?? '')) throw error;
  }
  return null;
}

async function giveBack(path: string, files: FileSystem): Promise<void> {
  if (!held.delete(path)) return;
  const mine = join(path, ownerName(self()));
  try {
    await files.removeFile(mine);
    await files.removeFolder(path);
  } catch (error) {
    // Deleted by hand, and perhaps taken by another process since.
    if (['ENOENT', ...THERE].includes(codeOf(error) ?? '')) return;
    left.add(mine);
    throw systemError('unlock', path, error);
  }
}

function taken(runDir: string, path: string, owner: Owner | null): SystemError {
  const who = owner ? `process ${owner.pid}` : 'another program';
  if (!owner || stateOf(owner) !== 'alive') {
    return new SystemError(
      `${runDir}: ${who} of another container or machine, which cannot be seen from here, has locked this run; if it ` +
        `has ended for certain, delete ${path}`,
    );
  }
  // A number alone may be that of a later process.
  const doubt = owner.start === '' ? ` (if it is none of yours, delete ${path})` : '';
  return new SystemError(
    `${runDir}: ${who} is writing this run; wait for it, stop it, or choose another folder${doubt}`,
  );
}
