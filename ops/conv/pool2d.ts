import { ArgumentError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { gather } from '../movement/gather.ts';
import { reshape } from '../movement/reshape.ts';
import { argmax, mean } from '../reduce/reduce.ts';
import { both, channelsFirst, type Pair, unfold, type WindowOptions } from './windows.ts';

type Reduce = (windows: Tensor) => Tensor;

/** Reduces what each window of each channel sees, the last dimension of what `reduce` is given. */
function pool(op: string, x: Tensor, kernel: Pair, options: WindowOptions, outside: number, reduce: Reduce): Tensor {
  const size = both(kernel);
  both(options.padding ?? 0).forEach((p, d) => {
    if (2 * p > size[d]) throw new ArgumentError(`${op}: padding ${p} is more than half of the kernel, ${size[d]}`);
  });
  return scope(() => {
    const patches = unfold(op, x, size, { stride: kernel, ...options }, outside);
    return channelsFirst(reduce(reshape(patches, [...patches.shape.slice(0, 4), size[0] * size[1]])));
  });
}

/**
 * The largest of each window of each channel, as torch.nn.functional.max_pool2d: NaN is larger than any number, and the
 * gradient goes to the first of several largest. x (B, C, H, W) → (B, C, rows, columns), of x's dtype.
 * @throws ArgumentError for sizes that are no whole numbers ≥ 1, or a padding that is more than half of the kernel
 */
export function maxPool2d(x: Tensor, kernel: Pair, options: WindowOptions = {}): Tensor {
  return pool('max_pool2d', x, kernel, options, -Infinity, (windows) => {
    const largest = argmax(windows, -1);
    return reshape(gather(windows, -1, reshape(largest, [...largest.shape, 1])), largest.shape);
  });
}

/**
 * The mean of each window of each channel, as torch.nn.functional.avg_pool2d: padding counts as zeros. x (B, C, H, W) →
 * (B, C, rows, columns), of x's dtype.
 * @throws as `maxPool2d`
 */
export function avgPool2d(x: Tensor, kernel: Pair, options: Omit<WindowOptions, 'dilation'> = {}): Tensor {
  return pool('avg_pool2d', x, kernel, options, 0, (windows) => mean(windows, { dim: -1 }));
}
