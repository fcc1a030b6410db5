import { CheckpointError } from '../../../engine/errors.ts';
import { BLOCK, Blocks, RangeSource } from './ranges.ts';
import { bytesSource } from '../../../engine/safetensors/source.ts';
import type { ByteSource, FolderSource } from '../../../engine/safetensors/source.ts';
import { Streams, StreamSource } from './stream.ts';
import { follow, get, Pace, retrying } from './transfer.ts';
import type { Answer, HttpOptions } from './transfer.ts';

export type { HttpOptions } from './transfer.ts';

/** Largest file that is taken from a server that tells no length: it has to be held to learn it. */
const UNTOLD_LIMIT = 64 * 2 ** 20;

/** What the files of a folder share, so that memory and connections are bounded for all of them. */
interface Shared {
  readonly blocks: Blocks;
  readonly streams: Streams;
}

/**
 * Opens a URL for reading by range, or gives null when it is not found (404, 410). Files are read in blocks of 4 MiB,
 * ahead of a reader who goes on from one to the next and a few at a time; a server that answers 200 with the whole is
 * read as it sends, which is one download as long as reads go forward. Either way some blocks are held and no more.
 *
 * Each answer is checked: its status, the very range that was asked for, the same size and ETag as before, as many
 * bytes as promised. Throws a CheckpointError that names the URL, what came and what was expected.
 */
export function httpSource(url: string, options: HttpOptions = {}): Promise<ByteSource | null> {
  return openFile(url, options, { blocks: new Blocks(), streams: new Streams() });
}

/** A folder of files behind a URL. */
export function httpFolder(url: string, options: HttpOptions = {}): FolderSource {
  const base = url.endsWith('/') ? url : `${url}/`;
  const shared = { blocks: new Blocks(), streams: new Streams() };
  return { name: url, open: (file) => openFile(base + encodeURIComponent(file), options, shared) };
}

async function openFile(url: string, given: HttpOptions, shared: Shared): Promise<ByteSource | null> {
  const closing = follow(given.signal);
  const options = { ...given, signal: closing.signal };
  const pace = new Pace(options.floor);
  const open = async () => {
    const answer = await get(url, options, [0, BLOCK - 1], null, pace);
    if (!answer) return null;
    const { size, version } = answer;
    if (size === null) return bytesSource(url, await readAll(url, answer));
    const file = { url, size, version, options, close: () => closing.abort() };
    return answer.range ? new RangeSource(file, answer, shared.blocks) : new StreamSource(file, answer, shared.streams);
  };
  let source: ByteSource | null = null;
  try {
    source = await retrying(url, options, open);
    return source;
  } finally {
    if (!(source instanceof RangeSource || source instanceof StreamSource)) closing.abort();
  }
}

/** All that an answer of unknown length brings. */
async function readAll(url: string, answer: Answer): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let total = 0;
  for await (const piece of answer.pieces()) {
    total += piece.length;
    if (total > UNTOLD_LIMIT) {
      throw new CheckpointError(
        `${url}: more than ${UNTOLD_LIMIT} bytes, and the server tells no length; use one that knows Range requests`,
      );
    }
    pieces.push(piece);
  }
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
