import type { ByteSource, FolderSource } from '../../../engine/safetensors/index.ts';
import { expectRange } from '../../../engine/safetensors/source.ts';

/** A tensor is often a few kilobytes and a request costs as much as many: files are read in blocks. */
const BLOCK = 2 ** 20;
const KEPT_BLOCKS = 16;

/** A folder whose files are read in blocks, of which the last few are kept. */
export function readAhead(folder: FolderSource): FolderSource {
  return {
    name: folder.name,
    open: async (file) => {
      const source = await folder.open(file);
      return source && new BlockSource(source, await source.size());
    },
  };
}

class BlockSource implements ByteSource {
  private readonly blocks = new Map<number, Uint8Array>();

  constructor(
    private readonly source: ByteSource,
    private readonly length: number,
  ) {}

  get name(): string {
    return this.source.name;
  }

  async size(): Promise<number> {
    return this.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    expectRange(this.name, offset, length, this.length);
    // What spans blocks anyway is read as it is.
    if (length >= BLOCK) return this.source.read(offset, length);
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const index = Math.floor(at / BLOCK);
      const piece = (await this.block(index)).subarray(at - index * BLOCK, at - index * BLOCK + length - done);
      out.set(piece, done);
      done += piece.length;
    }
    return out;
  }

  async close(): Promise<void> {
    this.blocks.clear();
    await this.source.close();
  }

  private async block(index: number): Promise<Uint8Array> {
    const known = this.blocks.get(index);
    if (known) return known;
    const begin = index * BLOCK;
    const bytes = await this.source.read(begin, Math.min(BLOCK, this.length - begin));
    if (this.blocks.size >= KEPT_BLOCKS) this.blocks.delete(this.blocks.keys().next().value!);
    this.blocks.set(index, bytes);
    return bytes;
  }
}
