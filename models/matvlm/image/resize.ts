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

const clip = (sum: number): number => Math.min(Math.max(sum >> PRECISION, 0), 255);

/**
 * Resamples one axis of an image seen as (outer, length, inner) bytes, inner being contiguous.
 * `taps.first.length` positions come out in place of `length`.
 */
function resample(data: Uint8Array, outer: number, length: number, inner: number, taps: Taps): Uint8Array {
  const to = taps.first.length;
  const out = new Uint8Array(outer * to * inner);
  const { weights, stride } = taps;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < to; i++) {
      const count = taps.count[i];
      const from = (o * length + taps.first[i]) * inner;
      const target = (o * to + i) * inner;
      for (let c = 0; c < inner; c++) {
        let sum = HALF;
        for (let k = 0; k < count; k++) sum += data[from + k * inner + c] * weights[i * stride + k];
        out[target + c] = clip(sum);
      }
    }
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
  if (width !== image.width) data = resample(data, image.height, image.width, 3, makeTaps(image.width, width));
  if (height !== image.height) data = resample(data, 1, image.height, width * 3, makeTaps(image.height, height));
  return { width, height, data };
}
