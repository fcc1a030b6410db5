import { apply1 } from '../engine/apply.ts';
import { shader } from '../engine/backends/webgpu/launch.ts';
import { ArgumentError } from '../engine/errors.ts';
import { defineOp, spec } from '../engine/op.ts';
import { scope } from '../engine/scope.ts';
import type { Tensor } from '../engine/tensor.ts';
import { zeros } from './fill.ts';

const WG = 256;
/** Elements one workgroup sums at the least, and workgroups for one gradient at most. */
const PER_GROUP = 4096;
const MAX_GROUPS = 512;

/** Workgroups, and so partial sums, for a gradient of `size` elements. */
function groupsOf(size: number): number {
  return Math.min(MAX_GROUPS, Math.max(1, Math.ceil(size / PER_GROUP)));
}

const TREE = /* wgsl */ `
var<workgroup> sums: array<f32, WG>;
fn total(local: u32, value: f32) -> f32 {
  sums[local] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half = half / 2u) {
    if (local < half) { sums[local] += sums[local + half]; }
    workgroupBarrier();
  }
  return sums[0];
}
`;

interface Into {
  /** Where this gradient's partial sums begin. */
  readonly offset: number;
  readonly groups: number;
}

/** Writes a gradient's partial sums of squares into its place among all of them. */
const squaresOp = /* @__PURE__ */ defineOp<Into>({
  name: 'sum_squares_into',
  mutates: [1],
  shape: () => [],
  reference({ inputs: [g, partials], attrs: { offset, groups } }) {
    partials.data.fill(0, offset, offset + groups);
    let sum = 0;
    for (let i = 0; i < g.size; i++) sum += g.data[i] * g.data[i];
    partials.data[offset] = sum;
  },
  webgpu({ inputs: [g, partials], attrs: { offset, groups } }) {
    const kernel = shader('sum_squares_into', () => ({
      reads: { xs: 'f32' },
      writes: { partials: 'f32' },
      params: { n: 'u32', offset: 'u32' },
      constants: { WG },
      code: /* wgsl */ `${TREE}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  for (var i = group.x * WG + local; i < params.n; i += groups.x * WG) { sum += xs[i] * xs[i]; }
  let all = total(local, sum);
  if (local == 0u) { partials[params.offset + group.x] = all; }
}`,
    }));
    return [{ shader: kernel, args: [g, partials], params: [g.size, offset], grid: [groups, 1, 1] }];
  },
  wasm({ inputs: [g, partials], attrs: { offset, groups }, k }) {
    k.fill(partials.ptr + offset * 4, groups, 0);
    k.fill(partials.ptr + offset * 4, 1, k.sum_squares(g.ptr, g.size));
    return true;
  },
});

interface Clip {
  readonly maxNorm: number;
}

/** [norm, clip scale, 1 where norm and loss are finite else 0] from all partial sums, and perhaps a loss. */
const clipScaleOp = /* @__PURE__ */ defineOp<Clip>({
  name: 'clip_scale',
  shape: () => [spec([3])],
  reference({ inputs: [partials, loss], outputs: [stats], attrs: { maxNorm } }) {
    let sum = 0;
    for (let i = 0; i < partials.size; i++) sum += partials.data[i];
    const norm = Math.sqrt(sum);
    const scale = maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
    const finite = Number.isFinite(norm) && (!loss || Number.isFinite(loss.data[0]));
    stats.data.set([norm, scale, finite ? 1 : 0]);
  },
  webgpu({ inputs: [partials, ...loss], outputs: [stats], attrs: { maxNorm } }) {
    const judged = loss.length > 0;
    const kernel = shader(`clip_scale.${judged}`, () => ({
      reads: { partials: 'f32', ...(judged ? { loss: 'f32' } : {}) },
      writes: { stats: 'f32' },
      params: { n: 'u32', max_norm: 'f32' },
      constants: { WG },
      // Finiteness is read off the bits: compilers may assume that comparisons never see NaN.
      code: /* wgsl */ `${TREE}
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  for (var i = local; i < params.n; i += WG) { sum += partials[i]; }
  let all = total(local, sum);
  if (local == 0u) {
    let finite = is_finite(all)${judged ? ' && is_finite(loss[0])' : ''};
    let norm = sqrt(all);
    stats[0] = norm;
    stats[1] = select(1.0, min(1.0, params.max_norm / (norm + 1e-6)), params.max_norm > 0.0);
    stats[2] = select(0.0, 1.0, finite);
  }
}`,
    }));
    return [{ shader: kernel, args: [partials, ...loss, stats], params: [partials.size, maxNorm], grid: [1, 1, 1] }];
  },
});

/**
 * Global norm of all gradients and what follows from it, left on the device: f32 [norm, min(1, maxNorm/(norm + 1e-6)),
 * 1 if every gradient, and the loss, is finite else 0]. Two stages in a fixed order, so the same gradients give the
 * same bits.
 * @param maxNorm 0 does not clip
 * @param loss f32 of one element, which must be finite too
 */
export function gradNorm(grads: readonly Tensor[], maxNorm: number, loss?: Tensor): Tensor {
  if (grads.length === 0) throw new ArgumentError('gradNorm: no gradients were given; nothing is trained');
  return scope(() => {
    const counts = grads.map((g) => groupsOf(g.size));
    const partials = zeros(grads[0].backend, [counts.reduce((a, b) => a + b)]);
    let offset = 0;
    grads.forEach((g, i) => {
      apply1(squaresOp, [g, partials], { offset, groups: counts[i] });
      offset += counts[i];
    });
    return apply1(clipScaleOp, loss ? [partials, loss] : [partials], { maxNorm });
  });
}
