import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { SystemError } from '../errors.ts';
import { readWhole, shortRead } from '../safetensors/source.ts';
import type { ByteSource, FolderSource } from '../safetensors/source.ts';
import { codeOf, systemError } from './system.ts';

/** An open file. Calls map one to one onto system calls: reads may come out short. */
export interface ReadableFile {
  /** Bytes read into `into` from `position` of the file; 0 at its end. */
  read(into: Uint8Array, position: number): Promise<number>;
  size(): Promise<number>;
  close(): Promise<void>;
}

/** What reading asks of a file system, so that a test can make any of it fail. Errors are Node's own, with a `code`. */
export interface ReadableFiles {
  open(path: string, flags: 'r'): Promise<ReadableFile>;
  /** null when there is nothing of that name. */
  stat(path: string): Promise<{ kind: 'file' | 'folder' | 'other'; size: number } | null>;
}

/** Node's. */
export const disk: ReadableFiles = {
  open: async (path, flags) => readable(await open(path, flags)),
  stat: async (path) => {
    try {
      const found = await stat(path);
      return { kind: found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other', size: found.size };
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null;
      throw error;
    }
  },
};

export function readable(handle: FileHandle): ReadableFile {
  return {
    read: async (into, position) => (await handle.read(into, 0, into.length, position)).bytesRead,
    size: async () => (await handle.stat()).size,
    close: () => handle.close(),
  };
}

/** The most that one system call is asked for: some systems cut longer reads at 2 GiB. */
const PIECE = 2 ** 28;

/** Opens a file for reading by range. It stays open until `close`. Throws a SystemError that names the path. */
export async function fileSource(path: string, files = disk): Promise<ByteSource> {
  const source = await openSource(path, files);
  if (source) return source;
  throw new SystemError(`cannot read ${path}: there is no such file: check the path`);
}

/** The same; null where there is no such file. */
async function openSource(path: string, files: ReadableFiles): Promise<ByteSource | null> {
  const attempt = <T>(work: Promise<T>) =>
    work.catch((error: unknown) => {
      throw systemError('read', path, error);
    });
  // Opening a pipe would wait for a writer, so the kind is looked at first.
  const found = await attempt(files.stat(path));
  if (!found) return null;
  if (found.kind !== 'file') {
    const kind = found.kind === 'folder' ? 'folder' : 'device or pipe';
    throw new SystemError(`cannot read ${path}: it is a ${kind}, expected a file`);
  }
  const handle = await attempt(files.open(path, 'r'));
  return {
    name: path,
    size: () => attempt(handle.size()),
    read: async (offset, length) => {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length;) {
        const piece = bytes.subarray(done, Math.min(done + PIECE, length));
        const got = await attempt(handle.read(piece, offset + done));
        if (got === 0) throw shortRead(path, offset, length, done);
        done += got;
      }
      return bytes;
    },
    close: () => attempt(handle.close()),
  };
}

/**
 * All of a regular file of at most `limit` bytes: a device or a pipe would be read without end.
 * @throws SystemError when it cannot be read, CheckpointError when it is larger
 */
export async function readFileWithin(path: string, limit: number): Promise<Uint8Array> {
  const source = await fileSource(path);
  try {
    return await readWhole(source, limit);
  } finally {
    await source.close();
  }
}

/** A folder on disk; `open` gives null for a missing file, and a SystemError for one that cannot be read. */
export function diskFolder(path: string, files = disk): FolderSource {
  return { name: path, open: (file) => openSource(join(path, basename(file)), files) };
}
