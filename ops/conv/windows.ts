import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import type { Scalar } from '../../engine/backends/webgpu/launch.ts';
import { byteLength, expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectRank, show } from '../common/shapes.ts';

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
  /** Shape of the image, (B, C, H, W). */
  readonly image: readonly number[];
  readonly kernel: Both;
  readonly stride: Both;
  readonly padding: Both;
  readonly dilation: Both;
  /** What is seen outside the image. */
  readonly outside: number;
}

/** Rows and columns of windows. */
export function gridOf({ image, kernel, stride, padding, dilation }: Omit<Windows, 'outside'>): Both {
  const along = (d: 0 | 1) =>
    Math.floor((image[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d]) + 1;
  return [along(0), along(1)];
}

export const both = (value: Pair): Both => (typeof value === 'object' ? value : [value, value]);

/**
 * @throws ArgumentError unless strides and dilations are whole numbers ≥ 1 and paddings ≥ 0; ShapeError unless x is
 *   (B, C, H, W) and has room for a window
 */
export function windowsOf(
  op: string,
  x: Spec,
  kernel: Both,
  { stride = 1, padding = 0, dilation = 1 }: WindowOptions,
  outside = 0,
): Windows {
  expectDType(op, 'x', x.dtype, ...FLOATS);
  expectRank(op, 'x', x, 4);
  const given = { stride: both(stride), padding: both(padding), dilation: both(dilation) };
  for (const d of [0, 1] as const) {
    expectWhole(op, 'stride', given.stride[d], 1);
    expectWhole(op, 'padding', given.padding[d]);
    expectWhole(op, 'dilation', given.dilation[d], 1);
  }
  const windows = { image: x.shape, kernel, ...given, outside };
  if (!gridOf(windows).every((n) => n >= 1)) {
    const how = `stride ${given.stride}, padding ${given.padding}, dilation ${given.dilation}`;
    throw new ShapeError(`${op}: x ${show(x.shape)} has no room for a kernel ${show(kernel)}, ${how}`);
  }
  return windows;
}

/** Calls back for each element of the unfolded tensor with the pixel it reads, −1 outside the image. */
function eachTap(windows: Windows, visit: (at: number, pixel: number) => void): void {
  const { image: [batch, channels, height, width], kernel, stride, padding, dilation } = windows;
  const [rows, columns] = gridOf(windows);
  const patch = channels * kernel[0] * kernel[1];
  for (let at = 0; at < batch * rows * columns * patch; at++) {
    const [window, tap] = [Math.floor(at / patch), at % patch];
    const [b, row, column] = [Math.floor(window / rows / columns), Math.floor(window / columns) % rows, window % columns];
    const [c, dy, dx] = [Math.floor(tap / kernel[0] / kernel[1]), Math.floor(tap / kernel[1]) % kernel[0], tap % kernel[1]];
    const y = row * stride[0] + dy * dilation[0] - padding[0];
    const x = column * stride[1] + dx * dilation[1] - padding[1];
    const inside = y >= 0 && x >= 0 && y < height && x < width;
    visit(at, inside ? ((b * channels + c) * height + y) * width + x : -1);
  }
}

/** What both kernels are told. */
function shared(windows: Windows) {
  const { image: [, channels, height, width], kernel, stride, padding, dilation } = windows;
  const [rows, columns] = gridOf(windows);
  const pairs = { kernel, stride, padding, dilation };
  const named = { channels, height, width, rows, columns };
  const split = Object.entries(pairs).flatMap(([name, [y, x]]) => [[`${name}_y`, y], [`${name}_x`, x]] as const);
  return Object.fromEntries([...Object.entries(named), ...split].map(([name, value]) => [name, ['u32', value] as const]));
}

/** (B, C, H, W) → (B, rows·columns, C·kh·kw): what each window sees. */
const unfoldOp: Op<Windows, 'x', 'y'> = /* @__PURE__ */ defineOp({
  name: 'unfold',
  inputs: ['x'],
  outputs: ['y'],
  shape({ x }, windows: Windows) {
    const [rows, columns] = gridOf(windows);
    return { y: spec([x.shape[0], rows * columns, x.shape[1] * windows.kernel[0] * windows.kernel[1]], x.dtype) };
  },
  reference({ x }, { y }, windows) {
    eachTap(windows, (at, pixel) => {
      y.data[at] = pixel < 0 ? windows.outside : x.data[pixel];
    });
  },
  webgpu: ({ x }, { y }, windows, device) => [
    launchElements(y.size, {
      key: 'unfold',
      reads: { image: x },
      writes: { patches: y },
      params: { ...shared(windows), outside: ['f32' as Scalar, windows.outside] },
      body: () => /* wgsl */ `let dx = i % params.kernel_x;
  let dy = i / params.kernel_x % params.kernel_y;
  let c = i / params.kernel_x / params.kernel_y % params.channels;
  let window = i / params.kernel_x / params.kernel_y / params.channels;
  let y = i32(window / params.columns % params.rows * params.stride_y + dy * params.dilation_y) - i32(params.padding_y);
  let x = i32(window % params.columns * params.stride_x + dx * params.dilation_x) - i32(params.padding_x);
  let plane = (window / params.columns / params.rows * params.channels + c) * params.height;
  var seen = params.outside;
  if (y >= 0 && x >= 0 && y < i32(params.height) && x < i32(params.width)) {
    seen = load_image((plane + u32(y)) * params.width + u32(x));
  }
  store_patches(i, seen);`,
    }, device),
  ],
  wasm({ x }, { y }, windows, { k }) {
    const { image: [batch, channels, height, width], kernel: [kh, kw], stride, padding, dilation } = windows;
    if (padding[0] > 0 || padding[1] > 0) return false;
    const [rows, columns] = gridOf(windows);
    const size = channels * kh * kw;
    const bytes = byteLength(x.dtype, 1);
    const from = [stride[1], height * width, width * dilation[0], dilation[1]] as const;
    const to = [size, kh * kw, kw, 1] as const;
    for (let i = 0; i < batch * rows; i++) {
      const begin = at(x, bytes * (Math.floor(i / rows) * channels * height + (i % rows) * stride[0]) * width);
      const end = at(y, bytes * i * columns * size);
      k.strided_copy(begin, end, bytes, columns, channels, kh, kw, ...from, ...to, undefined, 0, 0);
    }
    return true;
  },
  asStored: { webgpu: ['x'], wasm: ['x', 'y'] },
  backward: ({ attrs, grads }) => ({ x: apply(foldOp, { y: grads.y! }, attrs).x }),
});

/** The adjoint of unfold: each pixel sums what the windows hold of it. */
const foldOp: Op<Windows, 'y', 'x'> = /* @__PURE__ */ defineOp({
  name: 'fold',
  inputs: ['y'],
  outputs: ['x'],
  shape: ({ y }, { image }: Windows) => ({ x: spec(image, y.dtype) }),
  reference({ y }, { x }, windows) {
    x.data.fill(0);
    eachTap(windows, (at, pixel) => {
      if (pixel >= 0) x.data[pixel] += y.data[at];
    });
  },
  webgpu: ({ y }, { x }, windows, device) => [
    launchElements(x.size, {
      key: 'fold',
      reads: { patches: y },
      writes: { image: x },
      params: shared(windows),
      body: () => /* wgsl */ `let x = i % params.width + params.padding_x;
  let y = i / params.width % params.height + params.padding_y;
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
    }, device),
  ],
  asStored: { webgpu: ['y'] },
  backward: ({ attrs, grads }) => ({ y: apply(unfoldOp, { x: grads.x! }, { ...attrs, outside: 0 }).y }),
});

/** (B, C, H, W) → (B, rows·columns, C·kh·kw): what each window of a convolution or of pooling sees. */
export function unfold(x: Tensor, windows: Windows): Tensor {
  return apply(unfoldOp, { x }, windows).y;
}
