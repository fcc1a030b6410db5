import type { DType, HostArray } from './dtype.ts';
import type { Op } from './op.ts';
import type { Profiler } from './profiler.ts';

/** What an op needs to know of a tensor to check and size its work. */
export interface Spec {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** A tensor as a backend sees it: a spec, its element count and the backend's own buffer. */
export interface Arg<B = unknown> extends Spec {
  readonly size: number;
  readonly buffer: B;
}

export interface Call<A, B = unknown> {
  readonly inputs: readonly Arg<B>[];
  readonly outputs: readonly Arg<B>[];
  readonly attrs: A;
}

/** Bytes that tensors occupy on a backend; `live` returns to where it was when all that was made is freed. */
export interface MemoryStats {
  live: number;
  peak: number;
  buffers: number;
  /** Bytes held from the system, live or waiting for reuse. */
  reserved: number;
}

export type BackendKind = 'reference' | 'wasm' | 'webgpu';

/**
 * A device that holds buffers and runs ops. It does not grow when ops are added: an op carries its own kernels.
 * `run` enqueues and never waits; `read` waits for all that came before.
 */
export interface Backend<B = unknown> {
  readonly kind: BackendKind;
  /** Adapter or engine name for people. */
  readonly description: string;
  readonly memory: MemoryStats;
  profiler: Profiler | null;
  alloc(size: number, dtype: DType): B;
  free(buffer: B): void;
  /** Overwrites all of a buffer. @throws ArgumentError unless `data` has its size and type (f64 goes for f32) */
  write(buffer: B, data: HostArray): void;
  /** All of a buffer. @throws ArgumentError unless `size` and `dtype` are those that it was allocated with */
  read(buffer: B, size: number, dtype: DType): Promise<HostArray>;
  /** Copies all of a buffer to another of the same size and dtype. */
  copy(from: B, to: B): void;
  run<A>(op: Op<A>, call: Call<A, B>): void;
  /** Resolves when everything enqueued so far has run; rejects with its error. */
  sync(): Promise<void>;
  dispose(): void;
}

export function elements(shape: readonly number[]): number {
  let size = 1;
  for (const d of shape) size *= d;
  return size;
}
