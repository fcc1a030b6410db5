import { expectFinite } from '../../engine/arguments.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply, defineOp } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectShape } from '../common/shapes.ts';

interface AdamWAttrs {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

const WG = 256;
/** Elements of a thread, which share the bias corrections. */
const EACH = 4;

const UPDATE = /* wgsl */ `${FLAT_INDEX}
// 1 − βᵗ = −expm1(t·ln β), by its series where 1 − e^x would lose its digits.
fn correction(t: f32, log_beta: f32) -> f32 {
  let x = t * log_beta;
  if (x < -0.5) { return 1.0 - exp(x); }
  var series = 1.0;
  for (var k = 9.0; k > 1.5; k -= 1.0) { series = 1.0 + x / k * series; }
  return -x * series;
}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let first = flat_index(group, groups, local, WG * EACH);
  if (first == 0u) { next[0] = step[0] + stats[2]; }
  if (stats[2] == 0.0) { return; }
  let correction1 = correction(step[0] + 1.0, params.log1);
  let correction2 = correction(step[0] + 1.0, params.log2);
  for (var j = 0u; j < EACH; j++) {
    let i = first + j * WG;
    if (i >= params.n) { return; }
    let g = grads[i] * stats[1];
    let m = params.beta1 * ms[i] + params.rest1 * g;
    let v = params.beta2 * vs[i] + params.rest2 * g * g;
    ms[i] = m;
    vs[i] = v;
    let change = m / correction1 / (sqrt(v / correction2) + params.eps);
    values[i] -= params.lr * (params.decay * values[i] + change);
  }
}`;

/** ln β where β may be 0. */
const logOf = (beta: number) => Math.max(Math.log(beta), -1000);

/** The first four have one shape. */
const INPUTS = ['param', 'grad', 'm', 'v', 'step', 'next', 'stats'] as const;

const adamwOp = /* @__PURE__ */ defineOp<AdamWAttrs>({
  name: 'adamw',
  mutates: [0, 2, 3, 5],
  shape(inputs, { lr, betas, eps, weightDecay }) {
    for (const beta of betas) expectFinite('adamw', 'a beta', beta, 0, 1 - Number.EPSILON);
    expectFinite('adamw', 'lr', lr, 0);
    expectFinite('adamw', 'eps', eps, 0);
    expectFinite('adamw', 'weightDecay', weightDecay, 0);
    inputs.forEach((t, i) => {
      expectDType('adamw', INPUTS[i], t.dtype, 'f32');
      expectShape('adamw', INPUTS[i], t, i < 4 ? inputs[0].shape : INPUTS[i] === 'stats' ? [3] : []);
    });
    return [];
  },
  reference({ inputs: [param, grad, m, v, step, next, stats], attrs: { lr, betas, eps, weightDecay } }) {
    const [, clip, finite] = stats.data;
    next.data[0] = step.data[0] + finite;
    if (finite === 0) return;
    const [beta1, beta2] = betas;
    const t = next.data[0];
    const [correction1, correction2] = betas.map((beta) => -Math.expm1(t * Math.log(beta)));
    for (let i = 0; i < param.size; i++) {
      const g = grad.data[i] * clip;
      m.data[i] = beta1 * m.data[i] + (1 - beta1) * g;
      v.data[i] = beta2 * v.data[i] + (1 - beta2) * g * g;
      const change = m.data[i] / correction1 / (Math.sqrt(v.data[i] / correction2) + eps);
      param.data[i] -= lr * (weightDecay * param.data[i] + change);
    }
  },
  webgpu({ inputs: [param, grad, m, v, step, next, stats], attrs: { lr, betas: [beta1, beta2], eps, weightDecay } }) {
    const kernel = shader('adamw', () => ({
      reads: { grads: 'f32', step: 'f32', stats: 'f32' },
      writes: { values: 'f32', ms: 'f32', vs: 'f32', next: 'f32' },
      params: {
        ...{ n: 'u32', lr: 'f32', eps: 'f32', decay: 'f32' },
        ...{ beta1: 'f32', rest1: 'f32', log1: 'f32', beta2: 'f32', rest2: 'f32', log2: 'f32' },
      },
      constants: { WG, EACH },
      code: UPDATE,
    }));
    const decays = [beta1, 1 - beta1, logOf(beta1), beta2, 1 - beta2, logOf(beta2)];
    const args = [grad, step, stats, param, m, v, next];
    const params = [param.size, lr, eps, weightDecay, ...decays];
    return [{ shader: kernel, args, params, grid: grid1d(param.size, WG * EACH) }];
  },
  wasm({ inputs: [param, grad, m, v, step, next, stats], attrs: { lr, betas, eps, weightDecay }, k }) {
    const tensors = [param.ptr, grad.ptr, m.ptr, v.ptr, step.ptr, next.ptr, stats.ptr] as const;
    k.adamw(...tensors, param.size, lr, ...betas, eps, weightDecay);
    return true;
  },
});

export interface AdamWStep {
  readonly param: Tensor;
  readonly grad: Tensor;
  /** First and second moment, of the parameter's shape. */
  readonly m: Tensor;
  readonly v: Tensor;
  /** f32 []: the updates that the parameter has had, which the bias correction goes by. */
  readonly step: Tensor;
  /** f32 []: becomes what `step` is to be in the next call. */
  readonly next: Tensor;
  /** What `gradNorm` gave: the clip scale, and whether the step is to be taken at all. */
  readonly stats: Tensor;
  readonly lr: number;
  /** Decay rates of the moments, each at least 0 and less than 1. */
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

/**
 * One AdamW step in place, all tensors f32 (Loshchilov and Hutter 2019, as torch computes it). Where `stats` says that
 * a gradient or the loss is not finite nothing changes, neither parameter nor moments, and `next` is `step`.
 */
export function adamwStep({ param, grad, m, v, step, next, stats, ...attrs }: AdamWStep): void {
  apply(adamwOp, [param, grad, m, v, step, next, stats], attrs);
}
