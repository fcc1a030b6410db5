import { open, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { SystemError } from '../errors.ts';
import { shortRead } from '../safetensors/source.ts';
import type { ByteSource, FolderSource } from '../safetensors/source.ts';
import { codeOf, systemError } from './system.ts';

/** The most that one system call is asked for: some systems cut longer reads at 2 GiB. */
const PIECE = 2 ** 28;

/** Opens a file for reading by range. It stays open until `close`. Throws a SystemError that names the path. */
export async function fileSource(path: string): Promise<ByteSource> {
  try {
    // Opening a pipe would wait for a writer, so the kind is looked at first.
    if (!(await stat(path)).isFile()) throw new SystemError(`cannot read ${path}: it is not a regular file`);
    const handle = await open(path, 'r');
    return {
      name: path,
      size: async () => (await handle.stat()).size,
      read: async (offset, length) => {
        const bytes = new Uint8Array(length);
        for (let done = 0; done < length; ) {
          const want = Math.min(PIECE, length - done);
          const { bytesRead } = await handle.read(bytes, done, want, offset + done).catch((error: unknown) => {
            throw systemError('read', path, error);
          });
          if (bytesRead === 0) throw shortRead(path, offset, length, done);
          done += bytesRead;
        }
        return bytes;
      },
      close: () => handle.close(),
    };
  } catch (error) {
    throw systemError('read', path, error);
  }
}

/** A folder on disk; `open` gives null for a missing file, and a SystemError for one that cannot be read. */
export function diskFolder(path: string): FolderSource {
  return {
    name: path,
    open: async (file) => {
      const full = join(path, basename(file));
      const found = await stat(full).catch((error: unknown) => {
        if (codeOf(error) === 'ENOENT') return null;
        throw systemError('read', full, error);
      });
      return found && fileSource(full);
    },
  };
}
