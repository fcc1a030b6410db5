import { accessor } from '../../engine/access.ts';
import { apply } from '../../engine/apply.ts';
import { type GpuPlanner, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { EXP_SUM } from '../common/exp-sum.ts';
import { around, eachLine, normalizeDim } from '../common/shapes.ts';
import { type Fold, FOLD_MAIN, FOLD_PARAMS, foldWgsl } from './fold.ts';
import { layoutOf, variantFor, WORKGROUP } from './variants.ts';

interface SoftmaxAttrs {
  readonly dim: number;
}

/** What a kernel folds each line to, as `total`, and what it then writes for place `i`. */
interface Kernel {
  readonly fold: Fold;
  readonly load: string;
  readonly result: string;
}

/** The largest value with the sum of exponentials relative to it. */
const EXPONENTIALS: Fold = {
  acc: 'vec2<f32>',
  lift: 'vec2(v, 1.0)',
  join: 'join_exp(a, b, 1.0)',
  four: 'exp_sum(vec4(a, b, c, d))',
  helpers: /* wgsl */ `${EXP_SUM}
fn exp_sum(v: vec4<f32>) -> vec2<f32> {
  let m = max(max(v.x, v.y), max(v.z, v.w));
  return vec2(m, exp_above(v.x, m, 1.0) + exp_above(v.y, m, 1.0) + exp_above(v.z, m, 1.0) + exp_above(v.w, m, 1.0));
}
`,
};
const SUM: Fold = { acc: 'f32', lift: 'v', join: 'a + b' };

type Name = 'softmax' | 'log_softmax';
const KERNELS: Record<Name | `${Name}_backward`, Kernel> = {
  softmax: { fold: EXPONENTIALS, load: 'load_x(i)', result: 'exp(load_x(i) - total.x) / total.y' },
  log_softmax: { fold: EXPONENTIALS, load: 'load_x(i)', result: '(load_x(i) - total.x) - log(total.y)' },
  softmax_backward: { fold: SUM, load: 'load_y(i) * load_dy(i)', result: 'load_y(i) * (load_dy(i) - total)' },
  log_softmax_backward: { fold: SUM, load: 'load_dy(i)', result: 'load_dy(i) - exp(load_y(i)) * total' },
};

/** Reads each line twice: for what it folds to, and to write the results. */
function launch(name: keyof typeof KERNELS, inputs: Record<string, Slot>, out: Slot, dim: number, { caps }: GpuPlanner): Launch {
  const { outer, length, inner } = around(out.shape, dim);
  const variant = variantFor({ lines: outer * inner, length, inner });
  const reads = Object.fromEntries(Object.entries(inputs).map(([n, { dtype }]) => [n, accessor(accessOf(dtype, caps), false)]));
  const stored = Object.values(reads).map(({ key }) => key).join();
  const kernel = shader(`${name}.${stored}.${variant.name}`, () => {
    const { fold, load, result } = KERNELS[name];
    return {
      reads,
      writes: { out: 'f32' },
      params: FOLD_PARAMS,
      constants: layoutOf(variant),
      code: /* wgsl */ `${foldWgsl(fold, { type: 'f32', load })}
fn result(i: u32, total: Acc) -> f32 { return ${result}; }
${FOLD_MAIN} {
  let at = place_of(group, groups, local);
  let total = fold_line(at, local);
  let step = LANES * params.inner;
  var k = at.lane;
  for (; k + 3u * LANES < at.end; k += 4u * LANES) {
    let i = at.base + k * params.inner;
    let v = vec4(result(i, total), result(i + step, total), result(i + 2u * step, total), result(i + 3u * step, total));
    out[i] = v.x;
    out[i + step] = v.y;
    out[i + 2u * step] = v.z;
    out[i + 3u * step] = v.w;
  }
  for (; k < at.end; k += LANES) {
    let i = at.base + k * params.inner;
    out[i] = result(i, total);
  }
}`,
    };
  });
  const params = [outer * inner, length, inner, length];
  const args = [...Object.values(inputs), out];
  return { shader: kernel, args, params, grid: grid1d(outer * inner * variant.lanes, WORKGROUP) };
}

function softmaxLoops(x: HostArg, y: HostArg, dim: number, log: boolean): void {
  eachLine(x.shape, dim, (base, step, length) => {
    let max = -Infinity;
    for (let k = 0; k < length; k++) max = Math.max(max, x.data[base + k * step]);
    let sum = 0;
    for (let k = 0; k < length; k++) sum += Math.exp(x.data[base + k * step] - max);
    for (let i = base, k = 0; k < length; k++, i += step) {
      y.data[i] = log ? x.data[i] - max - Math.log(sum) : Math.exp(x.data[i] - max) / sum;
    }
  });
}

function backwardLoops(y: HostArg, dy: HostArg, dx: HostArg, dim: number, log: boolean): void {
  eachLine(y.shape, dim, (base, step, length) => {
    let sum = 0;
    for (let i = base, k = 0; k < length; k++, i += step) sum += log ? dy.data[i] : y.data[i] * dy.data[i];
    for (let i = base, k = 0; k < length; k++, i += step) {
      dx.data[i] = log ? dy.data[i] - Math.exp(y.data[i]) * sum : y.data[i] * (dy.data[i] - sum);
    }
  });
}

function softmaxOp(name: Name) {
  const log = name === 'log_softmax';
  const backward = `${name}_backward` as const;
  const backwardOp = defineOp({
    name: backward,
    inputs: ['y', 'dy'],
    outputs: ['dx'],
    asStored: { webgpu: ['y', 'dy'] },
    shape: ({ y }, _: SoftmaxAttrs) => ({ dx: spec(y.shape, y.dtype) }),
    reference: ({ y, dy }, { dx }, { dim }) => backwardLoops(y, dy, dx, dim, log),
    webgpu: (inputs, { dx }, { dim }, device) => [launch(backward, inputs, dx, dim, device)],
    wasm({ y, dy }, { dx }, { dim }, { k }) {
      const { outer, length, inner } = around(y.shape, dim);
      if (inner === 1) k[backward](y, dy, dx, outer, length);
      return inner === 1;
    },
  });
  return defineOp({
    name,
    inputs: ['x'],
    outputs: ['y'],
    asStored: { webgpu: ['x'] },
    shape({ x }, _: SoftmaxAttrs) {
      expectDType(name, 'x', x.dtype, ...FLOATS);
      return { y: spec(x.shape, x.dtype) };
    },
    reference: ({ x }, { y }, { dim }) => softmaxLoops(x, y, dim, log),
    webgpu: (inputs, { y }, { dim }, device) => [launch(name, inputs, y, dim, device)],
    wasm({ x }, { y }, { dim }, { k }) {
      const { outer, length, inner } = around(x.shape, dim);
      if (inner === 1) k[name](x, y, outer, length);
      return inner === 1;
    },
    saves: ['y'],
    backward: ({ saved: { y }, grads, attrs }) => ({ x: apply(backwardOp, { y, dy: grads.y! }, attrs).dx }),
  });
}

const softmaxOps = /* @__PURE__ */ { softmax: softmaxOp('softmax'), log_softmax: softmaxOp('log_softmax') };

/** exp(x) / Σ exp(x) along `dim`: floats of any shape → the same shape and dtype. */
export function softmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.softmax, { x }, { dim: normalizeDim('softmax', dim, x.shape.length) }).y;
}

/** x - log Σ exp(x) along `dim`: floats of any shape → the same shape and dtype. */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.log_softmax, { x }, { dim: normalizeDim('log_softmax', dim, x.shape.length) }).y;
}
