import type { RgbImage } from '../../../nn/image/image.ts';

/** Colours that a drawing has at most, its ground among them. */
const COLORS = 12;
/** Bits of each channel that tell colours apart: what compression does to a flat colour mostly stays below. */
const BITS = 6;

/**
 * The share of an image's pixels that are in its twelve commonest colours: above ¾ for a drawing in flat colours, also
 * as a JPEG; of photographs it is less, a third for most.
 */
export function flatness({ data, width, height }: RgbImage): number {
  const counts = new Uint32Array(1 << (3 * BITS));
  const level = (i: number) => data[i] >> (8 - BITS);
  for (let i = 0; i < data.length; i += 3) counts[(((level(i) << BITS) | level(i + 1)) << BITS) | level(i + 2)]++;
  const commonest = counts.sort().subarray(-COLORS);
  return commonest.reduce((sum, count) => sum + count, 0) / (width * height);
}
