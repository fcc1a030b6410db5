// y = exp(x - m) / s, or x - m - log(s), along lines of x (outer, len, inner), in two readings: the largest value with
// the sum of exponentials relative to it, then the result.
var<workgroup> partial: array<vec2<f32>, 256>;

fn join(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

fn value(v: vec4<f32>, total: vec2<f32>) -> vec4<f32> {
  if (LOG == 1u) { return v - total.x - log(total.y); }
  return exp(v - total.x) / total.y;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var acc = vec2(-3.4028234e38, 0.0);
  var k = at.lane;
  let step = LANES * params.inner;
  // Four loads under way at a time.
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    let v = vec4(x[i], x[i + step], x[i + 2u * step], x[i + 3u * step]);
    let m = max(acc.x, max(max(v.x, v.y), max(v.z, v.w)));
    acc = vec2(m, acc.y * exp(acc.x - m) + dot(exp(v - m), vec4(1.0)));
  }
  for (; k < end; k += LANES) { acc = join(acc, vec2(x[base + k * params.inner], 1.0)); }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] = join(partial[local], partial[local + s * NEXT]); }
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
