import type { Backend } from './backend.ts';
import { shown } from './arguments.ts';
import { ArgumentError } from './errors.ts';
import { noteOp } from './leaks.ts';
import type { Op } from './op.ts';
import { gradEnabled, record } from './tape.ts';
import { empty, Tensor } from './tensor.ts';

/**
 * The one funnel every op passes: shape rule → allocate → run → record.
 * @param backend needed only by ops without inputs
 */
export function apply<A>(op: Op<A>, inputs: readonly Tensor[], attrs: A, backend?: Backend): Tensor[] {
  const device = backend ?? inputs[0].backend;
  for (const input of inputs) {
    if (!(input instanceof Tensor)) {
      throw new ArgumentError(`${op.name}: ${shown(input)} was given, expected a tensor; make one with fromData()`);
    }
    void input.buffer;
    if (input.backend !== device) {
      throw new ArgumentError(`${op.name}: ${input} is on ${input.backend.kind}, the others on ${device.kind}`);
    }
  }
  if (op.mutates) for (const i of op.mutates) expectAlone(op.name, inputs, i);
  const outputs: Tensor[] = [];
  try {
    for (const { shape, dtype } of op.shape(inputs, attrs)) outputs.push(empty(device, shape, dtype));
    // Where all that comes out is empty there is nothing to compute, and no kernel need think of it.
    if (outputs.length === 0 || outputs.some(({ size }) => size > 0)) device.run(op, { inputs, outputs, attrs });
  } catch (error) {
    for (const output of outputs) output.dispose();
    throw error;
  }
  noteOp(op.name, outputs);
  if (op.mutates) for (const i of op.mutates) inputs[i].storage.version++;
  if (op.backward && gradEnabled() && inputs.some((t) => t.requiresGrad)) record(op, inputs, outputs, attrs);
  return outputs;
}

/** @throws ArgumentError where an input that an op writes to lies in the memory of another, which it may still read */
function expectAlone(op: string, inputs: readonly Tensor[], written: number): void {
  const { storage } = inputs[written];
  if (!inputs.some((other, i) => i !== written && other.storage === storage)) return;
  throw new ArgumentError(`${op}: writes to ${inputs[written]}, which is another of its tensors too; give it a clone()`);
}

/** `apply` for ops with one output. */
export function apply1<A>(op: Op<A>, inputs: readonly Tensor[], attrs: A, backend?: Backend): Tensor {
  return apply(op, inputs, attrs, backend)[0];
}
