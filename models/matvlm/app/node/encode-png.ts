import sharp from 'sharp';
import type { RgbImage } from '../../../nn/image/image.ts';

/** An image as PNG bytes. */
export async function encodePng({ width, height, data }: RgbImage): Promise<Uint8Array> {
  return sharp(data, { raw: { width, height, channels: 3 } }).png({ compressionLevel: 9 }).toBuffer();
}

/** An image as a `data:` URI, to stand inside an HTML file. */
export async function pngDataUri(image: RgbImage): Promise<string> {
  return `data:image/png;base64,${Buffer.from(await encodePng(image)).toString('base64')}`;
}
