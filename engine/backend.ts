import type { DType, HostArray } from './dtype.ts';
import type { Call } from './plan.ts';
import type { Profiler } from './profiler.ts';

/** What an op needs to know of a tensor to check and size its work. */
export interface Spec {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** Bytes that tensors occupy on a backend; `live` returns to where it was when all that was made is freed. */
export class MemoryStats {
  live = 0;
  peak = 0;
  buffers = 0;
  /** Bytes held from the system, live or waiting for reuse. */
  reserved = 0;

  allocated(bytes: number): void {
    this.live += bytes;
    this.buffers++;
    if (this.live > this.peak) this.peak = this.live;
  }

  freed(bytes: number): void {
    this.live -= bytes;
    this.buffers--;
  }
}

/** What was dispatched between two moments. */
export interface Recording {
  /** Enqueues it all again. */
  replay(): void;
  dispose(): void;
}

export type BackendKind = 'reference' | 'wasm' | 'webgpu';

/**
 * A device that holds buffers and runs ops. It does not grow when ops are added: an op carries its own kernels.
 * `dispatch` enqueues and never waits; `read` waits for all that came before.
 */
export interface Backend<B = unknown, P = unknown> {
  readonly kind: BackendKind | 'shapes';
  /** Adapter or engine name for people. */
  readonly description: string;
  readonly memory: MemoryStats;
  profiler: Profiler | null;
  alloc(size: number, dtype: DType): B;
  free(buffer: B): void;
  /** Buffers that one `write` fills in one transfer, each freed by itself; null where it cannot make them so. */
  allocTogether?(parts: readonly { readonly size: number; readonly dtype: DType }[]): B[] | null;
  /**
   * Overwrites all of each buffer or, with `start`, a piece from that item on. Items are elements, in block formats words.
   * @throws ArgumentError for data of another type (f64 goes for f32) or size; pieces of 16-bit formats begin and end
   * at even items, or at the end
   */
  write(buffers: readonly B[], data: readonly HostArray[], start?: number): void;
  /** All of a buffer. */
  read(buffer: B): Promise<HostArray>;
  /** Makes a call ready for buffers. @throws KernelError where no kernel runs */
  plan(call: Call): P;
  /** Runs a plan on the buffers of its inputs, then its outputs. */
  dispatch(plan: P, buffers: readonly (B | undefined)[]): void;
  /**
   * From now on notes what is dispatched, until the function that it returns is called. Buffers that are allocated
   * meanwhile are the recording's. `write` and `read` throw ArgumentError meanwhile.
   */
  record(): () => Recording;
  /** Resolves when everything enqueued so far has run; rejects with its error. */
  sync(): Promise<void>;
  dispose(): void;
}

export function elements(shape: readonly number[]): number {
  let size = 1;
  for (const d of shape) size *= d;
  return size;
}
