// y = exp(x - m) / s, or x - m - log(s), along lines of x (outer, len, inner), in two readings: the largest value with
// the sum of exponentials relative to it, then the result.
var<workgroup> partial: array<vec2<f32>, 256>;

fn join(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var acc = vec2(-3.4028234e38, 0.0);
  for (var k = at.lane; k < end; k += LANES) {
    let v = x[base + k * params.inner];
    let e = exp(-abs(v - acc.x));
    acc = select(vec2(acc.x, acc.y + e), vec2(v, acc.y * e + 1.0), v > acc.x);
  }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] = join(partial[local], partial[local + s * NEXT]); }
    workgroupBarrier();
  }
  let total = partial[local - at.lane * NEXT];
  for (var k = at.lane; k < end; k += LANES) {
    let i = base + k * params.inner;
    y[i] = select(exp(x[i] - total.x) / total.y, x[i] - total.x - log(total.y), LOG == 1u);
  }
}
