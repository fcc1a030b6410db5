import { diskFolder } from '../../engine/node/source.ts';
import { Checkpoint } from '../../engine/safetensors/index.ts';
import type { DType } from '../../engine/dtype.ts';

/** The outcome of one comparison. */
export interface Check {
  readonly id: string;
  readonly passed: boolean;
  /** The greatest error, or what went wrong. */
  readonly error: string;
}

/** A tensor of a golden file. */
export interface HostTensor {
  readonly shape: number[];
  readonly dtype: DType;
  readonly data: Float32Array | Int32Array;
}

/** All tensors of `<folder>/<stem>.safetensors`; integers become i32, all else f32. */
export async function readTensors(folder: string, stem: string): Promise<Map<string, HostTensor>> {
  const file = await Checkpoint.open(diskFolder(folder), stem);
  const tensors = new Map<string, HostTensor>();
  for (const name of file.keys()) {
    const { dtype, shape } = file.spec(name);
    const integer = /^(I|U|BOOL)/.test(dtype);
    tensors.set(
      name,
      integer
        ? { shape: [...shape], dtype: 'i32', data: await file.readAs(name, 'i32') }
        : { shape: [...shape], dtype: 'f32', data: await file.readAs(name, 'f32') },
    );
  }
  await file.close();
  return tensors;
}

export function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return Math.sqrt(sum);
}

/** ‖got − want‖ / max(‖want‖, floor), infinite where a value is not a number. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>, floor = 0): number {
  if (got.length !== want.length) return Infinity;
  const ratio = norm(Array.from(want, (w, i) => got[i] - w)) / (Math.max(norm(want), floor) || 1);
  return Number.isNaN(ratio) ? Infinity : ratio;
}
