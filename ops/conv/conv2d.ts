import { expectWhole } from '../../engine/arguments.ts';
import { elements } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { scoped } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank, expectShape, show } from '../common/shapes.ts';
import { add } from '../elementwise/binary.ts';
import { linear } from '../gemm/linear.ts';
import { matmul } from '../gemm/matmul.ts';
import { reshape } from '../movement/reshape.ts';
import { permute } from '../movement/view.ts';
import { channelsFirst, unfold, type WindowOptions } from './windows.ts';

export interface Conv2dOptions extends WindowOptions {
  /** Default 1: the channels of x and of the result are cut into so many groups, each convolved by itself. */
  readonly groups?: number;
}

/** As for `conv2d`, of one dimension. */
export type Conv1dOptions = { readonly [K in keyof Conv2dOptions]?: number };

/**
 * 2-D convolution (cross-correlation, as torch): x (B, C, H, W), weight (O, C/groups, kh, kw), bias (O) or null →
 * (B, O, rows, columns), of x's dtype. Windows are unfolded and multiplied, which for patches without overlap copies
 * nothing twice. Differentiable in all of them.
 * @throws ArgumentError unless strides, dilations and groups are whole numbers ≥ 1 and paddings ≥ 0; ShapeError where
 *   shapes do not fit
 */
export const conv2d = /* @__PURE__ */ scoped((x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions = {}): Tensor => {
  const { groups = 1 } = options;
  expectRank('conv2d', 'weight', weight, 4);
  expectWhole('conv2d', 'groups', groups, 1);
  const [out, channels, kh, kw] = weight.shape;
  const patches = unfold('conv2d', x, [kh, kw], options);
  if (x.shape[1] !== channels * groups || out % groups !== 0) {
    throw new ShapeError(`conv2d: x ${show(x.shape)} does not fit weight ${show(weight.shape)} in ${groups} groups`);
  }
  if (bias) expectShape('conv2d', 'bias', bias, [out]);
  const size = channels * kh * kw;
  const windows = patches.shape.slice(0, 3);
  if (groups === 1) {
    return channelsFirst(linear(reshape(patches, [...windows, size]), reshape(weight, [out, size]), bias));
  }
  // (windows, groups, size) · (groups, size, O/groups), the groups being the batch of a product.
  const own = permute(reshape(patches, [elements(windows), groups, size]), [1, 0, 2]);
  const products = matmul(own, permute(reshape(weight, [groups, out / groups, size]), [0, 2, 1]));
  const y = reshape(permute(products, [1, 0, 2]), [...windows, out]);
  return channelsFirst(bias ? add(y, bias) : y);
});

/**
 * 1-D convolution: x (B, C, L), weight (O, C/groups, K), bias (O) or null → (B, O, positions), of x's dtype; otherwise
 * as `conv2d`.
 */
export const conv1d = /* @__PURE__ */ scoped((x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv1dOptions = {}): Tensor => {
  expectRank('conv1d', 'x', x, 3);
  expectRank('conv1d', 'weight', weight, 3);
  const { stride = 1, padding = 0, dilation = 1, groups } = options;
  const flat = ({ shape: [first, second, last] }: Tensor) => [first, second, 1, last];
  const how = { stride, padding: [0, padding], dilation, groups } as const;
  const y = conv2d(reshape(x, flat(x)), reshape(weight, flat(weight)), bias, how);
  return reshape(y, [y.shape[0], y.shape[1], y.shape[3]]);
});
