import * as assert from 'uvu/assert';
import type { HostArray } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import type { MaTVLM } from '../../models/matvlm/model.ts';
import { backward } from '../../ops/index.ts';
import { norm, relativeError } from './golden-types.ts';

type Values = ReadonlyMap<string, HostArray>;

/** The value of a loss. Its gradients stay with the parameters, unless none are wanted. */
export async function valueOf(loss: () => Tensor, differentiate = true): Promise<number> {
  const made = scope(() => {
    const l = loss();
    if (differentiate) backward(l);
    return l;
  });
  const value = await made.item();
  made.dispose();
  return value;
}

/** Takes their gradients from the parameters that have one. */
export async function takeGradients(parameters: ReadonlyMap<string, Tensor>): Promise<Map<string, HostArray>> {
  const all = new Map<string, HostArray>();
  for (const [name, tensor] of parameters) {
    if (!tensor.grad) continue;
    all.set(name, await tensor.grad.data());
    tensor.grad.dispose();
    tensor.grad = null;
  }
  return all;
}

/** The value of a loss, and the gradients of all parameters of a model that have one. */
export async function lossAndGradients(model: MaTVLM, loss: () => Tensor) {
  return { value: await valueOf(loss), grads: await takeGradients(model.parameters) };
}

/** Fails unless the same parameters have a gradient, each at most so far off, relative to its norm. */
export function sameGradients(got: Values, want: Values, most: number): void {
  assert.equal([...got.keys()].sort(), [...want.keys()].sort());
  const floor = 1e-3 * norm([...want.values()].map(norm));
  for (const [name, values] of want) {
    const error = relativeError(got.get(name)!, values, floor);
    assert.ok(error < most, `${name} differs by ${error}`);
  }
}

/** All weights of a model, by name. */
export async function weightsOf(model: MaTVLM): Promise<Map<string, HostArray>> {
  const all = new Map<string, HostArray>();
  for (const [name, tensor] of model.parameters) all.set(name, (await tensor.data()).slice());
  return all;
}
