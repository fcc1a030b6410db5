import type { Call, Spec } from './backend.ts';
import type { DType, HostArray } from './dtype.ts';
import type { GpuCall, Launch } from './backends/webgpu/launch.ts';
import type { WasmCall } from './backends/wasm/call.ts';
import type { Tensor } from './tensor.ts';

/** An argument of the reference loops: `data` is the whole tensor, row-major. f16 and bf16 are raw 16-bit words. */
export interface HostArg extends Spec {
  readonly size: number;
  readonly data: HostArray;
}

/** Sums in f64 for outputs that reference loops add to many times; `data.set` them when all is added. */
export function hostSums(outputs: readonly HostArg[]): { readonly data: Float64Array }[] {
  return outputs.map(({ size }) => ({ data: new Float64Array(size) }));
}

export interface HostCall<A> {
  readonly inputs: readonly HostArg[];
  readonly outputs: readonly HostArg[];
  readonly attrs: A;
}

/** What an op's backward gets. Only what `saves` names is there; asking for anything else throws. */
export interface BackwardContext<A> {
  readonly attrs: A;
  readonly inputSpecs: readonly Spec[];
  readonly outputSpecs: readonly Spec[];
  /** Whether the gradient of input i is wanted; never form it where it is not. */
  readonly needs: readonly boolean[];
  /** Gradient of each output; null where nothing downstream used it. */
  readonly grads: readonly (Tensor | null)[];
  input(i: number): Tensor;
  output(i: number): Tensor;
}

/**
 * One op: its shape rule, its kernels for every backend and its derivative. The object is the registry: there is no
 * table of names anywhere.
 */
export interface Op<A = Record<string, never>> {
  readonly name: string;
  /** Checks the inputs and says what comes out; throws ShapeError or DTypeError naming op, argument and shapes. */
  shape(inputs: readonly Spec[], attrs: A): Spec[];
  /** Readable loops: the meaning of the op. */
  reference(call: HostCall<A>): void;
  /** Pure data: what to launch. */
  webgpu(call: GpuCall<A>): Launch[];
  /** Runs a C kernel and returns true, or returns false to fall back to the reference loops. */
  wasm?(call: WasmCall<A>): boolean;
  /** Indices of what backward reads. */
  readonly saves?: { readonly inputs?: readonly number[]; readonly outputs?: readonly number[] };
  /** Gradients of the inputs, in their order; null where not needed or not differentiable. */
  backward?(context: BackwardContext<A>): (Tensor | null)[];
  /** Indices of inputs that the op writes to (optimisers, accumulation): backward may not read what they were. */
  readonly mutates?: readonly number[];
  /** Floating-point operations of a call, for benchmarks. */
  flops?(call: Call<A>): number;
}

const defined: Op<never>[] = [];

/** Declares an op; a function so that bundlers may drop ops that nobody imports. */
export function defineOp<A>(op: Op<A>): Op<A> {
  defined.push(op as Op<never>);
  return op;
}

/** The ops declared by the modules imported so far: for tests and reports. */
export function definedOps(): readonly Op<never>[] {
  return defined;
}

export function spec(shape: readonly number[], dtype: DType = 'f32'): Spec {
  return { shape, dtype };
}
