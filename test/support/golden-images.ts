import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { preprocess } from '../../models/nn/image/preprocess.ts';
import { resizeBicubic } from '../../models/nn/image/resize.ts';
import { readImage } from '../../models/matvlm/app/node/decode.ts';
import { type Check, type HostTensor, readTensors } from './golden-types.ts';

interface ImageCase {
  readonly file: string;
  readonly size: number;
  readonly mean?: number;
  readonly std?: number;
}

/** Decodes, resizes and normalises every image of `images/`. PNG: mean difference ≤ 0.5, none over 3; JPEG mean ≤ 1.5. */
export async function* replayImages(folder: string): AsyncGenerator<Check> {
  const expected = await readTensors(folder, 'expect');
  const list = join(folder, 'expect.json');
  const cases: ImageCase[] = existsSync(list)
    ? JSON.parse(await readFile(list, 'utf8'))
    : [...expected.keys()].map((key) => ({ file: key.split('@')[0], size: Number(key.split('@')[1]) }));
  for (const one of cases) {
    const id = `images/${one.file}@${one.size}`;
    try {
      yield { id, ...(await compareImage(folder, one, expected.get(`${one.file}@${one.size}`))) };
    } catch (error) {
      yield { id, passed: false, error: (error as Error).message };
    }
  }
}

async function compareImage(folder: string, one: ImageCase, want: HostTensor | undefined): Promise<Omit<Check, 'id'>> {
  if (!want) return { passed: false, error: 'is not in expect.safetensors' };
  const image = await readImage(join(folder, one.file));
  const { data } = resizeBicubic(image, one.size, one.size);
  const area = one.size * one.size;
  let sum = 0;
  let most = 0;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const difference = Math.abs(data[3 * i + c] - want.data[c * area + i]);
      sum += difference;
      most = Math.max(most, difference);
    }
  }
  const mean = sum / (3 * area);
  const jpeg = /\.jpe?g$/i.test(one.file);
  const close = jpeg ? mean <= 1.5 : mean <= 0.5 && most <= 3;
  const [average, spread] = statistics(preprocess(image, { size: one.size }));
  const normalised = Math.abs(average - (one.mean ?? average)) < 0.01 && Math.abs(spread - (one.std ?? spread)) < 0.01;
  const text = `mean ${mean.toFixed(3)}, most ${most}, normalised mean ${average.toFixed(4)}`;
  return { passed: close && normalised, error: text };
}

/** Mean and standard deviation. */
function statistics(values: Float32Array): [number, number] {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return [mean, Math.sqrt(variance)];
}
