import { shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch } from '../common/flat.ts';
import { expectShape } from '../common/shapes.ts';
import { ratioWgsl, squaresWgsl } from '../common/squares.ts';

const WG = 256;
/** Elements of one workgroup at the least, and workgroups at most, in the first stage. */
const PER_GROUP = 4096;
const MAX_GROUPS = 1024;

/** The norm of a part of xs − zs, or of the norms of all parts. */
const NORM = (parts: boolean) => /* wgsl */ `${squaresWgsl}
var<workgroup> tree: array<vec3<f32>, WG>;
fn square(i: u32) -> vec3<f32> { return squares(${parts ? 'xs[i] - zs[i]' : 'xs[i]'}); }
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  var sums = vec3<f32>();
  let step = groups.x * WG;
  var i = group.x * WG + local;
  // Four at a time, so that loads overlap.
  for (; i + 3u * step < params.n; i += 4u * step) {
    sums += (square(i) + square(i + step)) + (square(i + 2u * step) + square(i + 3u * step));
  }
  for (; i < params.n; i += step) { sums += square(i); }
  tree[local] = sums;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    if (local < half) { tree[local] += tree[local + half]; }
    workgroupBarrier();
  }
  if (local == 0u) { ys[group.x] = norm_of(tree[0]); }
}`;

function normShader(parts: boolean) {
  return shader(`l2_distance.${parts ? 'parts' : 'whole'}`, () => ({
    reads: { xs: 'f32', ...(parts ? { zs: 'f32' } : {}) },
    writes: { ys: 'f32' },
    params: { n: 'u32' },
    constants: { WG },
    code: NORM(parts),
  }));
}

/** The op behind `l2Distance`. */
export const l2DistanceOp = /* @__PURE__ */ defineOp({
  name: 'l2_distance',
  shape([a, b]) {
    expectDType('l2_distance', 'a', a.dtype, 'f32');
    expectDType('l2_distance', 'b', b.dtype, 'f32');
    expectShape('l2_distance', 'b', b, a.shape);
    return [spec([])];
  },
  reference({ inputs: [a, b], outputs: [y] }) {
    let sum = 0;
    for (let i = 0; i < a.size; i++) sum += (a.data[i] - b.data[i]) ** 2;
    y.data[0] = Math.sqrt(sum);
  },
  webgpu({ inputs: [a, b], outputs: [y], scratch }) {
    const groups = Math.min(MAX_GROUPS, Math.max(1, Math.ceil(a.size / PER_GROUP)));
    const partial = scratch([groups]);
    return [
      { shader: normShader(true), args: [a, b, partial], params: [a.size], grid: [groups, 1, 1] },
      { shader: normShader(false), args: [partial, y], params: [groups], grid: [1, 1, 1] },
    ];
  },
  wasm({ inputs: [a, b], outputs: [y], k }) {
    k.l2_distance(a.ptr, b.ptr, y.ptr, a.size);
    return true;
  },
  saves: { inputs: [0, 1], outputs: [0] },
  backward({ needs, input, output, grads }) {
    const [a, b, y] = [input(0), input(1), output(0)];
    const toward = (from: Tensor, to: Tensor) => apply1(l2DistanceBackward, [from, to, y, grads[0]!], {});
    return [needs[0] ? toward(a, b) : null, needs[1] ? toward(b, a) : null];
  },
});

/** da = dy·(a − b)/‖a − b‖, and 0 where both are the same. */
const l2DistanceBackward = /* @__PURE__ */ defineOp({
  name: 'l2_distance_backward',
  shape: ([a]) => [spec(a.shape)],
  reference({ inputs: [a, b, y, dy], outputs: [da] }) {
    const norm = y.data[0] === 0 ? Infinity : y.data[0];
    for (let i = 0; i < da.size; i++) da.data[i] = dy.data[0] * ((a.data[i] - b.data[i]) / norm);
  },
  webgpu({ inputs, outputs: [da] }) {
    const kernel = shader('l2_distance.backward', () => ({
      reads: { xs: 'f32', zs: 'f32', ys: 'f32', dys: 'f32' },
      writes: { dxs: 'f32' },
      params: { n: 'u32' },
      code: /* wgsl */ `${ratioWgsl}
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  dxs[i] = select(dys[0] * ratio_of(xs[i] - zs[i], ys[0]), 0.0, ys[0] == 0.0);
}`,
    }));
    return [flatLaunch(kernel, [...inputs, da], [da.size], da.size)];
  },
  wasm({ inputs: [a, b, y, dy], outputs: [da], k }) {
    k.l2_distance_backward(a.ptr, b.ptr, y.ptr, dy.ptr, da.ptr, da.size);
    return true;
  },
});

/**
 * ‖a − b‖₂ over all elements (Frobenius norm of the difference): f32 of one shape → []. Its gradient at a = b is 0.
 */
export function l2Distance(a: Tensor, b: Tensor): Tensor {
  return apply1(l2DistanceOp, [a, b], {});
}
