import { mkdir, open, readdir, rename, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { disk as reading, readable, type ReadableFile, type ReadableFiles } from '../../../../engine/node/source.ts';
import { codeOf } from '../../../../engine/node/system.ts';

/** An open file. Calls map one to one onto system calls: reads and writes may come out short. */
export interface OpenFile extends ReadableFile {
  /** Bytes of `from` written at the end. */
  write(from: Uint8Array): Promise<number>;
  sync(): Promise<void>;
}

/**
 * All that this package asks of a file system, one system call each, so that a test can make any of them fail.
 * Errors are Node's own, with a `code`.
 */
export interface FileSystem extends ReadableFiles {
  /** `r` to read (a folder too, for `sync`), `r+` to sync a file, `wx` to create one that must not exist. */
  open(path: string, flags: 'r' | 'r+' | 'wx'): Promise<OpenFile>;
  list(path: string): Promise<string[]>;
  /** Makes the folder and its parents; one that exists is fine. */
  makeFolder(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  removeFile(path: string): Promise<void>;
  /** The folder must be empty. */
  removeFolder(path: string): Promise<void>;
}

/**
 * Makes a folder and those above it that are missing, one by one: Node's own `recursive` tells a read-only file
 * system as a missing folder, and never ends in folders such as /proc.
 * @param make makes one folder, as Node's `mkdir` does
 */
export async function makeFolders(path: string, make: (path: string) => Promise<unknown> = mkdir): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(path); !(await isFolder(at)); at = dirname(at)) missing.unshift(at);
  for (const folder of missing) {
    try {
      await make(folder);
    } catch (error) {
      // Another process may have made it meanwhile.
      if (codeOf(error) !== 'EEXIST' || !(await isFolder(folder))) throw error;
    }
  }
}

/** False when there is nothing of that name; a file there is an error, as in a path. */
async function isFolder(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' && dirname(path) !== path) return false;
    throw error;
  }
  throw Object.assign(new Error(`${path} is a file`), { code: 'ENOTDIR' });
}

/** Node's file system. */
export const disk: FileSystem = {
  ...reading,
  open: async (path, flags) => {
    const handle = await open(path, flags);
    return {
      ...readable(handle),
      write: async (from) => (await handle.write(from)).bytesWritten,
      sync: () => handle.sync(),
    };
  },
  list: (path) => readdir(path),
  makeFolder: (path) => makeFolders(path),
  rename,
  removeFile: unlink,
  removeFolder: rmdir,
};
