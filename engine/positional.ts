/** Ops whose operands go by position, until each is declared by names. */
import type { Address, KernelCalls, Sizes } from '../wasm/kernels.ts';
import { applyFlat } from './apply.ts';
import type { Backend, Spec } from './backend.ts';
import type { WasmPlanner } from './backends/wasm/planner.ts';
import type { GpuPlanner, Launch } from './backends/webgpu/launch.ts';
import { defineOp as defineNamed, type AnyOp, type HostArg } from './op.ts';
import type { Slot } from './plan.ts';
import type { Tensor } from './tensor.ts';

export { type HostArg, hostSums, spec } from './op.ts';

export type GpuArg = Slot;

export interface HostCall<A> {
  readonly inputs: readonly HostArg[];
  readonly outputs: readonly HostArg[];
  readonly attrs: A;
}

export interface GpuCall<A> extends GpuPlanner {
  readonly inputs: readonly GpuArg[];
  readonly outputs: readonly GpuArg[];
  readonly attrs: A;
}

export interface WasmArg extends Spec {
  readonly size: number;
  readonly ptr: number;
}

/** Kernels on numbers: addresses of operands are tagged with their slot. */
export type KernelExports = KernelCalls<number> & Sizes;

export interface WasmCall<A> {
  readonly inputs: readonly WasmArg[];
  readonly outputs: readonly WasmArg[];
  readonly attrs: A;
  readonly k: KernelExports;
  scratch(bytes: number): number;
}

export interface BackwardContext<A> {
  readonly attrs: A;
  readonly inputSpecs: readonly Spec[];
  readonly outputSpecs: readonly Spec[];
  readonly needs: readonly boolean[];
  readonly grads: readonly (Tensor | null)[];
  input(i: number): Tensor;
  output(i: number): Tensor;
}

interface Positional<A> {
  readonly name: string;
  shape(inputs: readonly Spec[], attrs: A): Spec[];
  reference(call: HostCall<A>): void;
  webgpu(call: GpuCall<A>): Launch[];
  wasm?(call: WasmCall<A>): boolean;
  readonly saves?: { readonly inputs?: readonly number[]; readonly outputs?: readonly number[] };
  backward?(context: BackwardContext<A>): (Tensor | null)[];
  readonly mutates?: readonly number[];
  flops?(call: { inputs: readonly Slot[]; outputs: readonly Slot[]; attrs: A }): number;
}

export interface Op<A = Record<string, never>> extends Positional<A> {
  readonly named: AnyOp;
}

const MOST = 20;
const names = (letter: string) => Array.from({ length: MOST }, (_, i) => `${letter}${i}?`);
const [INPUTS, OUTPUTS] = [names('i'), names('o')];
const bare = (letter: string, i: number) => `${letter}${i}`;
const TAG = 2 ** 36;

function list<T>(letter: string, named: Readonly<Record<string, T>>): T[] {
  const out: T[] = [];
  for (let i = 0; i < MOST && named[bare(letter, i)] !== undefined; i++) out.push(named[bare(letter, i)]);
  return out;
}

const record = <T>(letter: string, items: readonly T[]) => Object.fromEntries(items.map((x, i) => [bare(letter, i), x]));

export function defineOp<A>(op: Positional<A>): Op<A> {
  type Any = Readonly<Record<string, never>>;
  const named = (defineNamed as (definition: object) => AnyOp)({
    name: op.name,
    inputs: INPUTS,
    outputs: OUTPUTS,
    shape: (inputs: Any, attrs: A) => record('o', op.shape(list<Spec>('i', inputs), attrs)),
    reference: (inputs: Any, outputs: Any, attrs: A) =>
      op.reference({ inputs: list<HostArg>('i', inputs), outputs: list<HostArg>('o', outputs), attrs }),
    webgpu: (inputs: Any, outputs: Any, attrs: A, device: GpuPlanner) =>
      op.webgpu({ inputs: list<Slot>('i', inputs), outputs: list<Slot>('o', outputs), attrs, ...device }),
    wasm: op.wasm && ((inputs: Any, outputs: Any, attrs: A, planner: WasmPlanner) => {
      return op.wasm!({
        inputs: list<Slot>('i', inputs).map(wasmArg),
        outputs: list<Slot>('o', outputs).map(wasmArg),
        attrs,
        k: tagged(planner),
        scratch: (bytes) => (bytes === 0 ? 0 : (planner.scratch(bytes).slot + 1) * TAG),
      });
    }),
    saves: [...(op.saves?.inputs ?? []).map((i) => bare('i', i)), ...(op.saves?.outputs ?? []).map((i) => bare('o', i))],
    mutates: (op.mutates ?? []).map((i) => bare('i', i)),
    backward: op.backward && ((context: Readonly<Record<'saved' | 'specs' | 'needs' | 'grads', Any>> & { attrs: A }) => {
      const { attrs, saved, specs, needs, grads } = context;
      const inputSpecs = list<Spec>('i', specs);
      const outputSpecs = list<Spec>('o', specs);
      return record('i', op.backward!({
        attrs,
        inputSpecs,
        outputSpecs,
        needs: inputSpecs.map((_, i) => needs[bare('i', i)]),
        grads: outputSpecs.map((_, i) => grads[bare('o', i)]),
        input: (i) => saved[bare('i', i)],
        output: (i) => saved[bare('o', i)],
      }));
    }),
  });
  return { ...op, named };
}

export const wasmArg = (slot: Slot): WasmArg => ({ ...slot, ptr: (slot.slot + 1) * TAG });

export function tagged({ k, sizes }: WasmPlanner): KernelExports {
  const address = (v: number): number | Address =>
    v >= TAG && v < 64 * TAG && Number.isInteger(v) ? { slot: Math.floor(v / TAG) - 1, offset: v % TAG } : v;
  return new Proxy({} as KernelExports, {
    get: (_, name: string) =>
      name.endsWith('_scratch')
        ? sizes[name as keyof Sizes]
        : (...args: number[]) =>
            (k as unknown as Record<string, (...args: (number | Address)[]) => void>)[name](...args.map(address)),
  });
}

export function apply<A>(op: Op<A>, inputs: readonly (Tensor | undefined)[], attrs: A, backend?: Backend): Tensor[] {
  const outputs = applyFlat(op.named, inputs, attrs, backend) as Tensor[];
  const made = outputs.indexOf(undefined as unknown as Tensor);
  if (made >= 0) outputs.length = made;
  return outputs;
}

export function apply1<A>(op: Op<A>, inputs: readonly (Tensor | undefined)[], attrs: A, backend?: Backend): Tensor {
  return apply(op, inputs, attrs, backend)[0];
}
