/** Reads format and size of an image from its first bytes, so that a bomb is refused before anything is decoded. */
import { ImageError } from '../errors.ts';
import { isAvif, readAvif } from './avif.ts';

export type ImageFormat = 'png' | 'jpeg' | 'gif' | 'webp' | 'avif';

export interface ImageHeader {
  readonly format: ImageFormat;
  /** As stored, before any EXIF rotation. */
  readonly width: number;
  readonly height: number;
  /** Whether pixels may be transparent. */
  readonly alpha: boolean;
}

/** Longest side and greatest number of pixels that are decoded: 300 MB of RGB. */
export const MAX_SIDE = 16_384;
export const MAX_PIXELS = 100_000_000;

/** With the bytes that a file of such an image has at least, where that can be told. */
type Size = Omit<ImageHeader, 'format'> & { readonly leastBytes?: number };

const ascii = (bytes: Uint8Array, at: number, text: string): boolean =>
  text.split('').every((c, i) => bytes[at + i] === c.charCodeAt(0));

function truncated(format: string): never {
  throw new ImageError(`The ${format} image ends within its header; the file is truncated.`);
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** IHDR has the size and the colour type; tRNS, before the first IDAT, makes colours transparent. */
function readPng(bytes: Uint8Array): Size {
  const view = viewOf(bytes);
  const type = view.getUint8(25);
  let alpha = (type & 4) !== 0;
  for (let at = 8; at + 8 <= bytes.length && !ascii(bytes, at + 4, 'IDAT'); at += 12 + view.getUint32(at)) {
    alpha ||= ascii(bytes, at + 4, 'tRNS');
  }
  return { width: view.getUint32(16), height: view.getUint32(20), alpha };
}

/** Walks the segments to the frame header (SOF0 to SOF15, which share a range with three other markers). */
function readJpeg(bytes: Uint8Array): Size {
  const view = viewOf(bytes);
  let at = 2;
  for (;;) {
    while (view.getUint8(at) === 0xff && view.getUint8(at + 1) === 0xff) at++;
    if (view.getUint8(at) !== 0xff) throw new ImageError(`The JPEG image is broken: no marker at byte ${at}.`);
    const marker = view.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return jpegSize(view.getUint16(at + 7), view.getUint16(at + 5), marker);
    if (marker === 0xda || marker === 0xd9) throw new ImageError('The JPEG image has no frame header.');
    at += 2 + view.getUint16(at + 2);
  }
}

/** Huffman coding, of SOF0 to SOF2, spends a bit at least on each block of 8 × 8 pixels. */
function jpegSize(width: number, height: number, marker: number): Size {
  const blocks = Math.ceil(width / 8) * Math.ceil(height / 8);
  return { width, height, alpha: false, leastBytes: marker <= 0xc2 ? Math.ceil(blocks / 8) : 0 };
}

function readGif(bytes: Uint8Array): Size {
  const view = viewOf(bytes);
  return { width: view.getUint16(6, true), height: view.getUint16(8, true), alpha: true };
}

/** The three kinds of first chunk: lossy, lossless, extended. */
function readWebp(bytes: Uint8Array): Size {
  const view = viewOf(bytes);
  if (ascii(bytes, 12, 'VP8 ')) {
    return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff, alpha: false };
  }
  if (ascii(bytes, 12, 'VP8L')) {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1, alpha: ((bits >>> 28) & 1) === 1 };
  }
  if (!ascii(bytes, 12, 'VP8X')) throw new ImageError('The WebP image has an unknown first chunk.');
  const u24 = (at: number): number => view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
  return { width: u24(24) + 1, height: u24(27) + 1, alpha: (view.getUint8(20) & 0x10) !== 0 };
}

const READERS: Record<ImageFormat, (bytes: Uint8Array) => Size> = {
  png: readPng,
  jpeg: readJpeg,
  gif: readGif,
  webp: readWebp,
  avif: readAvif,
};

function sniff(bytes: Uint8Array): ImageFormat | undefined {
  if (ascii(bytes, 0, '\x89PNG\r\n\x1a\n')) return 'png';
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg';
  if (ascii(bytes, 0, 'GIF87a') || ascii(bytes, 0, 'GIF89a')) return 'gif';
  if (ascii(bytes, 0, 'RIFF') && ascii(bytes, 8, 'WEBP')) return 'webp';
  return isAvif(bytes) ? 'avif' : undefined;
}

/**
 * Format and size of a PNG, JPEG, GIF, WebP or AVIF image, from its own bytes; a file's name counts for nothing.
 * @throws ImageError for any other content (SVG is not taken: it is a program, not pixels), a truncated header,
 *   a side of 0 or above MAX_SIDE, more than MAX_PIXELS, or more than the bytes can hold
 */
export function readImageHeader(bytes: Uint8Array): ImageHeader {
  const format = sniff(bytes);
  if (format === undefined) {
    const what = bytes.length === 0 ? 'The file is empty' : 'The content is no PNG, JPEG, GIF, WebP or AVIF image';
    throw new ImageError(`${what}; give an image in PNG, JPEG, GIF, WebP or AVIF format.`);
  }
  let size: Size;
  try {
    size = READERS[format](bytes);
  } catch (error) {
    if (error instanceof RangeError) truncated(format.toUpperCase());
    throw error;
  }
  const { width, height, alpha, leastBytes = 0 } = size;
  if (width === 0 || height === 0) throw new ImageError(`The image is ${width}×${height} pixels: it has none.`);
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS) {
    throw new ImageError(
      `The image is ${width}×${height} pixels; at most ${MAX_SIDE} a side and ${MAX_PIXELS / 1e6} million in all are ` +
        'decoded. Scale it down first.',
    );
  }
  if (bytes.length < leastBytes) {
    throw new ImageError(
      `The image says it is ${width}×${height} pixels, which ${bytes.length} bytes cannot hold; the file is damaged.`,
    );
  }
  return { format, width, height, alpha };
}
