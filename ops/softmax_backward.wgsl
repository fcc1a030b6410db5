// dx = y (dy - Σ y dy) for softmax, dx = dy - exp(y) Σ dy for log_softmax, along lines of (outer, len, inner).
var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var acc = 0.0;
  for (var k = at.lane; k < end; k += LANES) {
    let i = base + k * params.inner;
    acc += select(y[i] * dy[i], dy[i], LOG == 1u);
  }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] += partial[local + s * NEXT]; }
    workgroupBarrier();
  }
  let total = partial[local - at.lane * NEXT];
  for (var k = at.lane; k < end; k += LANES) {
    let i = base + k * params.inner;
    dx[i] = select(y[i] * (dy[i] - total), dy[i] - exp(y[i]) * total, LOG == 1u);
  }
}
