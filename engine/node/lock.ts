import { join, resolve } from 'node:path';
import { SystemError } from '../errors.ts';
import { readAll } from './atomic.ts';
import { disk } from './files.ts';
import type { FileSystem } from './files.ts';
import { isAlive, release, sibling } from './siblings.ts';
import { codeOf, systemError } from './system.ts';

/** A run folder held by this process. */
export interface Lock {
  readonly path: string;
  /** Gives the folder back. Safe to call twice. */
  release(): Promise<void>;
}

/** How long a lock file may be without its content, while its owner is between creating and writing it. */
const PATIENCE_MS = 1000;
const held = new Set<string>();

/**
 * Takes `run.lock` in a run folder, so that two processes never write the same run. The lock of a dead process is
 * taken over. Throws a SystemError that names the living process, or what the file system refused.
 */
export async function acquireLock(runDir: string, files: FileSystem = disk): Promise<Lock> {
  const path = join(resolve(runDir), 'run.lock');
  if (held.has(path)) throw taken(runDir, path, process.pid);
  held.add(path);
  try {
    await files.makeFolder(runDir);
    for (let attempt = 0; !(await create(path, files)); attempt++) {
      const pid = await ownerOf(path, files);
      if (pid !== null && (isOther(pid) || attempt > 20)) throw taken(runDir, path, pid);
      if (pid !== null) await takeOver(path, files);
    }
  } catch (error) {
    held.delete(path);
    throw systemError('lock', path, error);
  }
  return { path, release: () => giveBack(path, files) };
}

/** Whether a living process has the lock. One of our own number is of an earlier process: we look into `held` first. */
function isOther(pid: number): boolean {
  return pid !== process.pid && isAlive(pid);
}

/** Creates the lock file with our number; false when there is one. */
async function create(path: string, files: FileSystem): Promise<boolean> {
  let file;
  try {
    file = await files.open(path, 'wx');
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  }
  try {
    await file.write(new TextEncoder().encode(`${process.pid}\n`));
  } catch (error) {
    await files.removeFile(path).catch(() => {});
    throw error;
  } finally {
    await file.close();
  }
  return true;
}

/** The number in the lock file; 0 when there is none in it for too long, null when the file is gone. */
async function ownerOf(path: string, files: FileSystem, patience = PATIENCE_MS): Promise<number | null> {
  for (const end = Date.now() + patience; ; await new Promise((done) => setTimeout(done, 20))) {
    try {
      const text = new TextDecoder().decode(await readAll(path, files));
      if (/^\d+\n$/.test(text)) return Number(text);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null;
      throw error;
    }
    if (Date.now() > end) return 0;
  }
}

/** Moves a dead process's lock away; one that another process took in the meantime is put back. */
async function takeOver(path: string, files: FileSystem): Promise<void> {
  const aside = sibling(path, 'trash');
  try {
    await files.rename(path, aside);
    const pid = await ownerOf(aside, files, 0);
    if (pid !== null && isOther(pid)) await files.rename(aside, path);
    else await files.removeFile(aside);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  } finally {
    release(aside);
  }
}

async function giveBack(path: string, files: FileSystem): Promise<void> {
  if (!held.delete(path)) return;
  try {
    if ((await ownerOf(path, files)) === process.pid) await files.removeFile(path);
  } catch (error) {
    throw systemError('unlock', path, error);
  }
}

function taken(runDir: string, path: string, pid: number): SystemError {
  return new SystemError(
    `${runDir}: process ${pid} is writing this run; wait for it, stop it, or choose another folder ` +
      `(if it is none of yours, delete ${path})`,
  );
}
