import { DataError } from '../../../nn/errors.ts';

const BLOCK = 512;

/** A text field of a header, up to its NUL. */
function field(header: Uint8Array, at: number, length: number): string {
  const bytes = header.subarray(at, at + length);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/**
 * The plain files of a tar archive (POSIX ustar) that `wanted` says yes to, by path; the bytes are views of `archive`.
 * Everything else, links and extended headers among it, is stepped over: no path of the archive is ever written to.
 * @throws DataError if the archive is truncated or a header is none
 */
export function readTar(archive: Uint8Array, wanted: (path: string) => boolean): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  for (let at = 0; at + BLOCK <= archive.length && archive[at] !== 0; ) {
    const header = archive.subarray(at, at + BLOCK);
    const octal = field(header, 124, 12).trim();
    if (field(header, 257, 5) !== 'ustar' || !/^[0-7]{1,11}$/.test(octal)) {
      throw new DataError(`The archive is broken: no tar header at byte ${at}.`);
    }
    const size = Number.parseInt(octal, 8);
    const start = at + BLOCK;
    if (start + size > archive.length) {
      throw new DataError(`The archive ends within the file whose header is at byte ${at}.`);
    }
    const prefix = field(header, 345, 155);
    const path = (prefix === '' ? '' : `${prefix}/`) + field(header, 0, 100);
    const isFile = header[156] === 0x30 || header[156] === 0;
    if (isFile && wanted(path)) files.set(path, archive.subarray(start, start + size));
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  return files;
}
