import { CheckpointError } from '../errors.ts';
import type { ArrayOf, ReadKind } from './convert.ts';
import { SafetensorsFile } from './file.ts';
import type { SafeEntry } from './format.ts';
import { parseIndex } from './shards.ts';
import { listNames, quote } from '../excerpt.ts';
import { readWhole } from './source.ts';
import type { FolderSource } from './source.ts';

/** Largest index that is read: 100,000 tensors take some 20 MB. */
const INDEX_LIMIT = 32 * 2 ** 20;

/**
 * The weights of a folder: `model.safetensors`, or `model.safetensors.index.json` and its shards. Opening reads and
 * checks the headers of all files, so that every key is known; data is read a tensor at a time.
 */
export class Checkpoint {
  private constructor(
    /** The folder, as errors call it. */
    readonly name: string,
    private readonly files: SafetensorsFile[],
    private readonly where: ReadonlyMap<string, SafetensorsFile>,
  ) {}

  /**
   * Opens `<stem>.safetensors`, or else `<stem>.safetensors.index.json`. Throws a CheckpointError that names the
   * folder and file, or the keys that index and shards disagree on.
   */
  static async open(folder: FolderSource, stem = 'model'): Promise<Checkpoint> {
    const files = new Map<string, SafetensorsFile>();
    try {
      const single = await folder.open(`${stem}.safetensors`);
      if (single) {
        files.set(`${stem}.safetensors`, await SafetensorsFile.open(single));
        return new Checkpoint(folder.name, [...files.values()], locate(files));
      }
      const index = await readIndex(folder, stem);
      for (const shard of new Set(index.values())) files.set(shard, await openShard(folder, shard));
      const where = locate(files);
      compare(`${folder.name}/${stem}.safetensors.index.json`, index, files, where);
      return new Checkpoint(folder.name, [...files.values()], where);
    } catch (error) {
      await closeAll(files.values());
      throw error;
    }
  }

  /** Tensor names in the order of the files and of the data in them: so read, each byte is passed once. */
  keys(): string[] {
    return [...this.where.keys()];
  }

  has(name: string): boolean {
    return this.where.has(name);
  }

  /** dtype and shape of a tensor. */
  spec(name: string): SafeEntry {
    return this.file(name).entry(name);
  }

  /** Raw little-endian bytes of a tensor, or of `length` bytes of it from byte `offset`. */
  async read(name: string, offset = 0, length?: number): Promise<Uint8Array> {
    return this.file(name).read(name, offset, length);
  }

  /** A tensor's elements, or `count` of them from element `first`, converted as `convert` says. */
  async readAs<K extends ReadKind>(name: string, kind: K, first?: number, count?: number): Promise<ArrayOf[K]> {
    return this.file(name).readAs(name, kind, first, count);
  }

  /** `__metadata__` of the first file. */
  get metadata(): ReadonlyMap<string, string> {
    return this.files[0].metadata;
  }

  /** Bytes of all tensors. */
  get totalBytes(): number {
    let total = 0;
    for (const file of this.files) for (const { begin, end } of file.entries.values()) total += end - begin;
    return total;
  }

  close(): Promise<void> {
    return closeAll(this.files);
  }

  private file(name: string): SafetensorsFile {
    const file = this.where.get(name);
    if (file) return file;
    throw new CheckpointError(`${this.name}: no tensor ${quote(name)} among its ${this.where.size}`);
  }
}

async function readIndex(folder: FolderSource, stem: string): Promise<Map<string, string>> {
  const source = await folder.open(`${stem}.safetensors.index.json`);
  if (!source) {
    throw new CheckpointError(
      `${folder.name}: no weights, expected ${stem}.safetensors or ${stem}.safetensors.index.json; check the path`,
    );
  }
  try {
    return parseIndex(source.name, await readWhole(source, INDEX_LIMIT));
  } finally {
    await source.close();
  }
}

async function openShard(folder: FolderSource, shard: string): Promise<SafetensorsFile> {
  const source = await folder.open(shard);
  if (source) return SafetensorsFile.open(source);
  throw new CheckpointError(`${folder.name}: shard ${quote(shard)} is missing, expected as the index names it`);
}

/** The file of each tensor; two files with the same one are an error. */
function locate(files: ReadonlyMap<string, SafetensorsFile>): Map<string, SafetensorsFile> {
  const where = new Map<string, SafetensorsFile>();
  for (const file of files.values()) {
    for (const name of file.entries.keys()) {
      const other = where.get(name);
      if (other) throw new CheckpointError(`${file.name}: tensor ${quote(name)} is in ${other.name} too, expected once`);
      where.set(name, file);
    }
  }
  return where;
}

/** The index and the shards must tell the same. */
function compare(
  file: string,
  index: Map<string, string>,
  files: Map<string, SafetensorsFile>,
  where: Map<string, SafetensorsFile>,
): void {
  const missing = [...index].filter(([name, shard]) => where.get(name) !== files.get(shard));
  const extra = [...where.keys()].filter((name) => !index.has(name));
  if (missing.length > 0) {
    const names = listNames(missing.map(([name, shard]) => `${name} in ${shard}`), 5);
    throw new CheckpointError(`${file}: weight_map names what is not there: ${names}`);
  }
  if (extra.length > 0) throw new CheckpointError(`${file}: in a shard but not in weight_map: ${listNames(extra, 5)}`);
}

async function closeAll(files: Iterable<SafetensorsFile>): Promise<void> {
  for (const file of files) await file.close().catch(() => {});
}
