import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { elements } from '../../engine/backend.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { expectDType } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { expectAlike } from '../common/shapes.ts';

interface AdamWAttrs {
  /** Where the parameter's count is in `before`. */
  readonly index: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

const WG = 256;
/** Elements of a thread, which share the bias corrections. */
const EACH = 4;

const UPDATE = /* wgsl */ `
fn kernel(group: u32, local: u32) {
  let first = group * WG * EACH + local;
  let t = load_before(params.index) + load_stats(2u);
  if (first == 0u) { store_step(0u, t); }
  if (load_stats(2u) == 0.0) { return; }
  // 1 − βᵗ.
  let correction1 = -expm1_(t * params.log1);
  let correction2 = -expm1_(t * params.log2);
  for (var j = 0u; j < EACH; j++) {
    let i = first + j * WG;
    if (i >= params.n) { return; }
    let g = load_grad(i) * load_stats(1u);
    let m = params.beta1 * load_ms(i) + params.rest1 * g;
    let v = params.beta2 * load_vs(i) + params.rest2 * g * g;
    store_ms(i, m);
    store_vs(i, v);
    let change = m / correction1 / (sqrt(v / correction2) + params.eps);
    store_param(i, load_param(i) - load_lr(0u) * (params.decay * load_param(i) + change));
  }
}`;

/** ln β where β may be 0. */
const logOf = (beta: number) => Math.max(Math.log(beta), -1000);

const adamwOp = /* @__PURE__ */ defineOp({
  name: 'adamw',
  inputs: ['param', 'grad', 'm', 'v', 'step', 'before', 'stats', 'lr'],
  outputs: [],
  mutates: ['param', 'm', 'v', 'step'],
  shape({ before, ...others }, { index, betas, eps, weightDecay }: AdamWAttrs) {
    for (const beta of betas) expectFinite('adamw', 'a beta', beta, 0, 1 - Number.EPSILON);
    expectFinite('adamw', 'eps', eps, 0);
    expectFinite('adamw', 'weightDecay', weightDecay, 0);
    expectDType('adamw', 'before', before.dtype, 'f32');
    expectWhole('adamw', 'index', index, 0, elements(before.shape) - 1);
    const { shape } = others.param;
    const shapes = { param: shape, grad: shape, m: shape, v: shape, step: [], stats: [3], lr: [] };
    for (const name of Object.keys(shapes) as (keyof typeof shapes)[]) {
      expectAlike('adamw', name, others[name], spec(shapes[name]));
    }
    return {};
  },
  reference({ param, grad, m, v, step, before, stats, lr }, _, { index, betas, eps, weightDecay }) {
    const [, clip, finite] = stats.data;
    const t = before.data[index] + finite;
    step.data[0] = t;
    if (finite === 0) return;
    const [beta1, beta2] = betas;
    const [correction1, correction2] = betas.map((beta) => -Math.expm1(t * Math.log(beta)));
    for (let i = 0; i < param.size; i++) {
      const g = grad.data[i] * clip;
      m.data[i] = beta1 * m.data[i] + (1 - beta1) * g;
      v.data[i] = beta2 * v.data[i] + (1 - beta2) * g * g;
      const change = m.data[i] / correction1 / (Math.sqrt(v.data[i] / correction2) + eps);
      param.data[i] -= lr.data[0] * (weightDecay * param.data[i] + change);
    }
  },
  webgpu(operands, _, { index, betas: [beta1, beta2], eps, weightDecay }, device) {
    const { param, grad, m, v, step, before, stats, lr } = operands;
    const numbers = { eps, decay: weightDecay, beta1, rest1: 1 - beta1, beta2, rest2: 1 - beta2 };
    const logs = { log1: logOf(beta1), log2: logOf(beta2) };
    const floats = Object.entries({ ...numbers, ...logs }).map(([name, value]) => [name, ['f32', value] as const]);
    return [launchKernel(device, {
      key: 'adamw',
      reads: { grad, before, stats, lr },
      writes: { param, ms: m, vs: v, step },
      params: { n: param.size, index, ...Object.fromEntries(floats) },
      constants: { EACH },
      workgroup: WG,
      code: () => UPDATE,
      groups: Math.ceil(param.size / (WG * EACH)),
    })];
  },
  wasm({ param, grad, m, v, step, before, stats, lr }, _, { index, betas, eps, weightDecay }, { k }) {
    k.adamw(param, grad, m, v, step, at(before, 4 * index), stats, lr, param.size, ...betas, eps, weightDecay);
    return true;
  },
});

export interface AdamWStep {
  readonly param: Tensor;
  readonly grad: Tensor;
  /** First and second moment, of the parameter's shape. */
  readonly m: Tensor;
  readonly v: Tensor;
  /** f32 []: becomes the number of updates that the parameter has had, which the bias correction goes by. */
  readonly step: Tensor;
  /** f32 (parameters): what their `step`s hold before they change, as `gradNorm` gives it. */
  readonly before: Tensor;
  /** Which of `before` is the parameter's. */
  readonly index: number;
  /** What `gradNorm` gave: the clip scale, and whether the step is to be taken at all. */
  readonly stats: Tensor;
  /** f32 []: the learning rate. */
  readonly lr: Tensor;
  /** Decay rates of the moments, each at least 0 and less than 1. */
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

/**
 * One AdamW step in place, all tensors f32 (Loshchilov and Hutter 2019, as torch computes it). Where `stats` says that
 * a gradient or the loss is not finite nothing changes, neither parameter nor moments, and `step` is as `before`.
 */
export function adamwStep({ index, betas, eps, weightDecay, ...tensors }: AdamWStep): void {
  apply(adamwOp, tensors, { index, betas, eps, weightDecay });
}
