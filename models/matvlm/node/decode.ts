import { readFile, stat } from 'node:fs/promises';
import sharp from 'sharp';
import { ImageError } from '../../../engine/errors.ts';
import { systemError } from '../../../engine/node/index.ts';
import { MAX_PIXELS, readImageHeader } from '../image/header.ts';
import type { RgbImage } from '../image/image.ts';

/** Bytes of an image file at most: what any picture of `MAX_PIXELS` takes that is compressed at all. */
const MAX_FILE = 200e6;

/** One grey value a pixel to three equal ones. */
function greyToRgb(grey: Uint8Array): Uint8Array {
  const rgb = new Uint8Array(grey.length * 3);
  for (let i = 0; i < grey.length; i++) rgb.fill(grey[i], i * 3, i * 3 + 3);
  return rgb;
}

/**
 * Decodes a PNG, JPEG, GIF, WebP or AVIF image as PIL's `convert('RGB')` does: the EXIF orientation is applied, alpha is
 * dropped and not blended, grey becomes RGB, 16 bits become 8, CMYK goes through its profile, of an animation the
 * first frame is taken. Colour profiles of RGB images are not applied.
 * @throws ImageError as `readImageHeader` does, and for data that is truncated or broken
 */
export async function decodeImage(bytes: Uint8Array): Promise<RgbImage> {
  readImageHeader(bytes);
  try {
    const { space } = await sharp(bytes, { limitInputPixels: MAX_PIXELS }).metadata();
    const options = { limitInputPixels: MAX_PIXELS, failOn: 'error', ignoreIcc: space !== 'cmyk' } as const;
    const pipeline = sharp(bytes, options).autoOrient().removeAlpha().toColourspace('srgb');
    const { data, info } = await pipeline.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    const pixels = new Uint8Array(data.buffer, data.byteOffset, data.length);
    const rgb = info.channels === 1 ? greyToRgb(pixels) : pixels;
    return { width: info.width, height: info.height, data: rgb };
  } catch (error) {
    throw new ImageError('The image cannot be decoded: it is truncated or damaged; save or copy it anew.', {
      cause: error,
    });
  }
}

/** The kind is looked at first: a device or a pipe would be read without end. */
async function readImageFile(path: string): Promise<Uint8Array> {
  try {
    const found = await stat(path);
    if (!found.isFile()) {
      const kind = found.isDirectory() ? 'folder' : 'device or pipe';
      throw new ImageError(`cannot read ${path}: it is a ${kind}, expected an image file`);
    }
    if (found.size > MAX_FILE) {
      const [size, most] = [found.size, MAX_FILE].map((bytes) => Math.round(bytes / 1e6));
      throw new ImageError(`${path}: ${size} MB, expected an image file of at most ${most} MB; scale it down`);
    }
    return await readFile(path);
  } catch (error) {
    const told = systemError('read', path, error);
    throw told instanceof ImageError ? told : new ImageError(told.message, { cause: error });
  }
}

/** Reads and decodes a file; ImageError names the path. */
export async function readImage(path: string): Promise<RgbImage> {
  const bytes = await readImageFile(path);
  try {
    return await decodeImage(bytes);
  } catch (error) {
    throw new ImageError(`${path}: ${(error as Error).message}`, { cause: error });
  }
}
