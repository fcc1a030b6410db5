import { ArgumentError } from '../../engine/errors.ts';
import * as tape from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { add } from './binary.ts';
import { clone } from './copy.ts';
import { ones } from './fill.ts';

/** What the tape does with gradients. */
const arithmetic: tape.Arithmetic = { add, clone };

/**
 * Gradients of `root` for every leaf that requires one, added to its `.grad`.
 * @param grad gradient of `root`; ones when absent, which asks for a scalar
 * @throws ArgumentError when `root` is no scalar and no gradient is given
 */
export function backward(root: Tensor, grad?: Tensor): void {
  if (!grad && root.size !== 1) throw new ArgumentError(`backward: ${root} is no scalar; give the gradient to start from`);
  backwardFrom([root], [grad ?? ones(root.backend, root.shape, root.dtype)]);
}

/** `backward` of several roots at once, each with its gradient. @throws as `tape.backwardFrom` */
export function backwardFrom(roots: readonly Tensor[], grads: readonly Tensor[]): void {
  tape.backwardFrom(roots, grads, arithmetic);
}

/** Keeps only `inputs` until backward, which runs `body` again: see `tape.checkpoint`. */
export function checkpoint(
  body: (inputs: Tensor[]) => Tensor[],
  inputs: readonly Tensor[],
  replay?: <T>(run: () => T) => T,
): Tensor[] {
  return tape.checkpoint(body, inputs, arithmetic, replay);
}
