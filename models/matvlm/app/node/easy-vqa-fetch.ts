/** Fetches easy-VQA from its public home into a cache; only content with the pinned checksum ever gets there. */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { SystemError } from '../../../../engine/errors.ts';
import { DataError } from '../../../nn/errors.ts';
import { disk } from '../store/index.ts';
import { download, type DownloadOptions } from './download.ts';
import { readTar } from './tar.ts';

const REVISION = '3b553bb7ff42a868d5f4cbe8c88255d7333c3c31';

/** Where a copy of the set comes from, and the `filesDigest` of what it must hold. */
export interface EasyVqaSource {
  readonly url: string;
  readonly digest: string;
}

export const EASY_VQA_SOURCE: EasyVqaSource = {
  url: `https://codeload.github.com/vzhou842/easy-VQA/tar.gz/${REVISION}`,
  digest: 'cddd207fc33de73277f16d298532879add0b6c44a8de2b11fd102d700a46ed12',
};

/** Files of the public set: 5,000 images, two lists of questions and the answers. */
const FILES = 5003;

/** The archive has some 3 MB and unpacks to some 20. */
const MAX_ARCHIVE = 32e6;
const MAX_UNPACKED = 64e6;
/** Left-overs of a killed process are removed once they are so old. */
const STALE_MS = 3_600_000;

/** The files that make up the set, below its folder; in the archive below `<name>/easy_vqa/data/`. */
const MEMBER = /^(answers\.txt|(train|test)\/(questions\.json|images\/\d+\.png))$/;
const IN_ARCHIVE = /^[^/]+\/easy_vqa\/data\/(.+)$/;

export interface FetchOptions extends Partial<Pick<DownloadOptions, 'signal' | 'onProgress' | 'stallMs' | 'floor'>> {
  /** `$XDG_CACHE_HOME/matvlm` or `~/.cache/matvlm` unless given. */
  readonly cacheDir?: string;
  readonly source?: EasyVqaSource;
}

const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex');

/** SHA-256 over `sha256sum`'s lines for the files, in the order of their paths' bytes. */
export function filesDigest(files: ReadonlyMap<string, Uint8Array>): string {
  const lines = [...files].map(([path, bytes]) => [path, `${sha256(bytes)}  ${path}\n`]);
  return sha256(lines.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, line]) => line).join(''));
}

/** Paths of the set's files in a folder; other files there do not count. */
function members(folder: string): string[] {
  const paths = readdirSync(folder, { recursive: true }).map((p) => String(p).replaceAll('\\', '/'));
  return paths.filter((p) => MEMBER.test(p));
}

function readFolder(folder: string): Map<string, Uint8Array> {
  return new Map(members(folder).map((p) => [p, readFileSync(join(folder, p))]));
}

const isIntact = (folder: string, digest: string): boolean =>
  existsSync(folder) && filesDigest(readFolder(folder)) === digest;

/** Whether a folder holds the public set, to the last byte, whatever its name. */
export function isPublicEasyVqa(folder: string): boolean {
  return existsSync(folder) && members(folder).length === FILES && isIntact(folder, EASY_VQA_SOURCE.digest);
}

/** Unpacks and checks an archive in memory. */
function unpack(archive: Uint8Array, source: EasyVqaSource): Map<string, Uint8Array> {
  let tar: Uint8Array;
  try {
    tar = gunzipSync(archive, { maxOutputLength: MAX_UNPACKED });
  } catch (error) {
    throw new DataError(`What ${source.url} sent is no gzip archive, or a broken one: ${(error as Error).message}.`);
  }
  const member = (path: string): string | undefined => IN_ARCHIVE.exec(path)?.[1];
  const packed = readTar(tar, (path) => MEMBER.test(member(path) ?? ''));
  const files = new Map([...packed].map(([path, bytes]) => [member(path)!, bytes]));
  const digest = filesDigest(files);
  if (digest !== source.digest) {
    throw new DataError(
      `What ${source.url} sent is not the data set: ${files.size} files with checksum ${digest}, ` +
        `expected ${source.digest}. Nothing was kept.`,
    );
  }
  return files;
}

/** Removes what killed processes left beside the cache's folders. */
function removeStale(cacheDir: string): void {
  for (const name of readdirSync(cacheDir)) {
    const path = join(cacheDir, name);
    if (!/^easy-vqa-.*\.tmp-/.test(name)) continue;
    if (Date.now() - statSync(path).mtimeMs > STALE_MS) rmSync(path, { recursive: true, force: true });
  }
}

/** Writes a temporary sibling and renames it: `folder` is never seen half filled. Another process may be first. */
async function store(
  files: ReadonlyMap<string, Uint8Array>,
  cacheDir: string,
  folder: string,
  digest: string,
): Promise<void> {
  let temporary: string | undefined;
  try {
    await disk.makeFolder(cacheDir);
    removeStale(cacheDir);
    temporary = mkdtempSync(`${folder}.tmp-`);
    for (const dir of new Set([...files.keys()].map(dirname))) await disk.makeFolder(join(temporary, dir));
    for (const [path, bytes] of files) writeFileSync(join(temporary, path), bytes);
    if (isIntact(folder, digest)) return;
    rmSync(folder, { recursive: true, force: true });
    renameSync(temporary, folder);
  } catch (error) {
    throw new SystemError(`easy-VQA cannot be stored in ${cacheDir}: ${(error as Error).message}`, { cause: error });
  } finally {
    if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
  }
}

/**
 * The folder with the set: the cached one if its checksum is right, else fetched (3 MB), checked and stored.
 * @throws DataError if the source cannot be reached or sends anything but the pinned content; SystemError if the cache
 *   cannot be written
 */
export async function fetchEasyVqa(options: FetchOptions = {}): Promise<string> {
  const { source = EASY_VQA_SOURCE, signal, onProgress, stallMs, floor } = options;
  const cacheDir = options.cacheDir ?? join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'matvlm');
  const folder = join(cacheDir, `easy-vqa-${source.digest.slice(0, 12)}`);
  if (isIntact(folder, source.digest)) return folder;
  const archive = await download(source.url, { maxBytes: MAX_ARCHIVE, signal, onProgress, stallMs, floor });
  await store(unpack(archive, source), cacheDir, folder, source.digest);
  return folder;
}
