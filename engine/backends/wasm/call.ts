import type { KernelExports } from '../../../wasm/exports.ts';
import type { Spec } from '../../backend.ts';

export type { BinaryName, KernelExports } from '../../../wasm/exports.ts';

/** An argument of a C kernel: where it starts in the WASM memory, in bytes. */
export interface WasmArg extends Spec {
  readonly size: number;
  readonly ptr: number;
}

export interface WasmCall<A> {
  readonly inputs: readonly WasmArg[];
  readonly outputs: readonly WasmArg[];
  readonly attrs: A;
  /** The C kernels. */
  readonly k: KernelExports;
  /** Bytes for this call only, 64-byte aligned; null for none. */
  scratch(bytes: number): number;
}
