import type { Backend } from '../engine/backend.ts';
import type { DType } from '../engine/dtype.ts';
import type { Call } from '../engine/plan.ts';
import { bytesMoved } from '../engine/profiler.ts';
import { keep, scope } from '../engine/scope.ts';
import { empty, type Tensor } from '../engine/tensor.ts';
import { ShapesBackend } from '../models/matvlm/shapes-backend.ts';
import { backwardFrom } from '../ops/index.ts';
import type { Run, Sizes } from '../test/cases/case.ts';
import { ROWS } from '../test/cases/index.ts';
import { Inputs } from '../test/support/inputs.ts';

/** One op at one shape. */
export interface OpCase {
  readonly name: string;
  readonly run: Run;
  readonly sizes: Sizes;
  /** Whether gradients are timed as well. */
  readonly gradients: boolean;
}

/** What the rows of the case table say is to be timed. */
export const OP_CASES: readonly OpCase[] = Object.values(ROWS).flatMap(({ timed = [] }) =>
  timed.flatMap(([name, run, ...at]) => {
    const names = [...new Set(Array.from(name.matchAll(/\{(\w+)\}/g), ([, size]) => size))];
    return at.map((values) => {
      const sizes: Sizes = Object.fromEntries(names.map((size, i) => [size, values[i]]));
      const filled = name.replace(/\{(\w+)\}/g, (_, size: string) => `${sizes[size]}`);
      return { name: filled, run, sizes, gradients: name.includes('fwd+bwd') };
    });
  }),
);

/** What is timed: a call on inputs that are made the first time. */
export function callOf(inputs: Inputs, { run, sizes, gradients }: OpCase): () => void {
  return () => {
    const outputs = inputs.run(run, sizes);
    if (!gradients) return;
    backwardFrom(outputs, outputs.map((y, i) => inputs.gradientOf(y, i)));
    for (const leaf of inputs.leaves) {
      leaf.grad!.dispose();
      leaf.grad = null;
    }
  };
}

/** What one call does at the least, in floating-point operations or in bytes read and written. */
export interface Work {
  readonly amount: number;
  readonly unit: 'flop' | 'byte';
}

/** Operations a byte from which arithmetic is what takes time. */
const DENSE = 2;

/** Work of a case by what its ops say of themselves: nothing is run. */
export function workOf(one: OpCase): Work {
  const counter = new CountingBackend();
  const call = callOf(new Unwritten(counter as unknown as Backend, one.gradients), one);
  scope(call);
  const { flops, bytes } = counter;
  return flops >= DENSE * bytes ? { amount: flops, unit: 'flop' } : { amount: bytes, unit: 'byte' };
}

/** Adds up the work of what it is given. */
class CountingBackend extends (ShapesBackend as new () => Omit<ShapesBackend, 'plan' | 'dispatch'>) {
  flops = 0;
  bytes = 0;

  readonly plan = (call: Call): Call => call;

  readonly dispatch = ({ op, attrs, inputs, outputs }: Call): void => {
    const [takes, gives] = [op.takes.named(inputs), op.gives.named(outputs)];
    const elements = outputs.reduce((sum, y) => sum + (y?.size ?? 0), 0);
    this.flops += op.flops?.(takes, gives, attrs) ?? elements;
    // What an op writes to it reads as well.
    this.bytes += bytesMoved([...inputs, ...outputs, ...op.mutates.map((i) => inputs[i])]);
  };
}

/** Inputs of which only shape and dtype matter. */
class Unwritten extends Inputs {
  protected override noise(): Float32Array {
    return new Float32Array(0);
  }

  protected override own(_: unknown, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    return keep(empty(this.backend, shape, dtype));
  }
}
