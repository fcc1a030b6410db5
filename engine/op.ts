import type { Spec } from './backend.ts';
import type { WasmPlanner } from './backends/wasm/planner.ts';
import type { GpuPlanner, Launch } from './backends/webgpu/launch.ts';
import type { DType, HostArray } from './dtype.ts';
import { type Bare, type Each, type Named, Operands } from './operands.ts';
import type { Slot } from './plan.ts';
import type { Tensor } from './tensor.ts';

export type { Bare, Named } from './operands.ts';

/**
 * An operand of the reference loops: `data` is the whole tensor, row-major, as numbers. What is stored in 16 bits or in
 * blocks has been decoded, and what is written is rounded afterwards.
 */
export interface HostArg extends Spec {
  readonly size: number;
  readonly data: HostArray;
}

/** Sums in f64 for outputs that reference loops add to many times; `data.set` them when all is added. */
export function hostSums(outputs: readonly HostArg[]): { readonly data: Float64Array }[] {
  return outputs.map(({ size }) => ({ data: new Float64Array(size) }));
}

/** What an op's backward gets. */
export interface BackwardContext<A, I extends string, O extends string, S extends string> {
  readonly attrs: A;
  /** What `saves` names. */
  readonly saved: { readonly [K in S as K extends I | O ? K : never]: Tensor } & {
    readonly [K in S as `${K}?` extends I | O ? K : never]?: Tensor;
  };
  /** Shapes and dtypes of all operands. */
  readonly specs: Named<I, Spec> & Named<O, Spec>;
  /** Whose gradients are wanted; never form one where it is not. */
  readonly needs: Each<I, boolean>;
  /** Gradients of the outputs; null where nothing downstream used one. */
  readonly grads: Each<O, Tensor | null>;
}

/** One op: its operands by name, its shape rule, its kernels for every backend and its derivative. */
export interface OpDefinition<A, I extends string, O extends string, S extends string> {
  readonly name: string;
  /** 'x', 'mask?' for one that may be absent, 'xs*' for a list, which comes last. */
  readonly inputs: readonly I[];
  /** Marked as inputs are; what is absent from the shape rule's answer is not made. */
  readonly outputs: readonly O[];
  /** Checks the inputs and says what comes out; throws ShapeError or DTypeError naming op, argument and shapes. */
  shape(inputs: Named<I, Spec>, attrs: A): Named<O, Spec>;
  /** Readable loops: the meaning of the op. */
  reference(inputs: Named<I, HostArg>, outputs: Named<O, HostArg>, attrs: A): void;
  /** What to launch, as data: it may depend on specs, attributes and the device's capabilities alone. */
  webgpu(inputs: Named<I, Slot>, outputs: Named<O, Slot>, attrs: A, device: GpuPlanner): readonly Launch[];
  /** Notes calls of C kernels and returns true, or returns false to fall back to the reference loops. */
  wasm?(inputs: Named<I, Slot>, outputs: Named<O, Slot>, attrs: A, device: WasmPlanner): boolean;
  /** Floating-point operations of a call, for the bench; one an element of the outputs where it is left out. */
  flops?(inputs: Named<I, Spec>, outputs: Named<O, Spec>, attrs: A): number;
  /** Names of the inputs and outputs that backward reads. */
  readonly saves?: readonly S[];
  /** Gradients of the inputs by name; those that are left out or null are not differentiable or were not needed. */
  backward?(context: BackwardContext<A, I, O, S>): Partial<Each<I, Tensor | null>>;
  /** Names of the inputs that the op writes to (optimisers, caches): backward may not read what they were. */
  readonly mutates?: readonly Bare<I>[];
  /**
   * Names of the operands that the kernels of a backend access in whatever format they are stored, as those on WebGPU do
   * all inputs that they only read. Others come to them as f32 where they are stored in 16 bits or in blocks: in
   * scratch, converted before and after.
   */
  readonly asStored?: { readonly [B in 'webgpu' | 'wasm']?: readonly (Bare<I> | Bare<O>)[] };
}

/** What an op declares otherwise than it is kept. */
type Declared = 'inputs' | 'outputs' | 'saves' | 'mutates';

/** An op that can be applied. It carries all that backends need of it: none of them has a table of ops. */
export interface AnyOp extends Omit<OpDefinition<unknown, string, string, never>, Declared> {
  readonly takes: Operands;
  readonly gives: Operands;
  /** Places of what backward reads, among the names of inputs and then of outputs. */
  readonly saves: readonly number[];
  /** Places of the inputs that it writes to. */
  readonly mutates: readonly number[];
}

/** An op with what `apply` must be given and gives. */
export interface Op<A, I extends string, O extends string> extends AnyOp {
  /** Of no value: carries the types. */
  readonly signature?: (attrs: A, inputs: Named<I, Tensor>) => Named<O, Tensor>;
}

const defined: AnyOp[] = [];

/** Declares an op; a function so that bundlers may drop ops that nobody imports. */
export function defineOp<A, const I extends string, const O extends string, const S extends Bare<I> | Bare<O> = never>(
  definition: OpDefinition<A, I, O, S>,
): Op<A, I, O> {
  const takes = new Operands(definition.inputs);
  const gives = new Operands(definition.outputs);
  const all = [...takes.names, ...gives.names];
  const op: Op<A, I, O> = {
    ...(definition as unknown as AnyOp),
    takes,
    gives,
    saves: (definition.saves ?? []).map((name) => all.indexOf(name)),
    mutates: (definition.mutates ?? []).map((name) => takes.names.indexOf(name)),
  };
  defined.push(op);
  return op;
}

/** The ops declared by the modules imported so far: for tests and reports. */
export function definedOps(): readonly AnyOp[] {
  return defined;
}

export function spec(shape: readonly number[], dtype: DType = 'f32'): Spec {
  return { shape, dtype };
}
