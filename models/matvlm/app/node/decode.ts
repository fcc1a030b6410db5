import sharp from 'sharp';
import { ImageError } from '../../../nn/errors.ts';
import { fileSource } from '../../../../engine/node/index.ts';
import { MAX_PIXELS, readImageHeader } from '../../../nn/image/header.ts';
import type { RgbImage } from '../../../nn/image/image.ts';

/** Bytes of an image file at most: what any picture of `MAX_PIXELS` takes that is compressed at all. */
const MAX_FILE = 200e6;

/** One grey value a pixel to three equal ones. */
function greyToRgb(grey: Uint8Array): Uint8Array {
  const rgb = new Uint8Array(grey.length * 3);
  for (let i = 0; i < grey.length; i++) rgb.fill(grey[i], i * 3, i * 3 + 3);
  return rgb;
}

/**
 * What libjpeg says of missing data, which it fills with grey; all else that it warns of, other viewers pass over too. It
 * is asked before each strip of rows, so that only what is missing in the last one is not told.
 */
const MISSING = /premature end/i;

/**
 * Decodes a PNG, JPEG, GIF, WebP or AVIF image as PIL's `convert('RGB')` does: the EXIF orientation is applied, alpha is
 * dropped and not blended, grey becomes RGB, 16 bits become 8, CMYK goes through its profile, of an animation the
 * first frame is taken. Colour profiles of RGB images are not applied.
 * @throws ImageError as `readImageHeader` does, and for data that is truncated or broken
 */
export async function decodeImage(bytes: Uint8Array): Promise<RgbImage> {
  readImageHeader(bytes);
  try {
    return await alone(() =>
      decode(bytes, 'warning').catch((error: Error) => {
        if (MISSING.test(error.message)) throw error;
        return decode(bytes, 'error');
      }),
    );
  } catch (error) {
    throw new ImageError('The image cannot be decoded: it is truncated or damaged; save or copy it anew.', {
      cause: error,
    });
  }
}

let last: Promise<unknown> = Promise.resolve();

/** One image at a time: libvips has one buffer for the messages of all threads, and who ends first clears it. */
function alone<T>(work: () => Promise<T>): Promise<T> {
  const result = last.then(work);
  last = result.catch(() => {});
  return result;
}

async function decode(bytes: Uint8Array, failOn: 'warning' | 'error'): Promise<RgbImage> {
  const { space } = await sharp(bytes, { limitInputPixels: MAX_PIXELS }).metadata();
  const options = { limitInputPixels: MAX_PIXELS, failOn, ignoreIcc: space !== 'cmyk' };
  const pipeline = sharp(bytes, options).autoOrient().removeAlpha().toColourspace('srgb');
  const { data, info } = await pipeline.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  const pixels = new Uint8Array(data.buffer, data.byteOffset, data.length);
  return { width: info.width, height: info.height, data: info.channels === 1 ? greyToRgb(pixels) : pixels };
}

/** All of a regular file, as long as it says it is: others, of /proc too, would be read without end. */
async function readImageFile(path: string): Promise<Uint8Array> {
  const source = await fileSource(path);
  try {
    const size = await source.size();
    if (size <= MAX_FILE) return await source.read(0, size);
    const [found, most] = [size, MAX_FILE].map((bytes) => Math.round(bytes / 1e6));
    throw new ImageError(`${path}: ${found} MB, expected an image file of at most ${most} MB; scale it down`);
  } finally {
    await source.close();
  }
}

/** Reads and decodes a file; ImageError names the path. */
export async function readImage(path: string): Promise<RgbImage> {
  const bytes = await readImageFile(path).catch((error: Error) => {
    throw error instanceof ImageError ? error : new ImageError(error.message, { cause: error });
  });
  try {
    return await decodeImage(bytes);
  } catch (error) {
    throw new ImageError(`${path}: ${(error as Error).message}`, { cause: error });
  }
}
