import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { preprocess } from '../../models/nn/image/preprocess.ts';
import { resizeBicubic } from '../../models/nn/image/resize.ts';
import type { RgbImage } from '../../models/nn/image/image.ts';
import { readImage } from '../../models/matvlm/app/node/decode.ts';
import { type Check, readTensors } from './golden-types.ts';

/** An image file with what becomes of it: its size as decoded, and the moments of its normalised pixels. */
interface ImageCase {
  readonly file: string;
  readonly size: number;
  readonly width?: number;
  readonly height?: number;
  readonly mean?: number;
  readonly std?: number;
}

/** How far an image decoded, resized and normalised is from the expected one. */
interface Measured extends ImageCase {
  /** Mean and greatest absolute difference of the resized bytes. */
  readonly difference: number;
  readonly most: number;
  /** Difference of mean and of standard deviation of the normalised pixels, 0 where none is expected. */
  readonly moments: readonly [number, number];
}

async function imageCases(folder: string): Promise<ImageCase[]> {
  const list = join(folder, 'expect.json');
  if (existsSync(list)) return JSON.parse(await readFile(list, 'utf8')) as ImageCase[];
  const names = [...(await readTensors(folder, 'expect')).keys()].map((key) => key.split('@'));
  return names.map(([file, size]) => ({ file, size: Number(size) }));
}

/** Measures every image of `images/`, however it is decoded. */
export async function* measureImages(
  folder: string,
  decode: (path: string) => Promise<RgbImage> = readImage,
): AsyncGenerator<Measured | { readonly file: string; readonly size: number; readonly error: string }> {
  const expected = await readTensors(folder, 'expect');
  for (const one of await imageCases(folder)) {
    try {
      const image = await decode(join(folder, one.file));
      const want = expected.get(`${one.file}@${one.size}`);
      if (!want) throw new Error('is not in expect.safetensors');
      const { width = image.width, height = image.height } = one;
      if (image.width !== width || image.height !== height) throw new Error(`is ${image.width}×${image.height}`);
      const { data } = resizeBicubic(image, one.size, one.size);
      const area = one.size * one.size;
      const apart = Array.from(data, (byte, i) => Math.abs(byte - want.data[(i % 3) * area + Math.floor(i / 3)]));
      const pixels = preprocess(image, { size: one.size });
      const average = mean(pixels);
      const spread = Math.sqrt(mean(pixels.map((v) => (v - average) ** 2)));
      const moments = [average - (one.mean ?? average), spread - (one.std ?? spread)].map(Math.abs) as [number, number];
      yield { ...one, difference: mean(apart), most: apart.reduce((a, b) => Math.max(a, b)), moments };
    } catch (error) {
      yield { file: one.file, size: one.size, error: (error as Error).message };
    }
  }
}

/** Decodes, resizes and normalises every image of `images/`. PNG: mean difference ≤ 0.5, none over 3; JPEG mean ≤ 1.5. */
export async function* replayImages(folder: string): AsyncGenerator<Check> {
  for await (const one of measureImages(folder)) {
    const id = `images/${one.file}@${one.size}`;
    if ('error' in one) yield { id, passed: false, error: one.error };
    else {
      const { difference, most, moments } = one;
      const close = /\.jpe?g$/i.test(one.file) ? difference <= 1.5 : difference <= 0.5 && most <= 3;
      const error = `mean ${difference.toFixed(3)}, most ${most}, moments off by ${moments}`;
      yield { id, passed: close && Math.max(...moments) < 0.01, error };
    }
  }
}

function mean(values: Float32Array | number[]): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}
