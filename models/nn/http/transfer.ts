import { CheckpointError } from '../../../engine/errors.ts';

export interface HttpOptions {
  /** Sent with each request, for instance `Authorization`. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** How often a dropped, stalled or refused (429, 5xx) answer is asked for again. */
  readonly retries?: number;
  /** A connection that brings nothing for so long is dropped, in milliseconds. */
  readonly stallMs?: number;
  /** Wait before the first retry, in milliseconds; it doubles each time. */
  readonly backoffMs?: number;
  /** What a transfer must bring at least, while it is waited for; 64 KiB a minute unless given. */
  readonly floor?: Floor;
}

/** So many bytes in so many milliseconds. */
export interface Floor {
  readonly bytes: number;
  readonly ms: number;
}

export const FLOOR: Floor = { bytes: 2 ** 16, ms: 60_000 };

/** A failure that may pass: the request is worth another try. */
export class Passing extends Error {}

/** What the first answer said of a file, and all later ones must say as well. */
export interface Identity {
  /** Bytes; null where a server sends a file without telling. */
  readonly size: number | null;
  readonly version: string | null;
}

/** A file that was found, as its sources know it. */
export interface RemoteFile extends Identity {
  readonly url: string;
  readonly size: number;
  /** Their signal ends whatever is under way. */
  readonly options: HttpOptions;
  /** Ends it by that signal. */
  close(): void;
}

/** First and last byte, both included. */
export type Range = readonly [first: number, last: number];

/** An answer whose status and headers are right. */
export interface Answer extends Identity {
  /** The range of a 206, from which on `pieces` come; null for a 200, which brings the whole file. */
  readonly range: Range | null;
  /** The body, as it comes; to be walked once. @throws Passing when it stalls or breaks, CheckpointError when too slow */
  pieces(): AsyncGenerator<Uint8Array>;
  /** Drops the connection. */
  stop(): void;
}

/** Measures a transfer against a floor, so that one that drips comes to an end. Only time spent waiting counts. */
export class Pace {
  private waited = 0;
  private came = 0;

  constructor(private readonly floor: Floor = FLOOR) {}

  /** Notes a wait and what it brought. Returns what is wrong, or null. */
  note(ms: number, bytes: number): string | null {
    this.waited += ms;
    this.came += bytes;
    if (this.waited < this.floor.ms) return null;
    const { waited, came } = this;
    this.waited = this.came = 0;
    if (came >= this.floor.bytes) return null;
    return `only ${came} bytes came in ${Math.round(waited / 1000)} s, expected ${this.floor.bytes} at least`;
  }
}

/**
 * Repeats `work` after failures that may pass. Progress starts the count anew, once it amounts to the floor's bytes.
 * @param progress bytes that are in place
 */
export async function retrying<T>(
  url: string,
  { retries = 3, backoffMs = 500, floor = FLOOR, signal }: HttpOptions,
  work: () => Promise<T>,
  progress: () => number = () => 0,
): Promise<T> {
  for (let attempt = 0, reached = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof Passing)) throw error;
      if (progress() - reached >= floor.bytes) {
        attempt = 0;
        reached = progress();
      }
      if (attempt >= retries) {
        throw new CheckpointError(
          `${url}: ${error.message}, after ${attempt + 1} tries; check the connection and try again`,
        );
      }
      await new Promise((done) => setTimeout(done, backoffMs * 2 ** attempt));
    }
  }
}

/**
 * Asks for a range of a file and checks what the answer says: its status, that it is the very range, and that the file
 * is the one that `known` is of. A server that knows no ranges answers 200 with the whole.
 * @param range may reach past the end of the file where it begins at 0
 * @returns null when there is no such file (404, 410)
 * @throws Passing for a failure that may pass; else a CheckpointError that names the URL, what came and what was expected
 */
export async function get(
  url: string,
  options: HttpOptions,
  range: Range,
  known: Identity | null,
  pace: Pace,
): Promise<Answer | null> {
  const stop = follow(options.signal);
  try {
    const response = await request(url, options, range, known, stop);
    const { status, body } = response;
    if (status === 404 || status === 410) {
      stop.abort();
      return null;
    }
    const identified = identify(url, response, range, known);
    const pieces = () => (body ? walk(url, body, options, stop, pace) : nothing());
    return { ...identified, pieces, stop: () => stop.abort() };
  } catch (error) {
    stop.abort();
    throw error;
  }
}

/** A controller that aborts when `signal` does. Abort it in the end: the signal may live on, and holds it until then. */
export function follow(signal: AbortSignal | undefined): AbortController {
  const stop = new AbortController();
  if (signal?.aborted) stop.abort(signal.reason);
  else signal?.addEventListener('abort', () => stop.abort(signal.reason), { once: true, signal: stop.signal });
  return stop;
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

async function* walk(
  url: string,
  body: ReadableStream<Uint8Array>,
  options: HttpOptions,
  stop: AbortController,
  pace: Pace,
): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (;;) {
      const began = performance.now();
      const { value, done } = await timed(reader.read(), options, stop);
      if (done) return;
      const fault = pace.note(performance.now() - began, value.length);
      if (fault) throw new CheckpointError(`${url}: ${fault}; the connection or the server is too slow, try again later`);
      yield value;
    }
  } finally {
    stop.abort();
  }
}

function request(
  url: string,
  options: HttpOptions,
  [first, last]: Range,
  known: Identity | null,
  stop: AbortController,
): Promise<Response> {
  // Compressed, an answer would tell neither its length nor its bytes. Browsers see to that themselves.
  const headers: Record<string, string> = {
    'Accept-Encoding': 'identity',
    ...options.headers,
    Range: `bytes=${first}-${last}`,
  };
  // A weak ETag does not vouch for bytes, so that If-Range must not carry it.
  if (known?.version && !known.version.startsWith('W/')) headers['If-Range'] = known.version;
  return timed(fetch(url, { headers, signal: stop.signal, cache: 'no-store' }), options, stop);
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

function identify(
  url: string,
  { status, headers, body }: Response,
  [first, last]: Range,
  known: Identity | null,
): Identity & { readonly range: Range | null } {
  if (status === 429 || status >= 500) throw new Passing(`the server answered ${status}`);
  if (status === 200 && /^text\/html/.test(headers.get('content-type') ?? '')) {
    throw new CheckpointError(`${url}: a web page, expected a file; the address is wrong or needs a login`);
  }
  const version = headers.get('etag') ?? headers.get('last-modified');
  if (status === 200) return { size: lengthOf(headers), version, range: null };
  const content = headers.get('content-range') ?? 'none';
  // Of an empty file no range can be given.
  if (status === 416 && first === 0 && content === 'bytes */0') return { size: 0, version, range: [0, -1] };
  if (status !== 206 || !body) {
    throw new CheckpointError(
      `${url}: the server answered ${status}, expected 206 or 200; check the address and the access rights`,
    );
  }
  const [, begin, end, size] = (/^bytes (\d+)-(\d+)\/(\d+)$/.exec(content) ?? []).map(Number);
  if (begin !== first || !Number.isSafeInteger(size) || end !== Math.min(last, size - 1) || end < begin) {
    throw new CheckpointError(
      `${url}: Content-Range ${content.slice(0, 80)}, expected bytes ${first}-${last} of the whole; ` +
        'the server is at fault, or does not expose this header to other origins',
    );
  }
  if (known && (known.size !== size || known.version !== version)) throw changed(url);
  return { size, version, range: [begin, end] };
}

/** The length of a whole file; null where it is not told, or told of compressed bytes. */
function lengthOf(headers: Headers): number | null {
  const encoding = headers.get('content-encoding') ?? 'identity';
  const length = headers.get('content-length') ?? '';
  return encoding === 'identity' && /^\d{1,15}$/.test(length) ? Number(length) : null;
}

export function changed(url: string): CheckpointError {
  return new CheckpointError(`${url}: the file changed on the server while it was read; load it again`);
}
