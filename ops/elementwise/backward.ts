import { ArgumentError } from '../../engine/errors.ts';
import { backwardFrom } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { add } from './binary.ts';
import { ones } from './fill.ts';

/**
 * Gradients of `root` for every leaf that requires one, added to its `.grad`.
 * @param grad gradient of `root`; ones when absent, which asks for a scalar
 * @throws ArgumentError when `root` is no scalar and no gradient is given
 */
export function backward(root: Tensor, grad?: Tensor): void {
  if (!grad && root.size !== 1) throw new ArgumentError(`backward: ${root} is no scalar; give the gradient to start from`);
  backwardFrom([root], [grad ?? ones(root.backend, root.shape, root.dtype)], add);
}
