import { apply } from '../../engine/apply.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import type { DType } from '../../engine/dtype.ts';
import { defineOp, type Op, type OpDefinition, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { sameShape } from '../common/shapes.ts';
import { sumTo } from '../reduce/sum.ts';
import { cast } from './cast.ts';
import { defineElementwise, type Each, type Elementwise, fillWith, paramsOf, type Value } from './define.ts';
import { zeros } from './fill.ts';
import { elementwise, type Expression } from './kernel.ts';
import { mulScalar } from './scalar.ts';

/** dy·∂f for one operand, of the operands, y and dy, in this order. */
export interface Partial<A> {
  readonly f: (attrs: A) => Value;
  readonly wgsl: Expression;
}

/** An elementwise function with its derivatives. */
export interface Differentiable<A, I extends string> extends Elementwise<A, I> {
  /** By operand: dy·∂f, or ∂f alone where that is a number. Those left out have no gradient. */
  readonly partials: { readonly [K in I]?: Partial<A> | number };
  /** Calls C kernels that compute dy·∂f, all f32, into `d` and the operand's name, of what the partials read. */
  readonly wasmBackward?: (read: Each<Slot>, made: Each<Slot>, attrs: A, device: WasmPlanner) => boolean;
}

/** Attributes of the function, and the dtypes of the gradients that are wanted, by operand. */
type Wanted<A> = A & { readonly to: Each<DType> };

/** The op of an elementwise function that has derivatives. */
export function defineDifferentiable<A extends object, const I extends string>(own: Differentiable<A, I>): Op<A, I, 'y'> {
  const { inputs } = own;
  const partials: Each<Partial<A> | number | undefined> = own.partials;
  const formed = inputs.filter((input) => typeof partials[input] === 'object');
  /** Operands, and y, that a partial derivative looks at. */
  const reads = (input: string): string[] => {
    const { wgsl } = partials[input] as Partial<A>;
    const text = typeof wgsl === 'string' ? wgsl : wgsl({});
    return [...inputs, 'y'].filter((name) => new RegExp(`\\b${name}\\b`).test(text));
  };
  const backwardOp = formed.length > 0 ? defineBackward(own, formed) : undefined;
  return defineElementwise(own, {
    saves: [...new Set(formed.flatMap(reads))],
    backward({ attrs, saved, specs, needs, grads }) {
      const dy = grads.y!;
      const to: Record<string, DType> = {};
      const operands: Record<string, Tensor> = { dy };
      for (const input of formed) {
        if (!needs[input]) continue;
        // What is to be summed is not rounded before.
        to[input] = sameShape(specs[input].shape, dy.shape) ? specs[input].dtype : 'f32';
        for (const name of reads(input)) operands[name] = saved[name];
      }
      const wanted = { ...attrs, to };
      const made: Each<Tensor> = Object.keys(to).length > 0 ? apply(backwardOp!, operands, wanted) : {};
      const gradient = (input: string): Tensor | null => {
        const partial = partials[input];
        if (!needs[input] || partial === undefined) return null;
        const { shape, dtype } = specs[input];
        if (typeof partial === 'object') return cast(sumTo(made[`d${input}`], shape), dtype);
        if (partial === 0) return zeros(dy.backend, shape, dtype);
        const sum = cast(sumTo(dy, shape), dtype);
        return partial === 1 ? sum : mulScalar(sum, partial);
      };
      return Object.fromEntries(inputs.map((input) => [input, gradient(input)]));
    },
  });
}

/** dy·∂f for the operands that are wanted, at the shape of dy, in one kernel. */
function defineBackward<A extends object>(own: Differentiable<A, string>, formed: readonly string[]) {
  const { name, inputs, helpers, wasmBackward } = own;
  const operands = [...inputs, 'y'];
  const partials = own.partials as Each<Partial<A>>;
  const wantedOf = ({ to }: Wanted<A>) => formed.filter((input) => input in to);
  const definition: OpDefinition<Wanted<A>, string, string, string> = {
    name: `${name}_backward`,
    inputs: [...operands.map((operand) => `${operand}?`), 'dy'],
    outputs: formed.map((input) => `d${input}?`),
    shape: ({ dy }, attrs) =>
      Object.fromEntries(wantedOf(attrs).map((input) => [`d${input}`, spec(dy.shape, attrs.to[input])])),
    reference(given, made, attrs) {
      const read = [...operands, 'dy'].map((operand) => given[operand]);
      for (const input of wantedOf(attrs)) fillWith(made[`d${input}`], partials[input].f(attrs), read);
    },
    webgpu(reads, writes, attrs, { caps }) {
      const wanted = wantedOf(attrs);
      const values = Object.fromEntries(wanted.map((input) => [`d${input}`, partials[input].wgsl]));
      const params = paramsOf(own, attrs, 'f32');
      return [elementwise({ name: `${name}_backward.${wanted}`, reads, writes, values, params, helpers }, { caps })];
    },
    wasm: wasmBackward,
    asStored: { webgpu: [...operands, 'dy', ...formed.map((input) => `d${input}`)] },
  };
  return defineOp(definition);
}
