import { apply } from '../../engine/apply.ts';
import type { DType } from '../../engine/dtype.ts';
import type { Op } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { sameShape } from '../common/shapes.ts';
import { sumTo } from '../reduce/sum.ts';
import { cast } from './cast.ts';
import { defineElementwise, type Each, type Elementwise } from './define.ts';
import { zeros } from './fill.ts';
import { mulScalar } from './scalar.ts';

/** dy·∂f for one operand: an elementwise function of the operands, y and dy, in this order. */
export type Partial<A> = Pick<Elementwise<A>, 'f' | 'wgsl' | 'wasm'>;

/** An elementwise function with its derivatives. */
export interface Differentiable<A, I extends string> extends Elementwise<A, I> {
  /** By operand: dy·∂f, or ∂f alone where that is a number. Those left out have no gradient. */
  readonly partials: { readonly [K in I]?: Partial<A> | number };
}

/** The op of an elementwise function that has derivatives. */
export function defineDifferentiable<A extends object, const I extends string>(own: Differentiable<A, I>): Op<A, I, 'y'> {
  const { name, inputs, params, helpers } = own;
  const partials: Each<Partial<A> | number | undefined> = own.partials;
  const formed = Object.entries(partials).filter((entry): entry is [string, Partial<A>] => typeof entry[1] === 'object');
  /** Operands, and y, that a partial derivative looks at. */
  const reads = Object.fromEntries(formed.map(([input, { wgsl }]) => {
    const text = typeof wgsl === 'string' ? wgsl : wgsl({});
    return [input, [...inputs, 'y'].filter((operand) => new RegExp(`\\b${operand}\\b`).test(text))];
  }));
  const backwardOps = Object.fromEntries(formed.map(([input, partial]) => {
    const op = defineElementwise<A & { readonly to: DType }, string>({
      ...{ params, helpers, ...partial },
      name: `${name}_backward${formed.length > 1 ? `_${input}` : ''}`,
      inputs: [...[...inputs, 'y'].map((operand) => `${operand}?`), 'dy'],
      result: (_, { to }) => to,
    });
    return [input, op];
  }));
  return defineElementwise(own, {
    saves: [...new Set(Object.values(reads).flat())],
    backward({ attrs, saved, specs, needs, grads }) {
      const dy = grads.y!;
      const gradient = (input: string): Tensor | null => {
        const partial = partials[input];
        if (!needs[input] || partial === undefined) return null;
        const { shape, dtype } = specs[input];
        if (partial === 0) return zeros(dy.backend, shape, dtype);
        if (typeof partial === 'number') {
          const sum = cast(sumTo(dy, shape), dtype);
          return partial === 1 ? sum : mulScalar(sum, partial);
        }
        const read = Object.fromEntries(reads[input].map((operand) => [operand, saved[operand]]));
        // What is to be summed is not rounded before.
        const to = sameShape(shape, dy.shape) ? dtype : 'f32';
        return cast(sumTo(apply(backwardOps[input], { ...read, dy }, { ...attrs, to }).y, shape), dtype);
      };
      return Object.fromEntries(inputs.map((input) => [input, gradient(input)]));
    },
  });
}
