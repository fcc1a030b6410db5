import { expectFinite } from '../../engine/arguments.ts';
import { elements } from '../../engine/backend.ts';
import { shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { apply, apply1, defineOp, spec } from '../../engine/positional.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { zeros } from '../elementwise/fill.ts';
import { squaresWgsl } from '../common/squares.ts';

const WG = 256;
/** Elements one workgroup sums at the least, and workgroups for one gradient at most. */
const PER_GROUP = 4096;
const MAX_GROUPS = 512;

/** Workgroups, and so parts, for a gradient of `size` elements. */
function groupsOf(size: number): number {
  return Math.min(MAX_GROUPS, Math.max(1, Math.ceil(size / PER_GROUP)));
}

/** WGSL: the norm over all invocations' sums of squares, for the first of them. */
const NORM = /* wgsl */ `${squaresWgsl}
var<workgroup> sums: array<vec3<f32>, WG>;
fn norm(local: u32, mine: vec3<f32>) -> f32 {
  sums[local] = mine;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half = half / 2u) {
    if (local < half) { sums[local] += sums[local + half]; }
    workgroupBarrier();
  }
  return norm_of(sums[0]);
}
`;

interface Into {
  /** Where the norms of this gradient's parts begin. */
  readonly offset: number;
  readonly groups: number;
}

/** Writes the norms of a gradient's parts into their place among those of all gradients. */
const normIntoOp = /* @__PURE__ */ defineOp<Into>({
  name: 'norm_into',
  mutates: [1],
  shape([g, norms], { offset, groups }) {
    expectDType('norm_into', 'gradient', g.dtype, 'f32');
    expectDType('norm_into', 'norms', norms.dtype, 'f32');
    const room = elements(norms.shape);
    if (offset < 0 || offset + groups > room) {
      throw new ArgumentError(`norm_into: ${groups} norms from ${offset} on do not fit into ${room}`);
    }
    return [];
  },
  reference({ inputs: [g, norms], attrs: { offset, groups } }) {
    norms.data.fill(0, offset, offset + groups);
    let sum = 0;
    for (let i = 0; i < g.size; i++) sum += g.data[i] * g.data[i];
    norms.data[offset] = Math.sqrt(sum);
  },
  webgpu({ inputs: [g, norms], attrs: { offset, groups } }) {
    const kernel = shader('norm_into', () => ({
      reads: { xs: 'f32' },
      writes: { norms: 'f32' },
      params: { n: 'u32', offset: 'u32' },
      constants: { WG },
      code: /* wgsl */ `${NORM}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  var mine = vec3<f32>();
  for (var i = group.x * WG + local; i < params.n; i += groups.x * WG) { mine += squares(xs[i]); }
  let all = norm(local, mine);
  if (local == 0u) { norms[params.offset + group.x] = all; }
}`,
    }));
    return [{ shader: kernel, args: [g, norms], params: [g.size, offset], grid: [groups, 1, 1] }];
  },
  wasm({ inputs: [g, norms], attrs: { offset, groups }, k }) {
    k.fill(norms.ptr + offset * 4, groups, 0);
    k.l2_distance(g.ptr, undefined, norms.ptr + offset * 4, g.size);
    return true;
  },
});

interface Clip {
  readonly maxNorm: number;
}

/** [norm, clip scale, 1 where norm and loss are finite else 0] from the norms of all parts, and perhaps a loss. */
const clipScaleOp = /* @__PURE__ */ defineOp<Clip>({
  name: 'clip_scale',
  shape(_, { maxNorm }) {
    expectFinite('gradNorm', 'maxNorm', maxNorm, 0);
    return [spec([3])];
  },
  reference({ inputs: [norms, loss], outputs: [stats], attrs: { maxNorm } }) {
    let sum = 0;
    for (let i = 0; i < norms.size; i++) sum += norms.data[i] * norms.data[i];
    // As it is stored: a norm may be beyond what f32 holds.
    stats.data[0] = Math.sqrt(sum);
    const [norm] = stats.data;
    const scale = maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
    const finite = Number.isFinite(norm) && (!loss || Number.isFinite(loss.data[0]));
    stats.data.set([scale, finite ? 1 : 0], 1);
  },
  webgpu({ inputs: [norms, ...loss], outputs: [stats], attrs: { maxNorm } }) {
    const judged = loss.length > 0;
    const kernel = shader(`clip_scale.${judged}`, () => ({
      reads: { norms: 'f32', ...(judged ? { loss: 'f32' } : {}) },
      writes: { stats: 'f32' },
      params: { n: 'u32', max_norm: 'f32' },
      constants: { WG },
      code: /* wgsl */ `${NORM}
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) local: u32) {
  var mine = vec3<f32>();
  for (var i = local; i < params.n; i += WG) { mine += squares(norms[i]); }
  let all = norm(local, mine);
  if (local == 0u) {
    let finite = is_finite(all)${judged ? ' && is_finite(loss[0])' : ''};
    stats[0] = all;
    stats[1] = select(1.0, min(1.0, params.max_norm / (all + 1e-6)), params.max_norm > 0.0);
    stats[2] = select(0.0, 1.0, finite);
  }
}`,
    }));
    return [{ shader: kernel, args: [norms, ...loss, stats], params: [norms.size, maxNorm], grid: [1, 1, 1] }];
  },
});

/**
 * Global norm of all gradients and what follows from it, left on the device: f32 [norm, min(1, maxNorm/(norm + 1e-6)),
 * 1 if the norm, and the loss, is finite else 0]. Squares neither overflow nor vanish: of finite gradients that are not
 * subnormal the norm is infinite only where it is itself beyond f32's range (3.4e38). Two stages in a fixed order, so the
 * same gradients give the same bits.
 * @param maxNorm 0 does not clip
 * @param loss f32 of one element, which must be finite too
 */
export function gradNorm(grads: readonly Tensor[], maxNorm: number, loss?: Tensor): Tensor {
  if (grads.length === 0) throw new ArgumentError('gradNorm: no gradients were given; nothing is trained');
  return scope(() => {
    const counts = grads.map((g) => groupsOf(g.size));
    const norms = zeros(grads[0].backend, [counts.reduce((a, b) => a + b)]);
    let offset = 0;
    grads.forEach((g, i) => {
      apply(normIntoOp, [g, norms], { offset, groups: counts[i] });
      offset += counts[i];
    });
    return apply1(clipScaleOp, loss ? [norms, loss] : [norms], { maxNorm });
  });
}
