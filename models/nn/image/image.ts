import { ArgumentError } from '../../../engine/errors.ts';

/** An image in memory: `data` holds height × width × 3 bytes, rows from the top, red, green, blue interleaved. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Refuses an image whose byte count does not fit its size, or that has no pixels (ArgumentError). */
export function checkImage(image: RgbImage): void {
  const { width, height, data } = image;
  const sized = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!sized || data.length !== width * height * 3) {
    throw new ArgumentError(
      `An image of ${width}×${height} with ${data.length} bytes: expected width × height × 3 bytes, one pixel or more.`,
    );
  }
}
