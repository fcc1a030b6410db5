import { CheckpointError } from '../../../engine/errors.ts';
import { expectRange } from '../../../engine/safetensors/source.ts';
import type { ByteSource } from '../../../engine/safetensors/source.ts';
import { changed, get, Pace, Passing, retrying } from './transfer.ts';
import type { Answer, RemoteFile } from './transfer.ts';

/** Bytes of a request: a tensor is often a few kilobytes, and a request costs as much as many of them. */
export const BLOCK = 4 * 2 ** 20;
/** Blocks that are on their way at a time, once a reader goes on from one to the next. */
const AHEAD = 4;
/** Blocks that are kept of all files that share them. */
const KEPT = 8;

/** The blocks that were asked for last, on their way or there, of one file or of all files of a folder. */
export class Blocks {
  /** The least recently used first. */
  private kept: { readonly of: ByteSource; readonly index: number; readonly bytes: Promise<Uint8Array> }[] = [];

  /** A block of a file, made unless it is there; one that fails is forgotten. */
  take(of: ByteSource, index: number, make: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const known = this.kept.find((block) => block.of === of && block.index === index);
    const block = known ?? { of, index, bytes: make() };
    this.kept = [...this.kept.filter((other) => other !== block), block].slice(-KEPT);
    if (!known) block.bytes.catch(() => (this.kept = this.kept.filter((other) => other !== block)));
    return block.bytes;
  }

  /** Lets go of all blocks of a file. */
  forget(file: ByteSource): void {
    this.kept = this.kept.filter(({ of }) => of !== file);
  }
}

/** A file on a server that knows ranges, read in large blocks and ahead of the reader. */
export class RangeSource implements ByteSource {
  private readonly pace: Pace;
  /** The block that was read last. */
  private last = 0;

  /** @param first the answer to the range of block 0, which is read at once */
  constructor(
    private readonly file: RemoteFile,
    first: Answer,
    private readonly blocks: Blocks,
  ) {
    this.pace = new Pace(file.options.floor);
    void this.block(0, first);
  }

  get name(): string {
    return this.file.url;
  }

  async size(): Promise<number> {
    return this.file.size;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    expectRange(this.name, offset, length, this.file.size);
    const out = new Uint8Array(length);
    const end = Math.ceil((offset + length) / BLOCK);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const index = Math.floor(at / BLOCK);
      const bytes = await this.ahead(index, end);
      const piece = bytes.subarray(at - index * BLOCK, at - index * BLOCK + length - done);
      out.set(piece, done);
      done += piece.length;
    }
    return out;
  }

  async close(): Promise<void> {
    this.file.close();
    this.blocks.forget(this);
  }

  /** A block; also asks for those that this read needs next, or that a reader who goes on will need. */
  private ahead(index: number, end: number): Promise<Uint8Array> {
    const goesOn = index === this.last + 1;
    const until = Math.min(index + AHEAD, goesOn ? Math.ceil(this.file.size / BLOCK) : end);
    this.last = index;
    const wanted = this.block(index);
    for (let next = index + 1; next < until; next++) void this.block(next);
    return wanted;
  }

  private block(index: number, first: Answer | null = null): Promise<Uint8Array> {
    return this.blocks.take(this, index, () => this.fetch(index, first));
  }

  private async fetch(index: number, first: Answer | null): Promise<Uint8Array> {
    const begin = index * BLOCK;
    const bytes = new Uint8Array(Math.min(BLOCK, this.file.size - begin));
    let answer = first;
    let done = 0;
    const more = async () => {
      answer ??= await this.open(begin + done, begin + bytes.length - 1);
      const { pieces } = answer;
      answer = null;
      for await (const piece of pieces()) {
        if (done + piece.length > bytes.length) throw this.tooMuch(begin, bytes.length);
        bytes.set(piece, done);
        done += piece.length;
      }
      if (done < bytes.length) {
        throw new Passing(`the answer ended at byte ${begin + done}, expected ${begin + bytes.length}`);
      }
    };
    await retrying(this.name, this.file.options, more, () => done);
    return bytes;
  }

  private async open(first: number, last: number): Promise<Answer> {
    const answer = await get(this.name, this.file.options, [first, last], this.file, this.pace);
    if (answer?.range) return answer;
    answer?.stop();
    throw changed(this.name);
  }

  private tooMuch(begin: number, length: number): CheckpointError {
    return new CheckpointError(
      `${this.name}: more than the ${length} bytes asked for from byte ${begin}; the server is at fault`,
    );
  }
}
