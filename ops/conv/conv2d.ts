import { expectWhole } from '../../engine/arguments.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank, expectShape, show } from '../common/shapes.ts';
import { add } from '../elementwise/binary.ts';
import { linear } from '../gemm/linear.ts';
import { matmul } from '../gemm/matmul.ts';
import { reshape } from '../movement/reshape.ts';
import { permute } from '../movement/view.ts';
import { unfold, type WindowOptions } from './windows.ts';

export interface Conv2dOptions extends WindowOptions {
  /** Default 1: the channels of x and of the result are cut into so many groups, each convolved by itself. */
  readonly groups?: number;
}

export interface Conv1dOptions {
  /** Default 1. */
  readonly stride?: number;
  /** Default 0. */
  readonly padding?: number;
  /** Default 1. */
  readonly dilation?: number;
  /** As for `conv2d`. */
  readonly groups?: number;
}

/**
 * 2-D convolution (cross-correlation, as torch): x (B, C, H, W), weight (O, C/groups, kh, kw), bias (O) or null →
 * (B, O, rows, columns), of x's dtype. Windows are unfolded and multiplied, which for patches without overlap copies
 * nothing twice. Differentiable in all of them.
 * @throws ArgumentError unless strides, dilations and groups are whole numbers ≥ 1 and paddings ≥ 0; ShapeError where
 *   shapes do not fit
 */
export function conv2d(x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions = {}): Tensor {
  const { groups = 1 } = options;
  expectRank('conv2d', 'weight', weight, 4);
  expectWhole('conv2d', 'groups', groups, 1);
  const [out, channels, kh, kw] = weight.shape;
  const { patches, grid } = unfold('conv2d', x, [kh, kw], options);
  if (x.shape[1] !== channels * groups || out % groups !== 0) {
    throw new ShapeError(`conv2d: x ${show(x.shape)} does not fit weight ${show(weight.shape)} in ${groups} groups`);
  }
  if (bias) expectShape('conv2d', 'bias', bias, [out]);
  const size = channels * kh * kw;
  const image = [x.shape[0], out, ...grid];
  if (groups === 1) {
    const y = linear(patches, reshape(weight, [out, size]), bias);
    return reshape(permute(y, [0, 2, 1]), image);
  }
  // (B, windows, groups, size) · (groups, size, O/groups), the groups being the batch of a product.
  const own = permute(reshape(patches, [x.shape[0] * patches.shape[1], groups, size]), [1, 0, 2]);
  const products = matmul(own, permute(reshape(weight, [groups, out / groups, size]), [0, 2, 1]));
  const y = reshape(permute(products, [1, 0, 2]), [...patches.shape.slice(0, 2), out]);
  return reshape(permute(bias ? add(y, bias) : y, [0, 2, 1]), image);
}

/**
 * 1-D convolution: x (B, C, L), weight (O, C/groups, K), bias (O) or null → (B, O, positions), of x's dtype; otherwise
 * as `conv2d`.
 */
export function conv1d(x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv1dOptions = {}): Tensor {
  expectRank('conv1d', 'x', x, 3);
  expectRank('conv1d', 'weight', weight, 3);
  const { stride = 1, padding = 0, dilation = 1, groups } = options;
  const flat = ({ shape: [first, second, last] }: Tensor) => [first, second, 1, last];
  const how = { stride, padding: [0, padding], dilation, groups } as const;
  const y = conv2d(reshape(x, flat(x)), reshape(weight, flat(weight)), bias, how);
  return reshape(y, [y.shape[0], y.shape[1], y.shape[3]]);
}
