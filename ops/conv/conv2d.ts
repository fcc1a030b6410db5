import { expectWhole } from '../../engine/arguments.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { linear } from '../gemm/linear.ts';
import { reshape } from '../movement/reshape.ts';
import { expectRank, show } from '../common/shapes.ts';
import { permute } from '../movement/view.ts';

interface Window {
  readonly kernel: readonly [number, number];
  readonly stride: number;
  readonly padding: number;
}

interface Patches extends Window {
  /** Shape of the image: (B, C, H, W). */
  readonly image: readonly number[];
}

function outputSize(image: readonly number[], { kernel, stride, padding }: Window): [number, number] {
  const along = (size: number, k: number) => Math.floor((size + 2 * padding - k) / stride) + 1;
  return [along(image[2], kernel[0]), along(image[3], kernel[1])];
}

const WG = 256;

/** Params of both kernels, in order. */
function paramsOf(n: number, attrs: Patches): number[] {
  const [, channels, height, width] = attrs.image;
  const [rows, columns] = outputSize(attrs.image, attrs);
  return [n, channels, height, width, rows, columns, ...attrs.kernel, attrs.stride, attrs.padding];
}

const PARAMS = {
  n: 'u32', channels: 'u32', height: 'u32', width: 'u32', rows: 'u32', columns: 'u32', kh: 'u32', kw: 'u32',
  stride: 'u32', padding: 'u32',
} as const;

const MAIN = /* wgsl */ `
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  ys[i] = value(i);
}`;

/** (B, C, H, W) → (B, rows·columns, C·kh·kw): what each window sees, zero outside the image. */
const unfoldOp: Op<Patches> = /* @__PURE__ */ defineOp<Patches>({
  name: 'unfold',
  shape([x], attrs) {
    const [rows, columns] = outputSize(x.shape, attrs);
    return [spec([x.shape[0], rows * columns, x.shape[1] * attrs.kernel[0] * attrs.kernel[1]])];
  },
  reference({ inputs: [x], outputs: [y], attrs }) {
    eachTap(attrs, (at, image) => {
      y.data[at] = image < 0 ? 0 : x.data[image];
    });
  },
  webgpu({ inputs: [x], outputs: [y], attrs }) {
    const kernel = shader('unfold', () => ({
      reads: { xs: 'f32' },
      writes: { ys: 'f32' },
      params: PARAMS,
      constants: { WG },
      code: /* wgsl */ `${FLAT_INDEX}
fn value(i: u32) -> f32 {
  let dx = i % params.kw;
  let dy = (i / params.kw) % params.kh;
  let c = (i / (params.kw * params.kh)) % params.channels;
  let window = i / (params.kw * params.kh * params.channels);
  let column = window % params.columns;
  let row = (window / params.columns) % params.rows;
  let b = window / (params.columns * params.rows);
  let y = i32(row * params.stride + dy) - i32(params.padding);
  let x = i32(column * params.stride + dx) - i32(params.padding);
  if (y < 0 || x < 0 || y >= i32(params.height) || x >= i32(params.width)) { return 0.0; }
  return xs[((b * params.channels + c) * params.height + u32(y)) * params.width + u32(x)];
}
${MAIN}`,
    }));
    return [{ shader: kernel, args: [x, y], params: paramsOf(y.size, attrs), grid: grid1d(y.size, WG) }];
  },
  wasm({ inputs: [x], outputs: [y], attrs, k }) {
    if (attrs.padding > 0) return false;
    const [batch, channels, height, width] = attrs.image;
    const [kh, kw] = attrs.kernel;
    const [rows, columns] = outputSize(attrs.image, attrs);
    const size = channels * kh * kw;
    const [from, to] = [[attrs.stride, height * width, width, 1] as const, [size, kh * kw, kw, 1] as const];
    for (let i = 0; i < batch * rows; i++) {
      const at = (Math.floor(i / rows) * channels * height + (i % rows) * attrs.stride) * width;
      k.strided_copy(x.ptr + at * 4, y.ptr + i * columns * size * 4, 4, columns, channels, kh, kw, ...from, ...to, 0, 0, 0);
    }
    return true;
  },
  backward: ({ attrs, grads }) => [apply1(foldOp, [grads[0]!], attrs)],
});

/** The adjoint of unfold: each pixel sums what the windows hold of it. */
const foldOp: Op<Patches> = /* @__PURE__ */ defineOp<Patches>({
  name: 'fold',
  shape: (_, attrs) => [spec(attrs.image)],
  reference({ inputs: [y], outputs: [x], attrs }) {
    x.data.fill(0);
    eachTap(attrs, (at, image) => {
      if (image >= 0) x.data[image] += y.data[at];
    });
  },
  webgpu({ inputs: [y], outputs: [x], attrs }) {
    const kernel = shader('fold', () => ({
      reads: { xs: 'f32' },
      writes: { ys: 'f32' },
      params: PARAMS,
      constants: { WG },
      code: /* wgsl */ `${FLAT_INDEX}
fn value(i: u32) -> f32 {
  let x = i % params.width + params.padding;
  let y = (i / params.width) % params.height + params.padding;
  let c = (i / (params.width * params.height)) % params.channels;
  let b = i / (params.width * params.height * params.channels);
  var sum = 0.0;
  for (var dy = 0u; dy < min(params.kh, y + 1u); dy++) {
    let row = (y - dy) / params.stride;
    if (row >= params.rows || row * params.stride + dy != y) { continue; }
    for (var dx = 0u; dx < min(params.kw, x + 1u); dx++) {
      let column = (x - dx) / params.stride;
      if (column >= params.columns || column * params.stride + dx != x) { continue; }
      let window = (b * params.rows + row) * params.columns + column;
      sum += xs[((window * params.channels + c) * params.kh + dy) * params.kw + dx];
    }
  }
  return sum;
}
${MAIN}`,
    }));
    return [{ shader: kernel, args: [y, x], params: paramsOf(x.size, attrs), grid: grid1d(x.size, WG) }];
  },
  backward: ({ attrs, grads }) => [apply1(unfoldOp, [grads[0]!], attrs)],
});

/** Calls back for each element of the unfolded tensor with the pixel it reads, −1 outside the image. */
function eachTap(attrs: Patches, visit: (at: number, image: number) => void): void {
  const [batch, channels, height, width] = attrs.image;
  const [rows, columns] = outputSize(attrs.image, attrs);
  let at = 0;
  for (let b = 0; b < batch; b++)
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        for (let c = 0; c < channels; c++)
          for (let dy = 0; dy < attrs.kernel[0]; dy++)
            for (let dx = 0; dx < attrs.kernel[1]; dx++) {
              const y = row * attrs.stride + dy - attrs.padding;
              const x = column * attrs.stride + dx - attrs.padding;
              const inside = y >= 0 && x >= 0 && y < height && x < width;
              visit(at++, inside ? ((b * channels + c) * height + y) * width + x : -1);
            }
}

/**
 * 2-D convolution (cross-correlation, as torch): x (B, C, H, W), weight (O, C, kh, kw), bias (O) →
 * (B, O, rows, columns). Windows are unfolded and multiplied, which for patches without overlap copies nothing twice.
 * @throws ArgumentError unless stride is a whole number ≥ 1 and padding one ≥ 0
 */
export function conv2d(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  { stride = 1, padding = 0 }: { stride?: number; padding?: number } = {},
): Tensor {
  expectRank('conv2d', 'x', x, 4);
  expectRank('conv2d', 'weight', weight, 4);
  expectDType('conv2d', 'x', x.dtype, 'f32');
  expectWhole('conv2d', 'stride', stride, 1);
  expectWhole('conv2d', 'padding', padding);
  const [out, channels, kh, kw] = weight.shape;
  const attrs: Patches = { kernel: [kh, kw], stride, padding, image: x.shape };
  const [rows, columns] = outputSize(x.shape, attrs);
  if (x.shape[1] !== channels || rows < 1 || columns < 1) {
    throw new ShapeError(`conv2d: x ${show(x.shape)} does not fit weight ${show(weight.shape)}, stride ${stride}, padding ${padding}`);
  }
  const patches = apply1(unfoldOp, [x], attrs);
  const y = linear(patches, reshape(weight, [out, channels * kh * kw]), bias);
  return reshape(permute(y, [0, 2, 1]), [x.shape[0], out, rows, columns]);
}
