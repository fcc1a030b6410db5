/** Checkpoint folders behind a URL, read by HTTP ranges. Whatever a server answers, bytes are right or it is an error. */
import { ArgumentError, CheckpointError, SystemError } from '../../../engine/errors.ts';
import { expectRange } from '../../../engine/safetensors/source.ts';
import type { ByteSource, FolderSource } from '../../../engine/safetensors/index.ts';

/** A tensor is often a few kilobytes: files are fetched in blocks, and the last ones are kept. */
const BLOCK = 2 ** 20;
const KEPT_BLOCKS = 16;

/** A bare file name that a URL takes as it is. */
const FILE_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

export interface HttpOptions {
  readonly fetch?: typeof fetch;
  readonly signal?: AbortSignal;
  /** Milliseconds without a byte after which a server counts as stalled; 30 s unless given. */
  readonly stallTimeout?: number;
}

/**
 * A folder of files behind `url`. The server must answer ranges with 206; every answer's Content-Range, ETag and
 * length are checked.
 */
export function httpFolder(url: string, options: HttpOptions = {}): FolderSource {
  const name = url.replace(/\/+$/, '');
  return {
    name,
    open: async (file) => {
      if (!FILE_NAME.test(file)) throw new ArgumentError(`${name}: ${JSON.stringify(file)} is no bare file name`);
      return HttpFile.open(`${name}/${file}`, options);
    },
  };
}

class HttpFile implements ByteSource {
  private readonly blocks = new Map<number, Uint8Array>();

  private constructor(
    readonly name: string,
    private readonly options: HttpOptions,
    private readonly length: number,
    private readonly etag: string | null,
  ) {}

  /** Fetches the first block, which tells size and version; null where the server says 404. */
  static async open(url: string, options: HttpOptions): Promise<HttpFile | null> {
    const answer = await fetchRange(url, 0, BLOCK, null, options);
    if (!answer) return null;
    const file = new HttpFile(url, options, answer.total, answer.etag);
    file.blocks.set(0, answer.bytes);
    return file;
  }

  async size(): Promise<number> {
    return this.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    expectRange(this.name, offset, length, this.length);
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const index = Math.floor(at / BLOCK);
      const within = at - index * BLOCK;
      const piece = (await this.block(index)).subarray(within, within + length - done);
      out.set(piece, done);
      done += piece.length;
    }
    return out;
  }

  async close(): Promise<void> {
    this.blocks.clear();
  }

  private async block(index: number): Promise<Uint8Array> {
    const known = this.blocks.get(index);
    if (known) return known;
    const answer = await fetchRange(this.name, index * BLOCK, BLOCK, this, this.options);
    if (!answer) throw new CheckpointError(`${this.name}: it was there and is gone; load the model again`);
    if (this.blocks.size >= KEPT_BLOCKS) this.blocks.delete(this.blocks.keys().next().value!);
    this.blocks.set(index, answer.bytes);
    return answer.bytes;
  }

  /** Throws unless an answer is of the file that was opened. */
  expectSame(total: number, etag: string | null): void {
    if (total === this.length && etag === this.etag) return;
    throw new CheckpointError(`${this.name}: it changed while it was being read; load the model again`);
  }
}

interface Answer {
  readonly bytes: Uint8Array;
  readonly total: number;
  readonly etag: string | null;
}

/** One range request with everything checked; null for 404. Bytes end where the file ends. */
async function fetchRange(
  url: string,
  offset: number,
  length: number,
  file: HttpFile | null,
  options: HttpOptions,
): Promise<Answer | null> {
  const watch = new Watch(url, options);
  try {
    const response = await (options.fetch ?? fetch)(url, {
      headers: { Range: `bytes=${offset}-${offset + length - 1}` },
      cache: 'no-store',
      credentials: 'same-origin',
      signal: watch.signal,
    });
    if (response.status === 404) return null;
    const total = checkHead(url, response, offset, length);
    const etag = response.headers.get('etag');
    file?.expectSame(total, etag);
    return { bytes: await body(url, response, offset, Math.min(length, total - offset), watch), total, etag };
  } catch (error) {
    throw watch.explain(error);
  } finally {
    watch.stop();
  }
}

/** Checks status and headers of an answer; gives the file's size. */
function checkHead(url: string, response: Response, offset: number, length: number): number {
  const { status, headers } = response;
  const fail = (what: string): never => {
    void response.body?.cancel().catch(() => {});
    throw new CheckpointError(`${url}: ${what}`);
  };
  const range = headers.get('content-range') ?? '';
  if (status === 416 && offset === 0 && range === 'bytes */0') return 0;
  if (headers.get('content-type')?.startsWith('text/html')) {
    fail('the server sent a web page in place of the file; the address is wrong or needs a login');
  }
  if (status === 200) fail('the server sent the whole file (200), expected a range of it (206); it must serve ranges');
  if (status !== 206) fail(`the server answered ${status}, expected 206`);
  const encoding = headers.get('content-encoding') ?? 'identity';
  if (encoding !== 'identity') fail(`Content-Encoding is ${encoding}, expected none: ranges count the file's own bytes`);
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(range);
  const [first, last, total] = (match ?? []).slice(1).map(Number);
  if (!match || first !== offset || last !== Math.min(offset + length, total) - 1) {
    fail(`Content-Range is ${JSON.stringify(range)}, expected bytes ${offset} to ${offset + length - 1}`);
  }
  return total;
}

/** An answer's body, of exactly the length expected. */
async function body(url: string, response: Response, offset: number, expected: number, watch: Watch): Promise<Uint8Array> {
  const out = new Uint8Array(expected);
  let got = 0;
  const reader = response.body?.getReader();
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    watch.alive();
    if (got + value.length > expected) {
      void reader.cancel().catch(() => {});
      throw new CheckpointError(`${url}: byte ${offset + expected}: the server sent more than the ${expected} bytes asked for`);
    }
    out.set(value, got);
    got += value.length;
  }
  if (got !== expected) {
    throw new CheckpointError(`${url}: byte ${offset + got}: the server stopped, expected ${expected - got} bytes more`);
  }
  return out;
}

/** Ends a request that stalls or that the caller gives up. */
class Watch {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private stalled = false;
  private readonly giveUp = () => this.controller.abort(this.options.signal?.reason);

  constructor(
    private readonly url: string,
    private readonly options: HttpOptions,
  ) {
    if (options.signal?.aborted) this.giveUp();
    options.signal?.addEventListener('abort', this.giveUp);
    this.alive();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** A byte came: the clock starts anew. */
  alive(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.stalled = true;
      this.controller.abort();
    }, this.options.stallTimeout ?? 30_000);
  }

  /** What went wrong, for people: errors of ours and the caller's own abort pass unchanged. */
  explain(error: unknown): unknown {
    if (error instanceof CheckpointError) return error;
    if (this.stalled) return new SystemError(`${this.url}: the server stopped sending; check it and try again`);
    if (this.options.signal?.aborted) return this.options.signal.reason;
    return new SystemError(`${this.url}: cannot be fetched: ${(error as Error).message}; check that the server runs`);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.options.signal?.removeEventListener('abort', this.giveUp);
  }
}
