import type { Tensor } from '../../engine/tensor.ts';
import { dropout } from '../../ops/index.ts';

/**
 * The dropout of a training step, which draws anew at every call. All that it draws follows from a key on the device and
 * the number of the call, so that a step that is replayed with another key draws other elements.
 */
export class Dropout {
  /** How often it was called; set back, it draws the same again. */
  calls = 0;

  /** @param key u32 [], as `dropout` takes it */
  constructor(private readonly key: Tensor) {}

  /** Zeroes each element of x with probability p and scales the others by 1/(1 − p). */
  forward(x: Tensor, p: number): Tensor {
    return dropout(x, p, this.calls++, this.key);
  }
}
