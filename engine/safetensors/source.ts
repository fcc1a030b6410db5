import { CheckpointError } from '../errors.ts';

/** Bytes that are read by range: a file, a Blob, a URL, or memory. The reader never asks for all of them at once. */
export interface ByteSource {
  /** What errors call it: a path or a URL. */
  readonly name: string;
  /** Length in bytes. */
  size(): Promise<number>;
  /** Exactly `length` bytes from `offset`, in a buffer of their own; a shorter answer is an error. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** A folder of such files: on disk, behind a URL, or dropped on a page. */
export interface FolderSource {
  /** What errors call it. */
  readonly name: string;
  /** Opens one file by its bare name; null when there is none. */
  open(file: string): Promise<ByteSource | null>;
}

/** A source over bytes in memory. */
export function bytesSource(name: string, bytes: Uint8Array): ByteSource {
  return sliced(name, bytes.length, async (begin, end) => bytes.slice(begin, end));
}

/** A source over a Blob or a File that a user picked. */
export function blobSource(name: string, blob: Blob): ByteSource {
  return sliced(name, blob.size, async (begin, end) => new Uint8Array(await blob.slice(begin, end).arrayBuffer()));
}

function sliced(name: string, size: number, slice: (begin: number, end: number) => Promise<Uint8Array>): ByteSource {
  return {
    name,
    size: async () => size,
    read: async (offset, length) => {
      expectRange(name, offset, length, size);
      const bytes = await slice(offset, offset + length);
      if (bytes.length !== length) throw shortRead(name, offset, length, bytes.length);
      return bytes;
    },
    close: async () => {},
  };
}

/** A folder over files in memory or picked by a user, by bare name. */
export function filesFolder(name: string, files: ReadonlyMap<string, Uint8Array | Blob>): FolderSource {
  return {
    name,
    open: async (file) => {
      const data = files.get(file);
      if (!data) return null;
      const full = `${name}/${file}`;
      return data instanceof Uint8Array ? bytesSource(full, data) : blobSource(full, data);
    },
  };
}

/** All of a small file; refused above `limit` bytes. */
export async function readWhole(source: ByteSource, limit: number): Promise<Uint8Array> {
  const size = await source.size();
  if (size > limit) {
    throw new CheckpointError(
      `${source.name}: ${size} bytes, expected at most ${limit}; this is not the file it should be`,
    );
  }
  return source.read(0, size);
}

/** The error of a source that ended early. */
export function shortRead(name: string, offset: number, length: number, got: number): CheckpointError {
  return new CheckpointError(
    `${name}: byte ${offset + got}: the file ends here, expected ${length - got} bytes more; ` +
      'it is cut off or was changed while being read: fetch it again',
  );
}

/** Throws unless [offset, offset + length) lies within `size` bytes. */
export function expectRange(name: string, offset: number, length: number, size: number): void {
  if (offset + length > size) throw shortRead(name, offset, length, Math.max(0, size - offset));
}
