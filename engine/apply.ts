import { shown } from './arguments.ts';
import type { Backend } from './backend.ts';
import { noteUse } from './capture.ts';
import { ArgumentError } from './errors.ts';
import { noteOp } from './leaks.ts';
import type { Named, Op } from './op.ts';
import { plansOf } from './plan.ts';
import { gradEnabled, record } from './tape.ts';
import { Storage, Tensor } from './tensor.ts';

/**
 * The one funnel every op passes: plan (the first time that it meets these shapes) → allocate → dispatch → record.
 * @param operands tensors by the op's names for them
 * @param backend needed only by ops without inputs
 * @returns what the op's shape rule announced, by name
 */
export function apply<A, I extends string, O extends string>(
  op: Op<A, I, O>,
  operands: Named<I, Tensor>,
  attrs: A,
  backend?: Backend,
): Named<O, Tensor> {
  const inputs = op.takes.flat<Tensor>(operands);
  const device = backend ?? inputs.find((input) => input !== undefined)?.backend;
  if (!device) throw new ArgumentError(`${op.name}: no tensor was given`);
  const { single } = op.takes;
  const buffers = inputs.map((input, i) => (input === undefined && i < single ? input : bufferOn(device, op.name, input)));
  for (const i of op.mutates) if (inputs[i]) expectAlone(op.name, inputs, i);
  const prepared = plansOf(device).prepare(op, inputs, attrs);
  const outputs: (Tensor | undefined)[] = [];
  try {
    for (const spec of prepared.outputs) {
      const output = spec && new Tensor(new Storage(device, device.alloc(spec.size, spec.dtype)), spec.shape, spec.dtype);
      outputs.push(output);
      buffers.push(output?.storage.buffer);
    }
    if (prepared.plan !== null) device.dispatch(prepared.plan, buffers);
  } catch (error) {
    for (const output of outputs) output?.dispose();
    throw error;
  }
  noteOp(op.name, outputs);
  for (const i of op.mutates) if (inputs[i]) inputs[i].storage.version++;
  if (GRADIENTS && op.backward && gradEnabled() && inputs.some((t) => t?.requiresGrad)) {
    record(prepared, inputs, outputs);
  }
  return op.gives.named<Tensor>(outputs) as Named<O, Tensor>;
}

/** An operand's buffer. @throws ArgumentError unless it is a tensor on that device */
function bufferOn(device: Backend, op: string, input: unknown): unknown {
  if (!(input instanceof Tensor)) {
    throw new ArgumentError(`${op}: ${shown(input)} was given, expected a tensor; make one with fromData()`);
  }
  const { buffer, backend } = input;
  if (backend !== device) {
    throw new ArgumentError(`${op}: ${input} is on ${backend.kind}, the others on ${device.kind}`);
  }
  noteUse(input);
  return buffer;
}

/** @throws ArgumentError where what an op writes to lies in the memory of another input, or is on the tape */
function expectAlone(op: string, inputs: readonly (Tensor | undefined)[], written: number): void {
  const target = inputs[written]!;
  if (GRADIENTS && target.node && gradEnabled()) {
    throw new ArgumentError(`${op}: writes to ${target}, which backward may go through; detach() it, or write in noGrad()`);
  }
  if (!inputs.some((other, i) => i !== written && other?.storage === target.storage)) return;
  throw new ArgumentError(`${op}: writes to ${target}, which is another of its tensors too; give it a clone()`);
}
