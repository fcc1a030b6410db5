import type { Tensor } from '../../engine/tensor.ts';

const owned: Tensor[] = [];

/** Hands on a tensor that a test makes outside scopes, and notes it for `freeOwned`. */
export function own(tensor: Tensor): Tensor {
  owned.push(tensor);
  return tensor;
}

/** Frees what `own` was given: after each test. */
export function freeOwned(): void {
  for (const tensor of owned.splice(0)) tensor.dispose();
}
