import { shown } from './arguments.ts';
import type { Backend } from './backend.ts';
import { noteUse } from './capture.ts';
import { ArgumentError } from './errors.ts';
import { noteOp } from './leaks.ts';
import type { AnyOp, Named, Op } from './op.ts';
import { PlanCache } from './plan.ts';
import { gradEnabled, record } from './tape.ts';
import { empty, Tensor } from './tensor.ts';

const caches = new WeakMap<Backend, PlanCache>();

/**
 * The one funnel every op passes: plan (the first time that it meets these shapes) → allocate → dispatch → record.
 * @param inputs tensors by the op's names for them
 * @param backend needed only by ops without inputs
 * @returns what the op's shape rule announced, by name
 */
export function apply<A, I extends string, O extends string>(
  op: Op<A, I, O>,
  inputs: Named<I, Tensor>,
  attrs: A,
  backend?: Backend,
): Named<O, Tensor> {
  return op.gives.named<Tensor>(applyFlat(op, op.takes.flat<Tensor>(inputs), attrs, backend)) as Named<O, Tensor>;
}

/** `apply` on operands in the order of `Operands.flat`. */
export function applyFlat(
  op: AnyOp,
  inputs: readonly (Tensor | undefined)[],
  attrs: unknown,
  backend?: Backend,
): (Tensor | undefined)[] {
  const device = backend ?? inputs.find((input) => input !== undefined)!.backend;
  const buffers: unknown[] = [];
  for (const input of inputs) {
    if (input === undefined) {
      buffers.push(undefined);
      continue;
    }
    if (!(input instanceof Tensor)) {
      throw new ArgumentError(`${op.name}: ${shown(input)} was given, expected a tensor; make one with fromData()`);
    }
    buffers.push(input.buffer);
    noteUse(input);
    if (input.backend !== device) {
      throw new ArgumentError(`${op.name}: ${input} is on ${input.backend.kind}, the others on ${device.kind}`);
    }
  }
  for (const i of op.mutates) if (inputs[i]) expectAlone(op.name, inputs, i);
  let cache = caches.get(device);
  if (!cache) caches.set(device, (cache = new PlanCache(device)));
  const prepared = cache.prepare(op, inputs, attrs);
  const outputs: (Tensor | undefined)[] = [];
  try {
    for (const spec of prepared.outputs) {
      const output = spec && empty(device, spec.shape, spec.dtype);
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
  return outputs;
}

/** @throws ArgumentError where an input that an op writes to lies in the memory of another, which it may still read */
function expectAlone(op: string, inputs: readonly (Tensor | undefined)[], written: number): void {
  const target = inputs[written]!;
  if (!inputs.some((other, i) => i !== written && other?.storage === target.storage)) return;
  throw new ArgumentError(`${op}: writes to ${target}, which is another of its tensors too; give it a clone()`);
}
