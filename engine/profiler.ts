import { elements, type Spec } from './backend.ts';
import { byteLength } from './dtype.ts';

/** What one op cost over all its calls. */
export interface OpProfile {
  readonly name: string;
  calls: number;
  /** Milliseconds on the device (GPU timestamps) or in the kernel (WASM, reference). */
  ms: number;
  /** Bytes of all inputs and outputs: the least the op had to move. */
  bytes: number;
}

/**
 * Collects time and bytes per op: give it to `backend.profiler`, run, `await backend.sync()`, read `rows()`. On WebGPU
 * rows come when the GPU has been waited for, by `sync` or by reading a tensor; the others add them at once.
 */
export class Profiler {
  private readonly ops = new Map<string, OpProfile>();

  add(name: string, ms: number, bytes: number): void {
    let row = this.ops.get(name);
    if (!row) this.ops.set(name, (row = { name, calls: 0, ms: 0, bytes: 0 }));
    row.calls++;
    row.ms += ms;
    row.bytes += bytes;
  }

  /** Dearest first. */
  rows(): OpProfile[] {
    return [...this.ops.values()].sort((a, b) => b.ms - a.ms);
  }
}

/** Bytes that a call with such operands reads and writes at the least. */
export function bytesMoved(operands: readonly (Spec | undefined)[]): number {
  let bytes = 0;
  for (const spec of operands) if (spec) bytes += byteLength(spec.dtype, elements(spec.shape));
  return bytes;
}
