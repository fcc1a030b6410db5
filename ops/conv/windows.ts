import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectRank, show, strides } from '../common/shapes.ts';
import { pad } from '../movement/pad.ts';
import { viewOp } from '../movement/strided.ts';
import { permute } from '../movement/view.ts';

/** Of height and width, or one number for both. */
export type Pair = number | readonly [height: number, width: number];

/** How a kernel moves over an image. */
export interface WindowOptions {
  /** Default 1; of pooling, the size of the kernel. */
  readonly stride?: Pair;
  /** Rows and columns around the image, default 0. */
  readonly padding?: Pair;
  /** Distance of the pixels of a window, default 1. */
  readonly dilation?: Pair;
}

type Both = readonly [height: number, width: number];

interface Windows {
  /** Shape of the image, (B, C, H, W), with what is around it. */
  readonly image: readonly number[];
  readonly kernel: Both;
  readonly stride: Both;
  readonly dilation: Both;
}

/** Rows and columns of windows. */
function gridOf({ image, kernel, stride, dilation }: Windows): Both {
  const along = (d: 0 | 1) => Math.floor((image[2 + d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d]) + 1;
  return [along(0), along(1)];
}

export const both = (value: Pair): Both => (typeof value === 'object' ? value : [value, value]);

/** What windows see of an image (B, C, H, W): a view of it as (B, rows, columns, C, kh, kw). */
function viewOf(windows: Windows) {
  const { image, kernel, stride, dilation } = windows;
  const [batch, channel, row, pixel] = strides(image);
  return {
    shape: [image[0], ...gridOf(windows), image[1], ...kernel],
    strides: [batch, row * stride[0], pixel * stride[1], channel, row * dilation[0], pixel * dilation[1]],
    offset: 0,
  };
}

const unfoldOp: Op<Windows, 'x', 'y'> = /* @__PURE__ */ viewOp<Windows>(
  'unfold',
  (_, windows) => viewOf(windows),
  ({ attrs, grads }) => ({ x: apply(foldOp, { y: grads.y! }, attrs).x }),
);

/** The adjoint of unfold: each pixel sums what the windows hold of it. */
const foldOp: Op<Windows, 'y', 'x'> = /* @__PURE__ */ defineOp({
  name: 'fold',
  inputs: ['y'],
  outputs: ['x'],
  shape: ({ y }, { image }: Windows) => ({ x: spec(image, y.dtype) }),
  reference({ y }, { x }, windows) {
    const { shape, strides } = viewOf(windows);
    x.data.fill(0);
    for (let i = 0; i < y.size; i++) {
      let pixel = 0;
      for (let d = shape.length - 1, rest = i; d >= 0; rest = Math.floor(rest / shape[d--])) pixel += (rest % shape[d]) * strides[d];
      x.data[pixel] += y.data[i];
    }
  },
  webgpu({ y }, { x }, windows, device) {
    const [rows, columns] = gridOf(windows);
    const { image: [, channels, height, width], kernel, stride, dilation } = windows;
    const taps = { kernel_y: kernel[0], kernel_x: kernel[1], stride_y: stride[0], stride_x: stride[1] };
    const steps = { dilation_y: dilation[0], dilation_x: dilation[1] };
    return [launchElements(device, x.size, {
      key: 'fold',
      reads: { patches: y },
      writes: { image: x },
      params: { rows, columns, channels, height, width, ...taps, ...steps },
      body: () => /* wgsl */ `let x = i % params.width;
  let y = i / params.width % params.height;
  let c = i / params.width / params.height % params.channels;
  let b = i / params.width / params.height / params.channels;
  var sum = 0.0;
  for (var ky = 0u; ky < params.kernel_y; ky++) {
    let row = (y - ky * params.dilation_y) / params.stride_y;
    if (ky * params.dilation_y > y || row >= params.rows) { continue; }
    if (row * params.stride_y + ky * params.dilation_y != y) { continue; }
    for (var kx = 0u; kx < params.kernel_x; kx++) {
      let column = (x - kx * params.dilation_x) / params.stride_x;
      if (kx * params.dilation_x > x || column >= params.columns) { continue; }
      if (column * params.stride_x + kx * params.dilation_x != x) { continue; }
      let window = (b * params.rows + row) * params.columns + column;
      sum += load_patches(((window * params.channels + c) * params.kernel_y + ky) * params.kernel_x + kx);
    }
  }
  store_image(i, sum);`,
    })];
  },
  backward: ({ attrs, grads }) => ({ y: apply(unfoldOp, { x: grads.x! }, attrs).y }),
});

/**
 * What windows that move over an image see of it.
 * @param x (B, C, H, W)
 * @param outside what is seen outside the image
 * @returns (B, rows, columns, C, kh, kw), of x's dtype
 * @throws ArgumentError unless kernel, strides and dilations are whole numbers ≥ 1 and paddings ≥ 0; ShapeError unless x is
 *   (B, C, H, W) and has room for a window
 */
export function unfold(
  op: string,
  x: Tensor,
  kernel: Both,
  { stride = 1, padding = 0, dilation = 1 }: WindowOptions,
  outside = 0,
): Tensor {
  expectDType(op, 'x', x.dtype, ...FLOATS);
  expectRank(op, 'x', x, 4);
  const given = { stride: both(stride), padding: both(padding), dilation: both(dilation) };
  for (const [name, pair] of Object.entries({ kernel, ...given })) {
    for (const value of pair) expectWhole(op, name, value, name === 'padding' ? 0 : 1);
  }
  const { padding: [py, px], ...steps } = given;
  const image = [...x.shape.slice(0, 2), x.shape[2] + 2 * py, x.shape[3] + 2 * px];
  const windows = { image, kernel, ...steps };
  if (!gridOf(windows).every((n) => n >= 1)) {
    const how = Object.entries(given).map(([name, pair]) => `${name} ${pair}`);
    throw new ShapeError(`${op}: x ${show(x.shape)} has no room for a kernel ${show(kernel)}, ${how.join(', ')}`);
  }
  return apply(unfoldOp, { x: py + px > 0 ? pad(x, [px, px, py, py], outside) : x }, windows).y;
}

/** (B, rows, columns, C) → (B, C, rows, columns). */
export const channelsFirst = (x: Tensor): Tensor => permute(x, [0, 3, 1, 2]);
