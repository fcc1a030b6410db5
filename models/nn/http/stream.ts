import { BLOCK } from './ranges.ts';
import { expectRange } from '../../../engine/safetensors/source.ts';
import type { ByteSource } from '../../../engine/safetensors/source.ts';
import { changed, get, Pace, Passing, retrying } from './transfer.ts';
import type { Answer, RemoteFile } from './transfer.ts';

/** Answers that are left open at a time, of all files that share them: browsers allow six connections to a server. */
const OPEN = 4;

/** The streams that were read last. */
export class Streams {
  private readonly open = new Set<StreamSource>();

  /** Notes that a stream is read, and pauses the one that was not for the longest time where there are too many. */
  use(stream: StreamSource): void {
    this.open.delete(stream);
    this.open.add(stream);
    if (this.open.size <= OPEN) return;
    const [oldest] = this.open;
    this.open.delete(oldest);
    oldest.pause();
  }
}

/**
 * A file on a server that knows no ranges and sends it whole: bytes are taken from the one answer as they are asked
 * for, in rising order, and nothing is kept. Going back, or on after a pause or a lost connection, begins a new answer.
 */
export class StreamSource implements ByteSource {
  private readonly pace: Pace;
  /** The answer that is being read. */
  private open: { readonly pieces: AsyncGenerator<Uint8Array>; readonly stop: () => void } | null;
  /** What came and was not asked for yet, and where it begins. */
  private rest: Uint8Array = new Uint8Array(0);
  private position = 0;
  private turn: Promise<unknown> = Promise.resolve();

  /** @param answer the answer that told the size; its bytes are not read yet */
  constructor(
    private readonly file: RemoteFile,
    answer: Answer,
    private readonly streams: Streams,
  ) {
    this.pace = new Pace(file.options.floor);
    this.open = { pieces: answer.pieces(), stop: answer.stop };
    streams.use(this);
  }

  get name(): string {
    return this.file.url;
  }

  async size(): Promise<number> {
    return this.file.size;
  }

  /** One read at a time: they share the answer. */
  read(offset: number, length: number): Promise<Uint8Array> {
    const result = this.turn.then(() => this.readNext(offset, length));
    this.turn = result.catch(() => {});
    return result;
  }

  async close(): Promise<void> {
    this.file.close();
    this.pause();
  }

  /** Drops the connection until a read needs it. */
  pause(): void {
    this.open?.stop();
    this.open = null;
  }

  private async readNext(offset: number, length: number): Promise<Uint8Array> {
    expectRange(this.name, offset, length, this.file.size);
    this.streams.use(this);
    const out = new Uint8Array(length);
    let done = 0;
    const more = async () => {
      while (done < length) {
        await this.seek(offset + done);
        const piece = this.rest.subarray(0, length - done);
        out.set(piece, done);
        done += piece.length;
        this.drop(piece.length);
      }
    };
    await retrying(this.name, this.file.options, more, () => done);
    return out;
  }

  /** Reads on, or anew, until `rest` begins at `offset` and is not empty. */
  private async seek(offset: number): Promise<void> {
    for (;;) {
      if (this.position > offset) await this.restart();
      this.drop(Math.min(this.rest.length, offset - this.position));
      if (this.rest.length > 0) return;
      if (this.open) this.rest = await this.next(this.open.pieces);
      else await this.restart();
    }
  }

  private async next(pieces: AsyncGenerator<Uint8Array>): Promise<Uint8Array> {
    let ended = true;
    try {
      const { value, done } = await pieces.next();
      ended = done === true;
      if (!ended) return value as Uint8Array;
    } finally {
      if (ended) this.open = null;
    }
    throw new Passing(`the answer ended at byte ${this.position}, expected ${this.file.size}`);
  }

  private drop(count: number): void {
    this.rest = this.rest.subarray(count);
    this.position += count;
  }

  private async restart(): Promise<void> {
    this.pause();
    const { url, options, size, version } = this.file;
    const answer = await get(url, options, [0, BLOCK - 1], null, this.pace);
    if (!answer || answer.range || answer.size !== size || answer.version !== version) {
      answer?.stop();
      throw changed(url);
    }
    this.open = { pieces: answer.pieces(), stop: answer.stop };
    this.rest = new Uint8Array(0);
    this.position = 0;
  }
}
