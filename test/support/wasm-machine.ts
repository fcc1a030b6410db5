/**
 * What the kernel tests share: a machine with named operands, guard bands round every output, and a comparison that
 * says where two results part.
 */
import * as assert from 'uvu/assert';
import { Heap } from '../../engine/backends/wasm/heap.ts';
import { type Kernels, loadKernels } from '../../wasm/loader.ts';
import { wasmVariants } from './backends.ts';

const GUARD = 16;
const GUARD_VALUE = 12345.678;

/** Kernels of one variant, and a heap with helpers to move numbers in and out. */
export class Machine {
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly #guards: [pointer: number, length: number][] = [];
  readonly #blocks: number[] = [];

  constructor(kernels: Kernels) {
    this.kernels = kernels;
    this.heap = new Heap(kernels.memory, kernels.heapBase);
  }

  /** Copies numbers in; typed integers stay integers. */
  put(values: ArrayLike<number>): number {
    const pointer = this.#block(values.length * 4 + 4);
    const type = values instanceof Int32Array ? Int32Array : Float32Array;
    new type(this.heap.memory.buffer, pointer, values.length).set(values);
    return pointer;
  }

  /** Room for an output of `length` floats with a guard band on either side; holds NaN until written. */
  out(length: number): number {
    const start = this.#block((length + 2 * GUARD) * 4);
    this.#floats(start, length + 2 * GUARD).fill(GUARD_VALUE);
    const pointer = start + GUARD * 4;
    this.#floats(pointer, length).fill(NaN);
    this.#guards.push([pointer, length]);
    return pointer;
  }

  /** An output that starts as `values`, for kernels that add. */
  inout(values: ArrayLike<number>): number {
    const pointer = this.out(values.length);
    this.#floats(pointer, values.length).set(values);
    return pointer;
  }

  /** `bytes` of scratch; what lies behind is guarded too. */
  scratch(bytes: number): number {
    return this.out(Math.ceil(bytes / 4));
  }

  read(pointer: number, length: number): Float32Array {
    return this.#floats(pointer, length).slice();
  }

  /** Checks every guard band and frees everything. */
  finish(label: string): void {
    for (const [pointer, length] of this.#guards) {
      const all = this.#floats(pointer - GUARD * 4, length + 2 * GUARD);
      for (let i = 0; i < GUARD; i++) {
        const intact = all[i] === Math.fround(GUARD_VALUE) && all[GUARD + length + i] === Math.fround(GUARD_VALUE);
        assert.ok(intact, `${label}: wrote outside of an operand of ${length} floats`);
      }
    }
    for (const b of this.#blocks) this.heap.free(b);
    this.#guards.length = 0;
    this.#blocks.length = 0;
  }

  #floats(pointer: number, length: number): Float32Array {
    return new Float32Array(this.heap.memory.buffer, pointer, length);
  }

  #block(bytes: number): number {
    const pointer = this.heap.alloc(bytes);
    this.#blocks.push(pointer);
    return pointer;
  }
}

/** A machine for each variant that this engine runs. */
export async function machines(): Promise<Machine[]> {
  return Promise.all(wasmVariants.map(async (variant) => new Machine(await loadKernels({ variant }))));
}

/** Numbers in [−scale, scale) from a fixed generator. */
export function random(length: number, seed = 1, scale = 1): Float32Array {
  let state = seed * 2654435761 + 12345;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
}

/** |a − b| ≤ atol + rtol·|b| everywhere; NaN and infinities must agree. */
export function close(label: string, a: ArrayLike<number>, b: ArrayLike<number>, rtol = 1e-5, atol = 1e-6): void {
  assert.is(a.length, b.length, `${label}: length`);
  for (let i = 0; i < b.length; i++) {
    const same = Number.isFinite(b[i]) ? Math.abs(a[i] - b[i]) <= atol + rtol * Math.abs(b[i]) : Object.is(a[i], b[i]);
    if (!same) assert.unreachable(`${label}: [${i}] is ${a[i]}, expected ${b[i]}`);
  }
}

/** A function of several arrays, in f64. */
export type Reference = (...inputs: number[][]) => number[];

/**
 * Gradients of Σ dy·f(inputs) for each input, by central differences in f64: independent of any derivative written
 * down, and right to about 1e-8.
 */
export function gradients(f: Reference, inputs: ArrayLike<number>[], dy: ArrayLike<number>): number[][] {
  const at = inputs.map((v) => Array.from(v));
  const loss = (): number => f(...at).reduce((sum, v, i) => sum + v * dy[i], 0);
  return at.map((values) =>
    values.map((value, i) => {
      const h = 1e-4 * Math.max(1, Math.abs(value));
      values[i] = value + h;
      const up = loss();
      values[i] = value - h;
      const down = loss();
      values[i] = value;
      return (up - down) / (2 * h);
    }),
  );
}
