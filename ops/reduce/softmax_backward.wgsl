// dx = y (dy - Σ y dy) for softmax, dx = dy - exp(y) Σ dy for log_softmax, along lines of (outer, len, inner).
var<workgroup> partial: array<f32, 256>;

fn at4(i: u32, step: u32) -> vec4<f32> { return vec4(y[i], y[i + step], y[i + 2u * step], y[i + 3u * step]); }
fn weight(v: vec4<f32>) -> vec4<f32> {
  if (LOG == 1u) { return vec4(1.0); }
  return v;
}
fn value(v: vec4<f32>, d: vec4<f32>, total: f32) -> vec4<f32> {
  if (LOG == 1u) { return d - exp(v) * total; }
  return v * (d - total);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var acc = 0.0;
  var k = at.lane;
  let step = LANES * params.inner;
  // Four loads under way at a time.
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    acc += dot(weight(at4(i, step)), vec4(dy[i], dy[i + step], dy[i + 2u * step], dy[i + 3u * step]));
  }
  for (; k < end; k += LANES) {
    let i = base + k * params.inner;
    acc += weight(vec4(y[i])).x * dy[i];
  }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] += partial[local + s * NEXT]; }
    workgroupBarrier();
  }
  let total = partial[local - at.lane * NEXT];
  k = at.lane;
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    let v = value(at4(i, step), vec4(dy[i], dy[i + step], dy[i + 2u * step], dy[i + 3u * step]), total);
    dx[i] = v.x;
    dx[i + step] = v.y;
    dx[i + 2u * step] = v.z;
    dx[i + 3u * step] = v.w;
  }
  for (; k < end; k += LANES) {
    let i = base + k * params.inner;
    dx[i] = value(vec4(y[i]), vec4(dy[i]), total).x;
  }
}
