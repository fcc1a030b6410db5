import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { systemError } from '../../../../engine/node/system.ts';
import { disk } from './files.ts';
import type { FileSystem, OpenFile } from './files.ts';
import { release, removeTree, sibling, sweep } from './siblings.ts';

/** The file that a complete folder has: the names of all its files, a line each. It is written last. */
export const SUCCESS = '_SUCCESS';

/** Writes all of `bytes` to a file that is being written, however short the system's writes come out. */
export type Write = (bytes: Uint8Array) => Promise<void>;

/**
 * Writes a file so that its name holds either the former content or all of the new one, whatever fails or is killed
 * in between: `fill` writes into a temporary sibling, which is brought to the disk and then renamed.
 * Throws a SystemError that names path and cause, and leaves no temporary file.
 */
export async function writeAtomic(
  path: string,
  fill: (write: Write) => Promise<void>,
  files: FileSystem = disk,
): Promise<void> {
  await sweep(dirname(path), { only: basename(path), files });
  const temp = sibling(path, 'tmp');
  try {
    await writeNew(temp, fill, files);
    await files.rename(temp, path);
    await syncFolder(dirname(path), files);
  } catch (error) {
    await removeTree(temp, files).catch(() => {});
    throw systemError('write', path, error);
  } finally {
    release(temp);
  }
}

/** `writeAtomic` of text or bytes. */
export function writeFileAtomic(path: string, data: string | Uint8Array, files: FileSystem = disk): Promise<void> {
  const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
  return writeAtomic(path, (write) => write(bytes), files);
}

/**
 * Writes a folder as a whole: `fill` writes into a temporary sibling; then each file is brought to the disk,
 * `_SUCCESS` is written last, and the folder takes its name. A former folder of that name is replaced; killed right
 * between the two renames, it is put back by the next write, or by the next that locks the folder around it.
 * Throws a SystemError that names path and cause (errors of `fill` that are none of the system pass unchanged), and
 * leaves no temporary folder.
 */
export async function writeFolderAtomic(
  path: string,
  fill: (folder: string, files: FileSystem) => Promise<void>,
  files: FileSystem = disk,
): Promise<void> {
  const target = resolve(path);
  const temp = sibling(target, 'tmp');
  try {
    await files.makeFolder(dirname(target));
    await sweep(dirname(target), { only: basename(target), files });
    await files.makeFolder(temp);
    await fill(temp, files);
    await seal(temp, files);
    await replace(temp, target, files);
  } catch (error) {
    await removeTree(temp, files).catch(() => {});
    throw systemError('write', path, error);
  } finally {
    release(temp);
  }
}

/** Whether a folder was written to its end: `_SUCCESS` is there, and every file that it names. */
export async function isCompleteFolder(path: string, files: FileSystem = disk): Promise<boolean> {
  const marker = join(path, SUCCESS);
  try {
    if ((await files.stat(marker))?.kind !== 'file') return false;
    const names = new TextDecoder().decode(await readAll(marker, files)).split('\n');
    for (const name of names) {
      if (name && (await files.stat(join(path, name)))?.kind !== 'file') return false;
    }
    return true;
  } catch (error) {
    throw systemError('read', marker, error);
  }
}

/** Deletes a folder so that it is gone at once under its name, even if killed half-way. */
export async function removeFolderAtomic(path: string, files: FileSystem = disk): Promise<void> {
  const trash = sibling(resolve(path), 'trash');
  try {
    await files.rename(path, trash);
    await removeTree(trash, files);
  } catch (error) {
    throw systemError('delete', path, error);
  } finally {
    release(trash);
  }
}

async function writeNew(path: string, fill: (write: Write) => Promise<void>, files: FileSystem): Promise<void> {
  const file = await files.open(path, 'wx');
  try {
    await fill((bytes) => writeAll(file, bytes));
    await file.sync();
  } catch (error) {
    await file.close().catch(() => {});
    throw error;
  }
  await file.close();
}

async function writeAll(file: OpenFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const count = await file.write(bytes.subarray(done, done + 2 ** 28));
    if (count === 0) throw Object.assign(new Error('nothing was written'), { code: 'ENOSPC' });
    done += count;
  }
}

/** All of a small file. Errors are Node's own. */
export async function readAll(path: string, files: FileSystem): Promise<Uint8Array> {
  const file = await files.open(path, 'r');
  try {
    const bytes = new Uint8Array(await file.size());
    let done = 0;
    for (let got = -1; done < bytes.length && got !== 0; done += got) got = await file.read(bytes.subarray(done), done);
    return bytes.subarray(0, done);
  } finally {
    await file.close();
  }
}

/** Brings the names in a folder to the disk. Windows has no such call. */
async function syncFolder(path: string, files: FileSystem): Promise<void> {
  if (process.platform !== 'win32') await syncPath(path, 'r', files);
}

async function syncPath(path: string, flags: 'r' | 'r+', files: FileSystem): Promise<void> {
  const file = await files.open(path, flags);
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Brings all files of `folder` to the disk and marks it complete. */
async function seal(folder: string, files: FileSystem): Promise<void> {
  const names: string[] = [];
  const visit = async (path: string) => {
    for (const name of (await files.list(path)).sort()) {
      const child = join(path, name);
      const kind = (await files.stat(child))?.kind;
      if (kind === 'folder') await visit(child);
      if (kind !== 'file') continue;
      names.push(relative(folder, child).replaceAll(sep, '/'));
      await syncPath(child, 'r+', files);
    }
    if (path !== folder) await syncFolder(path, files);
  };
  await visit(folder);
  const list = new TextEncoder().encode(names.map((name) => `${name}\n`).join(''));
  await writeNew(join(folder, SUCCESS), (write) => write(list), files);
  await syncFolder(folder, files);
}

/** Gives `temp` the name `target`; a former `target` steps aside, and comes back when that fails. */
async function replace(temp: string, target: string, files: FileSystem): Promise<void> {
  if (!(await files.stat(target))) {
    await files.rename(temp, target);
    return syncFolder(dirname(target), files);
  }
  const old = sibling(target, 'old');
  try {
    await files.rename(target, old);
    try {
      await files.rename(temp, target);
    } catch (error) {
      await files.rename(old, target);
      throw error;
    }
    try {
      await syncFolder(dirname(target), files);
    } finally {
      // The new one is in place: a former one that resists deletion is swept later.
      await removeTree(old, files).catch(() => {});
    }
  } finally {
    release(old);
  }
}
