import type { Spec } from '../../engine/backend.ts';
import { grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, type GpuArg, type HostArg, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { EXP_SUM } from '../common/exp-sum.ts';
import { layoutFor, LINE_WG, LINES } from './lines.ts';
import { around, normalizeDim } from '../common/shapes.ts';
import forwardCode from './softmax.wgsl';
import backwardCode from './softmax_backward.wgsl';

interface SoftmaxAttrs {
  readonly dim: number;
}

type Name = 'softmax' | 'log_softmax';

/** Calls `line` with the index of each line's first element, the step along it and its length. */
function eachLine(x: Spec, dim: number, line: (base: number, step: number, len: number) => void): void {
  const { outer, length, inner } = around(x.shape, dim);
  for (let o = 0; o < outer; o++) for (let c = 0; c < inner; c++) line(o * length * inner + c, inner, length);
}

function softmaxLoops(x: HostArg, y: HostArg, dim: number, log: boolean): void {
  eachLine(x, dim, (base, step, len) => {
    let max = -Infinity;
    for (let k = 0; k < len; k++) max = Math.max(max, x.data[base + k * step]);
    let sum = 0;
    for (let k = 0; k < len; k++) sum += Math.exp(x.data[base + k * step] - max);
    for (let i = base, k = 0; k < len; k++, i += step) {
      y.data[i] = log ? x.data[i] - max - Math.log(sum) : Math.exp(x.data[i] - max) / sum;
    }
  });
}

function backwardLoops(y: HostArg, dy: HostArg, dx: HostArg, dim: number, log: boolean): void {
  eachLine(y, dim, (base, step, len) => {
    let sum = 0;
    for (let i = base, k = 0; k < len; k++, i += step) sum += log ? dy.data[i] : y.data[i] * dy.data[i];
    for (let i = base, k = 0; k < len; k++, i += step) {
      dx.data[i] = log ? dy.data[i] - Math.exp(y.data[i]) * sum : y.data[i] * (dy.data[i] - sum);
    }
  });
}

/** A launch over the lines of `args[0]`, all args being of its shape and the last one written. */
function linesLaunch(
  name: string,
  code: string,
  reads: readonly string[],
  args: readonly GpuArg[],
  dim: number,
): Launch {
  const { outer, length, inner } = around(args[0].shape, dim);
  const lines = outer * inner;
  const layout = layoutFor(length, inner);
  const made = shader(`${name}.${layout.key}`, () => ({
    reads: Object.fromEntries(reads.map((r) => [r, 'f32'])),
    writes: { [reads.includes('dy') ? 'dx' : 'y']: 'f32' },
    params: { lines: 'u32', len: 'u32', inner: 'u32' },
    constants: { ...layout.constants, LOG: name.startsWith('log') ? 1 : 0 },
    code: LINES + EXP_SUM + code,
  }));
  return { shader: made, args, params: [lines, length, inner], grid: grid1d(lines * layout.lanes, LINE_WG) };
}

function softmaxOps(name: Name): Op<SoftmaxAttrs> {
  const log = name === 'log_softmax';
  const backwardOp = defineOp<SoftmaxAttrs>({
    name: `${name}_backward`,
    shape: ([y]) => [spec(y.shape)],
    reference: ({ inputs: [y, dy], outputs: [dx], attrs }) => backwardLoops(y, dy, dx, attrs.dim, log),
    webgpu: ({ inputs: [y, dy], outputs: [dx], attrs }) => [
      linesLaunch(`${name}_backward`, backwardCode, ['y', 'dy'], [y, dy, dx], attrs.dim),
    ],
    wasm({ inputs: [y, dy], outputs: [dx], attrs, k }) {
      const { outer, length, inner } = around(y.shape, attrs.dim);
      if (inner === 1) k[`${name}_backward`](y.ptr, dy.ptr, dx.ptr, outer, length);
      return inner === 1;
    },
  });
  return defineOp<SoftmaxAttrs>({
    name,
    shape([x]) {
      expectDType(name, 'x', x.dtype, 'f32');
      return [spec(x.shape)];
    },
    reference: ({ inputs: [x], outputs: [y], attrs }) => softmaxLoops(x, y, attrs.dim, log),
    webgpu: ({ inputs: [x], outputs: [y], attrs }) => [linesLaunch(name, forwardCode, ['x'], [x, y], attrs.dim)],
    wasm({ inputs: [x], outputs: [y], attrs, k }) {
      const { outer, length, inner } = around(x.shape, attrs.dim);
      if (inner === 1) k[name](x.ptr, y.ptr, outer, length);
      return inner === 1;
    },
    saves: { outputs: [0] },
    backward: ({ output, grads, attrs }) => [apply1(backwardOp, [output(0), grads[0]!], attrs)],
  });
}

export const softmaxOp = /* @__PURE__ */ softmaxOps('softmax');
export const logSoftmaxOp = /* @__PURE__ */ softmaxOps('log_softmax');

/** exp(x) / Σ exp(x) along `dim`: f32 of any shape → the same shape. */
export function softmax(x: Tensor, dim = -1): Tensor {
  return apply1(softmaxOp, [x], { dim: normalizeDim('softmax', dim, x.shape.length) });
}

/** x - log Σ exp(x) along `dim`: f32 of any shape → the same shape. */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return apply1(logSoftmaxOp, [x], { dim: normalizeDim('log_softmax', dim, x.shape.length) });
}
