import { DataError } from '../../../nn/errors.ts';
import { type Floor, Pace } from '../../../nn/http/transfer.ts';

export interface DownloadOptions {
  /** More bytes than this are refused. */
  readonly maxBytes: number;
  /** A server silent for so long is given up. */
  readonly stallMs?: number;
  /** What must come at least, see `Pace`; a server that is slower is given up. */
  readonly floor?: Floor;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { file: string; loaded: number; total?: number }) => void;
}

const TRIES = 3;

/** A failure that another try may mend: the network's, or the server's own. */
class Passing extends Error {}

/** The innermost reason: fetch wraps it into "fetch failed" and "terminated". */
function reason(error: unknown): string {
  const { cause, message } = error as Error;
  return cause instanceof Error && cause.message !== '' ? cause.message : message;
}

/** Collects a body; every chunk starts the stall clock anew. */
async function readBody(
  response: Response,
  url: string,
  options: DownloadOptions,
  alive: () => void,
): Promise<Uint8Array> {
  const length = Number(response.headers.get('content-length') ?? Number.NaN);
  const total = Number.isNaN(length) ? undefined : length;
  const chunks: Uint8Array[] = [];
  const pace = new Pace(options.floor);
  let loaded = 0;
  let since = performance.now();
  for await (const chunk of response.body ?? []) {
    alive();
    const fault = pace.note(performance.now() - since, chunk.length);
    if (fault) throw new DataError(`${url} is too slow: ${fault}; try again later.`);
    since = performance.now();
    loaded += chunk.length;
    if (loaded > options.maxBytes) throw new DataError(`${url} sends more than ${options.maxBytes} bytes.`);
    chunks.push(chunk);
    options.onProgress?.({ file: url, loaded, total });
  }
  return Buffer.concat(chunks);
}

async function tryOnce(url: string, options: DownloadOptions): Promise<Uint8Array> {
  const stallMs = options.stallMs ?? 30_000;
  const stalled = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, stalled.signal]) : stalled.signal;
  let timer: NodeJS.Timeout | undefined;
  const alive = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => stalled.abort(), stallMs);
  };
  alive();
  try {
    const response = await fetch(url, { signal });
    if (response.status >= 500 || response.status === 429) throw new Passing(`status ${response.status}`);
    if (response.status !== 200) throw new DataError(`${url} answers with status ${response.status}.`);
    if (/html/i.test(response.headers.get('content-type') ?? '')) {
      throw new DataError(`${url} answers with a web page, not with a file; is a proxy or login in the way?`);
    }
    return await readBody(response, url, options, alive);
  } catch (error) {
    if (error instanceof DataError) throw error;
    options.signal?.throwIfAborted();
    throw new Passing(stalled.signal.aborted ? `nothing came for ${stallMs / 1000} s` : reason(error));
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Fetches a file into memory; network failures, stalls and server errors are tried three times in all.
 * @throws DataError that names the address and the last reason; the signal's reason when aborted
 */
export async function download(url: string, options: DownloadOptions): Promise<Uint8Array> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await tryOnce(url, options);
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      if (attempt === TRIES) {
        throw new DataError(`${url} could not be fetched in ${TRIES} tries: ${error.message}.`, { cause: error });
      }
      await new Promise((resolve) => setTimeout(resolve, 200 * attempt));
    }
  }
}
