import { CheckpointError, OutOfMemoryError } from '../errors.ts';
import { listNames, quote } from '../excerpt.ts';
import { type ArrayOf, convert, type ReadKind } from './convert.ts';
import { SAFE_BITS, type SafeEntry } from './format.ts';
import { type OpenFile, openFile } from './header.ts';
import { parseIndex } from './shards.ts';
import { type ByteSource, type FolderSource, readWhole } from './source.ts';

/** Largest index that is read: 100,000 tensors take some 20 MB. */
const INDEX_LIMIT = 32 * 2 ** 20;

/**
 * The weights of a folder: `model.safetensors`, or `model.safetensors.index.json` and its shards. Or those of one file.
 * Opening reads and checks the headers of all files, so that every key is known; data is read a tensor at a time.
 * Every fault is a CheckpointError that names the file and the byte or tensor.
 */
export class Checkpoint {
  private constructor(
    /** The folder or file, as errors call it. */
    readonly name: string,
    private readonly files: readonly OpenFile[],
    private readonly where: ReadonlyMap<string, OpenFile>,
  ) {}

  /**
   * Opens `<stem>.safetensors`, or else `<stem>.safetensors.index.json`. Throws a CheckpointError that names the
   * folder and file, or the keys that index and shards disagree on.
   */
  static async open(folder: FolderSource, stem = 'model'): Promise<Checkpoint> {
    const single = await folder.open(`${stem}.safetensors`);
    if (single) return Checkpoint.ofFile(single, folder.name);
    const index = await readIndex(folder, stem);
    const files = new Map<string, OpenFile>();
    try {
      for (const shard of new Set(index.values())) files.set(shard, await openShard(folder, shard));
      const where = locate(files.values());
      compare(`${folder.name}/${stem}.safetensors.index.json`, index, files, where);
      return new Checkpoint(folder.name, [...files.values()], where);
    } catch (error) {
      await closeAll(files.values());
      throw error;
    }
  }

  /** The tensors of one file, which owns `source` from here on. */
  static async ofFile(source: ByteSource, name = source.name): Promise<Checkpoint> {
    const file = await openFile(source);
    return new Checkpoint(name, [file], locate([file]));
  }

  /** Tensor names in the order of the files and of the data in them: so read, each byte is passed once. */
  keys(): string[] {
    return [...this.where.keys()];
  }

  has(name: string): boolean {
    return this.where.has(name);
  }

  /** What the header says of a tensor: dtype, shape and place. */
  spec(name: string): SafeEntry {
    return this.fileOf(name).entries.get(name)!;
  }

  /** Raw little-endian bytes of a tensor, or of `length` bytes of it from byte `offset`. */
  async read(name: string, offset = 0, length?: number): Promise<Uint8Array> {
    const { source, dataBegin } = this.fileOf(name);
    const { begin, end } = this.spec(name);
    const count = length ?? end - begin - offset;
    const tensor = `${source.name}: tensor ${quote(name)}`;
    if (offset < 0 || count < 0 || offset + count > end - begin) {
      throw new CheckpointError(`${tensor} has ${end - begin} bytes, asked for ${count} from ${offset}`);
    }
    if (count === 0) return new Uint8Array(0);
    try {
      return await source.read(dataBegin + begin + offset, count);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new OutOfMemoryError(`${tensor} needs ${count} bytes in one piece`, { cause: error });
    }
  }

  /** A tensor's elements, or `count` of them from element `first`, converted as `convert` says. */
  async readAs<K extends ReadKind>(name: string, kind: K, first = 0, count?: number): Promise<ArrayOf[K]> {
    const { dtype } = this.spec(name);
    const bytes = SAFE_BITS[dtype] / 8;
    const data = await this.read(name, first * bytes, count === undefined ? undefined : count * bytes);
    return convert(`${this.fileOf(name).source.name}: tensor ${quote(name)}`, data, dtype, kind);
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

  private fileOf(name: string): OpenFile {
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

async function openShard(folder: FolderSource, shard: string): Promise<OpenFile> {
  const source = await folder.open(shard);
  if (source) return openFile(source);
  throw new CheckpointError(`${folder.name}: shard ${quote(shard)} is missing, expected as the index names it`);
}

/** The file of each tensor; two files with the same one are an error. */
function locate(files: Iterable<OpenFile>): Map<string, OpenFile> {
  const where = new Map<string, OpenFile>();
  for (const file of files) {
    for (const name of file.entries.keys()) {
      const other = where.get(name);
      where.set(name, file);
      if (!other) continue;
      const [own, its] = [file.source.name, other.source.name];
      throw new CheckpointError(`${own}: tensor ${quote(name)} is in ${its} too, expected once`);
    }
  }
  return where;
}

/** The index and the shards must tell the same. */
function compare(
  file: string,
  index: Map<string, string>,
  files: Map<string, OpenFile>,
  where: Map<string, OpenFile>,
): void {
  const missing = [...index].filter(([name, shard]) => where.get(name) !== files.get(shard));
  const extra = [...where.keys()].filter((name) => !index.has(name));
  if (missing.length > 0) {
    const names = listNames(missing.map(([name, shard]) => `${name} in ${shard}`), 5);
    throw new CheckpointError(`${file}: weight_map names what is not there: ${names}`);
  }
  if (extra.length > 0) throw new CheckpointError(`${file}: in a shard but not in weight_map: ${listNames(extra, 5)}`);
}

async function closeAll(files: Iterable<OpenFile>): Promise<void> {
  for (const file of files) await file.source.close().catch(() => {});
}
