import { apply1 } from '../engine/apply.ts';
import { FLAT_INDEX, grid1d, shader } from '../engine/backends/webgpu/launch.ts';
import { defineOp } from '../engine/op.ts';
import type { Tensor } from '../engine/tensor.ts';
import { expectShape } from './shapes.ts';

interface Decay {
  readonly weightDecay: number;
}

const WG = 256;

const adamwOp = /* @__PURE__ */ defineOp<Decay>({
  name: 'adamw',
  mutates: [0, 2, 3],
  shape([param, grad, m, v, hyper, stats]) {
    for (const [name, t] of Object.entries({ grad, m, v })) expectShape('adamw', name, t, param.shape);
    expectShape('adamw', 'hyper', hyper, [6]);
    expectShape('adamw', 'stats', stats, [3]);
    return [];
  },
  reference({ inputs: [param, grad, m, v, hyper, stats], attrs: { weightDecay } }) {
    const [lr, beta1, beta2, eps, correction1, correction2] = hyper.data;
    const [, clip, finite] = stats.data;
    if (finite === 0) return;
    for (let i = 0; i < param.size; i++) {
      const g = grad.data[i] * clip;
      m.data[i] = beta1 * m.data[i] + (1 - beta1) * g;
      v.data[i] = beta2 * v.data[i] + (1 - beta2) * g * g;
      const step = m.data[i] / correction1 / (Math.sqrt(v.data[i] / correction2) + eps);
      param.data[i] -= lr * (weightDecay * param.data[i] + step);
    }
  },
  webgpu({ inputs: [param, grad, m, v, hyper, stats], attrs: { weightDecay } }) {
    const kernel = shader('adamw', () => ({
      reads: { grads: 'f32', hyper: 'f32', stats: 'f32' },
      writes: { values: 'f32', ms: 'f32', vs: 'f32' },
      params: { n: 'u32', decay: 'f32' },
      constants: { WG },
      code: /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n || stats[2] == 0.0) { return; }
  let g = grads[i] * stats[1];
  let m = hyper[1] * ms[i] + (1.0 - hyper[1]) * g;
  let v = hyper[2] * vs[i] + (1.0 - hyper[2]) * g * g;
  ms[i] = m;
  vs[i] = v;
  let change = (m / hyper[4]) / (sqrt(v / hyper[5]) + hyper[3]);
  values[i] -= hyper[0] * (params.decay * values[i] + change);
}`,
    }));
    const args = [grad, hyper, stats, param, m, v];
    return [{ shader: kernel, args, params: [param.size, weightDecay], grid: grid1d(param.size, WG) }];
  },
  wasm({ inputs: [param, grad, m, v, hyper, stats], attrs: { weightDecay }, k }) {
    k.adamw(param.ptr, grad.ptr, m.ptr, v.ptr, hyper.ptr, stats.ptr, param.size, weightDecay);
    return true;
  },
});

export interface AdamWStep {
  readonly param: Tensor;
  readonly grad: Tensor;
  /** First and second moment, of the parameter's shape. */
  readonly m: Tensor;
  readonly v: Tensor;
  /** f32 [lr, β₁, β₂, ε, 1−β₁ᵗ, 1−β₂ᵗ]: data, because it changes every step. */
  readonly hyper: Tensor;
  /** What `gradNorm` gave: the clip scale, and whether the step is to be taken at all. */
  readonly stats: Tensor;
  readonly weightDecay: number;
}

/**
 * One AdamW step in place (Loshchilov and Hutter 2019, as torch computes it). Where `stats` says that a gradient or
 * the loss is not finite nothing changes, neither parameter nor moments.
 */
export function adamwStep({ param, grad, m, v, hyper, stats, weightDecay }: AdamWStep): void {
  apply1(adamwOp, [param, grad, m, v, hyper, stats], { weightDecay });
}
