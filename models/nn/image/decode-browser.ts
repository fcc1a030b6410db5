import { ImageError } from '../errors.ts';
import { readImageHeader } from './header.ts';
import type { RgbImage } from './image.ts';

/**
 * RGBA bytes of a bitmap by a 2D canvas, in the image's own width and height. A canvas stores colours multiplied by
 * alpha, so this is for opaque images only.
 */
function readOpaque(bitmap: ImageBitmap): Uint8ClampedArray {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (context === null) throw new ImageError('The browser gave no 2D canvas to read the image from.');
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** RGBA bytes of a bitmap by a WebGL texture, which keeps the colour under transparent pixels. */
function readTransparent(bitmap: ImageBitmap): Uint8Array {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext('webgl2');
  if (gl === null) throw new ImageError('An image with transparency needs WebGL 2 here; convert it to JPEG.');
  const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
  if (Math.max(width, height) > limit) {
    throw new ImageError(`An image with transparency may have ${limit} pixels a side here; it is ${width}×${height}.`);
  }
  const data = new Uint8Array(width * height * 4);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const error = gl.getError();
  // Contexts are few in a browser: give this one back at once.
  gl.getExtension('WEBGL_lose_context')?.loseContext();
  if (error !== gl.NO_ERROR) throw new ImageError(`The browser failed to read the image (WebGL error ${error}).`);
  return data;
}

function dropAlpha(rgba: ArrayLike<number>, pixels: number): Uint8Array {
  const rgb = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    rgb[i * 3] = rgba[i * 4];
    rgb[i * 3 + 1] = rgba[i * 4 + 1];
    rgb[i * 3 + 2] = rgba[i * 4 + 2];
  }
  return rgb;
}

/**
 * Decodes a PNG, JPEG, GIF, WebP or AVIF image in a page or worker: the EXIF orientation is applied, alpha is dropped and
 * not blended, of an animation the first frame is taken, colour profiles are not applied where the browser obeys.
 * @throws ImageError as `readImageHeader` does, and for data that the browser cannot decode
 */
export async function decodeImage(bytes: Uint8Array): Promise<RgbImage> {
  const { format, alpha } = readImageHeader(bytes);
  const blob = new Blob([bytes.slice()], { type: `image/${format}` });
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: 'from-image',
      premultiplyAlpha: 'none',
      colorSpaceConversion: 'none',
    });
  } catch (error) {
    throw new ImageError(`The image cannot be decoded: ${(error as Error).message}`, { cause: error });
  }
  try {
    const { width, height } = bitmap;
    const rgba = alpha ? readTransparent(bitmap) : readOpaque(bitmap);
    return { width, height, data: dropAlpha(rgba, width * height) };
  } finally {
    bitmap.close();
  }
}
