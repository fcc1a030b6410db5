import { CheckpointError } from '../errors.ts';
import type { ByteSource, FolderSource } from './source.ts';

export interface HttpOptions {
  /** Sent with each request, for instance `Authorization`. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** How often a dropped, stalled or refused (429, 5xx) answer is asked for again, from where it ended. */
  readonly retries?: number;
  /** A connection that brings nothing for so long is dropped, in milliseconds. */
  readonly stallMs?: number;
  /** Wait before the first retry, in milliseconds; it doubles each time. */
  readonly backoffMs?: number;
}

/** A failure that may pass: the request is worth another try. */
class Passing extends Error {}

/** What the first answer said, and all later ones must say as well. */
interface Identity {
  readonly size: number;
  readonly version: string | null;
}

interface Answer extends Identity {
  readonly body: ReadableStream<Uint8Array>;
}

/**
 * Opens a URL for reading by range, or gives null when it is not found (404, 410). Each answer is checked: status
 * 206, the very range that was asked for, the same size and ETag as before, as many bytes as promised. Throws a
 * CheckpointError that names the URL, what came and what was expected.
 */
export async function httpSource(url: string, options: HttpOptions = {}): Promise<ByteSource | null> {
  const identity = await retrying(url, options, () => probe(url, options));
  if (!identity) return null;
  return {
    name: url,
    size: async () => identity.size,
    read: async (offset, length) => {
      const bytes = new Uint8Array(length);
      let done = 0;
      const more = async () => {
        if (done === length) return;
        await receive(url, options, identity, offset + done, bytes.subarray(done), (count) => (done += count));
      };
      await retrying(url, options, more, () => done);
      return bytes;
    },
    close: async () => {},
  };
}

/** A folder of files behind a URL. */
export function httpFolder(url: string, options: HttpOptions = {}): FolderSource {
  const base = url.endsWith('/') ? url : `${url}/`;
  return { name: url, open: (file) => httpSource(base + encodeURIComponent(file), options) };
}

/** Repeats `work` after failures that may pass; one that made progress starts the count anew. */
async function retrying<T>(
  url: string,
  options: HttpOptions,
  work: () => Promise<T>,
  progress: () => number = () => 0,
): Promise<T> {
  const { retries = 3, backoffMs = 500, signal } = options;
  for (let attempt = 0, reached = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof Passing)) throw error;
      if (progress() > reached) attempt = 0;
      reached = progress();
      if (attempt >= retries) {
        throw new CheckpointError(
          `${url}: ${error.message}, after ${attempt + 1} tries; check the connection and try again`,
        );
      }
      await new Promise((done) => setTimeout(done, backoffMs * 2 ** attempt));
    }
  }
}

/** Size and version of the file, asked for by its first byte; null when there is none. */
async function probe(url: string, options: HttpOptions): Promise<Identity | null> {
  const stop = new AbortController();
  const response = await request(url, options, 'bytes=0-0', stop);
  try {
    if (response.status === 404 || response.status === 410) return null;
    if (response.status === 416 && response.headers.get('content-range') === 'bytes */0')
      return { size: 0, version: null };
    const { size, version } = check(url, response, 0, 1);
    return { size, version };
  } finally {
    stop.abort();
  }
}

/** One request for `into.length` bytes from `offset`; `onBytes` hears of each piece that is in place. */
async function receive(
  url: string,
  options: HttpOptions,
  identity: Identity,
  offset: number,
  into: Uint8Array,
  onBytes: (count: number) => void,
): Promise<void> {
  const stop = new AbortController();
  const end = offset + into.length - 1;
  const response = await request(url, options, `bytes=${offset}-${end}`, stop, identity.version);
  let done = 0;
  try {
    const answer = check(url, response, offset, into.length, identity);
    const reader = answer.body.getReader();
    for (;;) {
      const { value, done: ended } = await timed(reader.read(), options, stop);
      if (ended) break;
      if (done + value.length > into.length) {
        throw new CheckpointError(
          `${url}: more than the ${into.length} bytes asked for from byte ${offset}; the server is at fault`,
        );
      }
      into.set(value, done);
      done += value.length;
      onBytes(value.length);
    }
  } finally {
    stop.abort();
  }
  if (done < into.length) throw new Passing(`the answer ended at byte ${offset + done}, expected ${end + 1}`);
}

async function request(
  url: string,
  options: HttpOptions,
  range: string,
  stop: AbortController,
  version: string | null = null,
): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers, Range: range };
  // A weak ETag does not vouch for bytes, so that If-Range must not carry it.
  if (version && !version.startsWith('W/')) headers['If-Range'] = version;
  const signal = options.signal ? anySignal(options.signal, stop) : stop.signal;
  return timed(fetch(url, { headers, signal, cache: 'no-store' }), options, stop);
}

function anySignal(signal: AbortSignal, stop: AbortController): AbortSignal {
  if (signal.aborted) stop.abort(signal.reason);
  else signal.addEventListener('abort', () => stop.abort(signal.reason), { once: true, signal: stop.signal });
  return stop.signal;
}

/** Waits for a step of the transfer; silence and a broken connection are failures that may pass. */
async function timed<T>(step: Promise<T>, { stallMs = 30_000 }: HttpOptions, stop: AbortController): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stalled = new Promise<never>((_, fail) => {
    timer = setTimeout(() => {
      fail(new Passing(`nothing came for ${stallMs / 1000} s`));
      stop.abort();
    }, stallMs);
  });
  try {
    return await Promise.race([step, stalled]);
  } catch (error) {
    if (error instanceof Passing) throw error;
    const { message, cause } = error as Error;
    throw new Passing(`the connection broke (${cause instanceof Error ? cause.message : message})`);
  } finally {
    clearTimeout(timer);
  }
}

/** Throws unless the answer is exactly the range asked for, of the file that it was before. */
function check(url: string, response: Response, offset: number, length: number, known?: Identity): Answer {
  const { status, headers, body } = response;
  if (status === 429 || status >= 500) throw new Passing(`the server answered ${status}`);
  if (status === 200 && /^text\/html/.test(headers.get('content-type') ?? '')) {
    throw new CheckpointError(`${url}: a web page, expected a file; the address is wrong or needs a login`);
  }
  if (status === 200 && known?.version) throw changed(url);
  if (status === 200) {
    throw new CheckpointError(
      `${url}: the server answers 200 to a range, expected 206; use one that knows Range requests`,
    );
  }
  if (status !== 206 || !body) {
    throw new CheckpointError(
      `${url}: the server answered ${status}, expected 206; check the address and the access rights`,
    );
  }
  const range = headers.get('content-range') ?? 'none';
  const [, begin, end, total] = (/^bytes (\d+)-(\d+)\/(\d+)$/.exec(range) ?? []).map(Number);
  if (begin !== offset || end !== offset + length - 1 || !Number.isSafeInteger(total) || total <= end) {
    throw new CheckpointError(
      `${url}: Content-Range ${range.slice(0, 80)}, expected bytes ${offset}-${offset + length - 1} of the whole; ` +
        'the server is at fault, or does not expose this header to other origins',
    );
  }
  const version = headers.get('etag') ?? headers.get('last-modified');
  if (known && (known.size !== total || known.version !== version)) throw changed(url);
  return { size: total, version, body };
}

function changed(url: string): CheckpointError {
  return new CheckpointError(`${url}: the file changed on the server while it was read; load it again`);
}
