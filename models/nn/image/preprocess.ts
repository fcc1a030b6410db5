import { ArgumentError } from '../../../engine/errors.ts';
import { checkImage, type RgbImage } from './image.ts';
import { resizeBicubic } from './resize.ts';

/** `image_aspect_ratio` of the configuration: stretched to a square, or padded to one first. */
export type ImageAspect = 'square' | 'pad';

/** SigLIP's mean colour 0.5 as the reference makes a byte of it: int(0.5 · 255). */
const MEAN = 127;

/** (x/255 − 0.5)/0.5 for every byte. */
const NORMALIZED = Float32Array.from({ length: 256 }, (_, x) => (x / 255 - 0.5) / 0.5);

/** Centres an image on a square of the mean colour, as LLaVA's expand2square does; a square one stays as it is. */
export function padToSquare(image: RgbImage): RgbImage {
  checkImage(image);
  const { width, height, data } = image;
  if (width === height) return image;
  const side = Math.max(width, height);
  const left = Math.floor((side - width) / 2);
  const top = Math.floor((side - height) / 2);
  const out = new Uint8Array(side * side * 3).fill(MEAN);
  for (let y = 0; y < height; y++) {
    out.set(data.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * side + left) * 3);
  }
  return { width: side, height: side, data: out };
}

/** Bytes of (H, W, 3) to normalized floats of (3, H, W) in [−1, 1], written to `out` from `offset` if given. */
export function normalize(image: RgbImage, out?: Float32Array, offset = 0): Float32Array {
  checkImage(image);
  const plane = image.width * image.height;
  const target = out ?? new Float32Array(offset + plane * 3);
  if (offset < 0 || target.length < offset + plane * 3) {
    throw new ArgumentError(`normalize: ${target.length} floats do not hold ${plane * 3} from ${offset} on.`);
  }
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) target[offset + c * plane + i] = NORMALIZED[image.data[i * 3 + c]];
  }
  return target;
}

export interface PreprocessOptions {
  /** Side of the square that the vision tower takes, in pixels. */
  readonly size: number;
  /** 'square' unless given. */
  readonly aspect?: ImageAspect;
  /** Where to write, for filling a batch; a new array unless given. */
  readonly out?: Float32Array;
  readonly offset?: number;
}

/**
 * What the vision tower takes: (3, size, size) f32 in [−1, 1], by SigLIP's processor: pad if asked, bicubic, normalize.
 * @throws ArgumentError for a malformed image, size, aspect or target
 */
export function preprocess(image: RgbImage, options: PreprocessOptions): Float32Array {
  const { size, aspect = 'square', out, offset } = options;
  if (aspect !== 'square' && aspect !== 'pad') {
    throw new ArgumentError(`image_aspect_ratio ${JSON.stringify(aspect)} is neither "square" nor "pad".`);
  }
  const shown = aspect === 'pad' ? padToSquare(image) : image;
  return normalize(resizeBicubic(shown, size, size), out, offset);
}
