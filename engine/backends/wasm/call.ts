import type { Spec } from '../../backend.ts';

/** An argument of a C kernel: where it starts in the WASM memory, in bytes. */
export interface WasmArg extends Spec {
  readonly size: number;
  readonly ptr: number;
}

/** The exports of the C kernels, by name. */
export type WasmKernels = Readonly<Record<string, (...args: number[]) => number>>;

export interface WasmCall<A> {
  readonly inputs: readonly WasmArg[];
  readonly outputs: readonly WasmArg[];
  readonly attrs: A;
  readonly k: WasmKernels;
  /** Bytes for this call only, 64-byte aligned. */
  scratch(bytes: number): number;
}
