/**
 * Antialiased bicubic resizing with the arithmetic of Pillow (`Image.resize(size, BICUBIC)`, libImaging/Resample.c):
 * the kernel with a = −0.5 widens with the scale, weights are rounded to 22 fractional bits, and the horizontal pass
 * is rounded to bytes before the vertical one. Public checkpoints were trained on images resized so.
 */
import { ArgumentError } from '../../../engine/errors.ts';
import { checkImage, type RgbImage } from './image.ts';

const PRECISION = 22;
const HALF = 1 << (PRECISION - 1);
const SUPPORT = 2;

/** Keys' cubic convolution kernel, a = −0.5. */
function bicubic(x: number): number {
  const t = Math.abs(x);
  if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
  return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
}

/** For each output position the first input position, the number of them, and their weights in fixed point. */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  /** `stride` weights a position. */
  readonly weights: Int32Array;
  readonly stride: number;
}

function makeTaps(from: number, to: number): Taps {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const taps = { first: new Int32Array(to), count: new Int32Array(to), weights: new Int32Array(to * stride), stride };
  const exact = new Float64Array(stride);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.trunc(center + support + 0.5), from) - first;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      exact[k] = bicubic((k + first - center + 0.5) / filterScale);
      sum += exact[k];
    }
    for (let k = 0; k < count; k++) {
      const weight = (exact[k] / sum) * (1 << PRECISION);
      taps.weights[i * stride + k] = Math.trunc(weight + (weight < 0 ? -0.5 : 0.5));
    }
    taps.first[i] = first;
    taps.count[i] = count;
  }
  return taps;
}

function clip(sum: number): number {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Resamples the rows of `height` × `from` pixels. */
function resampleRows(data: Uint8Array, height: number, from: number, taps: Taps): Uint8Array {
  const { first, count, weights, stride } = taps;
  const to = first.length;
  const out = new Uint8Array(height * to * 3);
  for (let y = 0, target = 0; y < height; y++) {
    for (let x = 0; x < to; x++, target += 3) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let at = (y * from + first[x]) * 3;
      for (let k = x * stride, end = k + count[x]; k < end; k++, at += 3) {
        const weight = weights[k];
        r = (r + Math.imul(data[at], weight)) | 0;
        g = (g + Math.imul(data[at + 1], weight)) | 0;
        b = (b + Math.imul(data[at + 2], weight)) | 0;
      }
      out[target] = clip(r);
      out[target + 1] = clip(g);
      out[target + 2] = clip(b);
    }
  }
  return out;
}

/** Resamples the columns of rows of `length` bytes, row by row as they lie in memory. */
function resampleColumns(data: Uint8Array, length: number, taps: Taps): Uint8Array {
  const { first, count, weights, stride } = taps;
  const out = new Uint8Array(first.length * length);
  const sums = new Int32Array(length);
  for (let y = 0; y < first.length; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const weight = weights[y * stride + k];
      const at = (first[y] + k) * length;
      for (let i = 0; i < length; i++) sums[i] = (sums[i] + Math.imul(data[at + i], weight)) | 0;
    }
    for (let i = 0; i < length; i++) out[y * length + i] = clip(sums[i]);
  }
  return out;
}

/**
 * Stretches an image to width × height pixels; the aspect is not kept. An axis that has the size already is left alone.
 * @throws ArgumentError for a size that is not a positive integer or a malformed image
 */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  checkImage(image);
  if (![width, height].every((n) => Number.isInteger(n) && n > 0)) {
    throw new ArgumentError(`resize: ${width}×${height} is not a size; give positive integers.`);
  }
  let { data } = image;
  if (width !== image.width) data = resampleRows(data, image.height, image.width, makeTaps(image.width, width));
  if (height !== image.height) data = resampleColumns(data, width * 3, makeTaps(image.height, height));
  return { width, height, data };
}
