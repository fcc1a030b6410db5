// y = exp(x - m) / s, or x - m - log(s), along lines of x (outer, len, inner), in two readings: the largest value with
// the sum of exponentials relative to it, then the result.
var<workgroup> partial: array<vec2<f32>, 256>;

fn value(v: vec4<f32>, total: vec2<f32>) -> vec4<f32> {
  if (LOG == 1u) { return (v - total.x) - log(total.y); }
  return exp(v - total.x) / total.y;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var acc = no_exp();
  var k = at.lane;
  let step = LANES * params.inner;
  // Four loads under way at a time.
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    let v = vec4(x[i], x[i + step], x[i + 2u * step], x[i + 3u * step]);
    let m = max(acc.x, max(max(v.x, v.y), max(v.z, v.w)));
    let sum = exp_above(v.x, m, 1.0) + exp_above(v.y, m, 1.0) + exp_above(v.z, m, 1.0) + exp_above(v.w, m, 1.0);
    acc = vec2(m, acc.y * exp_above(acc.x, m, 1.0) + sum);
  }
  for (; k < end; k += LANES) { acc = join_exp(acc, vec2(x[base + k * params.inner], 1.0), 1.0); }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] = join_exp(partial[local], partial[local + s * NEXT], 1.0); }
    workgroupBarrier();
  }
  let total = partial[local - at.lane * NEXT];
  k = at.lane;
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    let v = value(vec4(x[i], x[i + step], x[i + 2u * step], x[i + 3u * step]), total);
    y[i] = v.x;
    y[i + step] = v.y;
    y[i + 2u * step] = v.z;
    y[i + 3u * step] = v.w;
  }
  for (; k < end; k += LANES) {
    let i = base + k * params.inner;
    y[i] = value(vec4(x[i]), total).x;
  }
}
