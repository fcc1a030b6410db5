import { CheckpointError, OutOfMemoryError } from '../errors.ts';
import { convert } from './convert.ts';
import type { ArrayOf, ReadKind } from './convert.ts';
import { HEADER_LIMIT, SAFE_BITS } from './format.ts';
import type { SafeEntry } from './format.ts';
import { parseHeader, PREFIX } from './header.ts';
import type { Header } from './header.ts';
import { quote } from '../excerpt.ts';
import type { ByteSource } from './source.ts';

/**
 * One safetensors file, read by range: opening reads and checks the header alone, `read` fetches one tensor.
 * Every fault is a CheckpointError that names the file and the byte or tensor.
 */
export class SafetensorsFile {
  /** What the header lists, in the order of the data. */
  readonly entries: ReadonlyMap<string, SafeEntry>;
  /** The header's `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;

  private constructor(
    private readonly source: ByteSource,
    private readonly dataBegin: number,
    header: Header,
  ) {
    this.entries = header.entries;
    this.metadata = header.metadata;
  }

  /** Reads and checks the header. The file owns `source` from here on, and closes it when the header is refused. */
  static async open(source: ByteSource): Promise<SafetensorsFile> {
    try {
      const size = await source.size();
      const length = await headerLength(source, size);
      const bytes = await source.read(PREFIX, length);
      const header = parseHeader(source.name, bytes, size - PREFIX - length);
      return new SafetensorsFile(source, PREFIX + length, header);
    } catch (error) {
      await source.close().catch(() => {});
      throw error;
    }
  }

  get name(): string {
    return this.source.name;
  }

  /** What the header says of a tensor; a CheckpointError when there is none of that name. */
  entry(name: string): SafeEntry {
    const entry = this.entries.get(name);
    if (entry) return entry;
    throw new CheckpointError(`${this.name}: no tensor ${quote(name)} among its ${this.entries.size}`);
  }

  /** Raw little-endian bytes of a tensor, or of `length` bytes of it from byte `offset`. */
  async read(name: string, offset = 0, length?: number): Promise<Uint8Array> {
    const { begin, end } = this.entry(name);
    const count = length ?? end - begin - offset;
    if (offset < 0 || count < 0 || offset + count > end - begin) {
      throw new CheckpointError(
        `${this.name}: tensor ${quote(name)} has ${end - begin} bytes, asked for ${count} from ${offset}`,
      );
    }
    if (count === 0) return new Uint8Array(0);
    try {
      return await this.source.read(this.dataBegin + begin + offset, count);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new OutOfMemoryError(`${this.name}: tensor ${quote(name)} needs ${count} bytes in one piece`, {
        cause: error,
      });
    }
  }

  /** A tensor's elements, or `count` of them from element `first`, converted as `convert` says. */
  async readAs<K extends ReadKind>(name: string, kind: K, first = 0, count?: number): Promise<ArrayOf[K]> {
    const { dtype } = this.entry(name);
    const bytes = SAFE_BITS[dtype] / 8;
    const data = await this.read(name, first * bytes, count === undefined ? undefined : count * bytes);
    return convert(`${this.name}: tensor ${quote(name)}`, data, dtype, kind);
  }

  close(): Promise<void> {
    return this.source.close();
  }
}

async function headerLength(source: ByteSource, size: number): Promise<number> {
  if (size < PREFIX + 2) {
    throw new CheckpointError(`${source.name}: ${size} bytes, expected at least ${PREFIX + 2}; it is empty or cut off`);
  }
  const prefix = await source.read(0, PREFIX);
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  if (length > HEADER_LIMIT) {
    const hint = whatItIs(prefix) ?? 'this is not a safetensors file, or it is damaged';
    throw new CheckpointError(
      `${source.name}: byte 0: header of ${length} bytes, expected at most ${HEADER_LIMIT}; ${hint}`,
    );
  }
  if (length < 2) throw new CheckpointError(`${source.name}: byte 0: header of ${length} bytes, expected at least 2`);
  if (length > size - PREFIX) {
    throw new CheckpointError(
      `${source.name}: byte 0: header of ${length} bytes, expected at most the ${size - PREFIX} that follow; ` +
        'the file is cut off: fetch it again',
    );
  }
  return length;
}

/** The usual mistakes, known by their first bytes. */
function whatItIs(prefix: Uint8Array): string | undefined {
  const text = String.fromCharCode(...prefix).toLowerCase();
  if (text.startsWith('version ')) return 'this is a Git LFS pointer: fetch the file itself (git lfs pull)';
  if (text.startsWith('<')) return 'this is a web page: the address is wrong or needs a login';
  if (text.startsWith('pk')) return 'this is a PyTorch or zip archive: convert it to safetensors first';
  if (text.startsWith('gguf')) return 'this is a GGUF file: expected safetensors';
  return undefined;
}
