import type { DType } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { cast } from './cast.ts';

function isHalf(dtype: DType): boolean {
  return dtype === 'f16' || dtype === 'bf16';
}

/**
 * Runs a function of f32 tensors on floats of any width. f16 and bf16 are widened first, and the result is narrowed
 * again where all inputs had that dtype; otherwise it stays f32, as torch has it. Gradients pass through the casts.
 */
export function inFloat32(inputs: readonly Tensor[], run: (inputs: readonly Tensor[]) => Tensor): Tensor {
  if (!inputs.some((x) => isHalf(x.dtype))) return run(inputs);
  const [{ dtype }] = inputs;
  const alike = inputs.every((x) => x.dtype === dtype);
  return scope(() => {
    const y = run(inputs.map((x) => (isHalf(x.dtype) ? cast(x, 'f32') : x)));
    return alike ? cast(y, dtype) : y;
  });
}
