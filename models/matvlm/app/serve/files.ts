import { createHash } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readFile, realpath } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { dirname, extname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseRange } from './range.ts';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.wasm': 'application/wasm',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.safetensors': 'application/octet-stream',
};

/** What of a checkpoint folder is served: weights and their descriptions, no log and no training state. */
const MODEL_FILE =
  /^((?!optimizer)\w[\w.-]*\.safetensors|(model\.safetensors\.index|((mamba|generation|preprocessor)_)?config|tokenizer(_config)?|special_tokens_map|added_tokens)\.json)$/;

/** Content that is held in memory. */
export interface Asset {
  readonly type: string;
  readonly body: Buffer;
  readonly etag: string;
}

/** @param name gives the type by its ending */
export function asset(name: string, body: Uint8Array | string): Asset {
  const bytes = Buffer.from(body as Uint8Array);
  const etag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`;
  return { type: TYPES[extname(name)], body: bytes, etag };
}

/** Reads a file of the page into memory. */
export async function fileAsset(path: string): Promise<Asset> {
  return asset(path, await readFile(path));
}

export function sendAsset(request: IncomingMessage, response: ServerResponse, { type, body, etag }: Asset): void {
  if (request.headers['if-none-match'] === etag) {
    response.writeHead(304, { ETag: etag }).end();
    return;
  }
  response.writeHead(200, { 'Content-Type': type, 'Content-Length': body.length, ETag: etag });
  response.end(request.method === 'HEAD' ? undefined : body);
}

/** A checkpoint folder. */
export interface ServedFolder {
  readonly folder: string;
  /** Serve files that have other names too (hard links); without it they are not, as one may lie outside of the folder. */
  readonly hardLinks?: boolean;
}

/** Files of a folder by their names, open as long as they are served: a run may delete its checkpoint meanwhile. */
export type OpenFiles = ReadonlyMap<string, FileHandle>;

/**
 * Opens all that is served of a folder, in order of names: nothing where there is no folder, and no link that leads out
 * of it, or may (a hard link, unless they are allowed).
 */
export async function openServed(folder: ServedFolder): Promise<OpenFiles> {
  const files = new Map<string, FileHandle>();
  for (const name of (await namesIn(folder.folder)).sort()) {
    const handle = await openInside(folder, name);
    if (handle) files.set(name, handle);
  }
  return files;
}

export async function closeAll(files: OpenFiles): Promise<void> {
  await Promise.all([...files.values()].map((handle) => handle.close().catch(() => {})));
}

/** The names in a folder that may be served. */
async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).filter((name) => MODEL_FILE.test(name));
}

/** The files of a folder that would be served but for their other names (hard links). */
export async function linkedFiles(folder: string): Promise<string[]> {
  const served = (await namesIn(folder)).map((name) => join(folder, name));
  const found = await Promise.all(served.map((path) => lstat(path).catch(() => null)));
  return served.filter((_, i) => found[i]?.isFile() && isLinked(found[i]));
}

/** A file with several names: any file of the disk may be one of a folder so, and nothing in it tells. */
const isLinked = ({ nlink }: Stats) => nlink > 1;

/**
 * Opens a file that lies in a folder itself. Null where there is none: also for a link that leads out of it, or may (a
 * hard link, unless they are allowed), a folder, a pipe or a device.
 */
export async function openInside({ folder, hardLinks = false }: ServedFolder, name: string): Promise<FileHandle | null> {
  let handle: FileHandle | null = null;
  try {
    const path = await realpath(join(folder, name));
    if (dirname(path) !== (await realpath(folder))) return null;
    // O_NONBLOCK: opening a pipe must not wait for a writer.
    handle = await open(path, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0));
    const found = await handle.stat();
    if (found.isFile() && (hardLinks || !isLinked(found))) return handle;
  } catch {
    // As good as absent.
  }
  await handle?.close().catch(() => {});
  return null;
}

/** Sends a file that is open, or the range of it that is asked for. @param name gives the type by its ending */
export async function sendModelFile(
  request: IncomingMessage,
  response: ServerResponse,
  handle: FileHandle,
  name: string,
): Promise<void> {
  const { size, mtimeMs } = await handle.stat();
  const type = TYPES[extname(name)];
  const etag = `"${size.toString(36)}-${Math.round(mtimeMs * 1000).toString(36)}"`;
  const ifRange = request.headers['if-range'];
  const asked = ifRange !== undefined && ifRange !== etag ? undefined : request.headers.range;
  const range = parseRange(asked, size);
  const headers = { 'Content-Type': type, 'Accept-Ranges': 'bytes', ETag: etag };
  if (range === 'unsatisfiable') {
    response.writeHead(416, { ...headers, 'Content-Range': `bytes */${size}`, 'Content-Length': 0 }).end();
    return;
  }
  const { first, last } = range ?? { first: 0, last: size - 1 };
  const part = range ? { 'Content-Range': `bytes ${first}-${last}/${size}` } : {};
  response.writeHead(range ? 206 : 200, { ...headers, ...part, 'Content-Length': last - first + 1 });
  if (request.method === 'HEAD' || last < first) {
    response.end();
    return;
  }
  // A client that goes away in the middle is its own affair.
  await pipeline(pieces(handle, first, last), response).catch(() => {});
}

/** Bytes that are read at a time. */
const PIECE = 2 ** 17;

/** A part of a file, which stays open: a stream of the handle would close it where a client goes away. */
async function* pieces(handle: FileHandle, first: number, last: number): AsyncGenerator<Uint8Array> {
  for (let at = first; at <= last; ) {
    const length = Math.min(PIECE, last - at + 1);
    const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafeSlow(length), 0, length, at);
    if (bytesRead === 0) throw new Error(`the file ends at ${at}, which was longer before`);
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}
