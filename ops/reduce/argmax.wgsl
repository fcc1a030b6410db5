// The index of the largest element of each line of x (outer, len, inner).
var<workgroup> partial: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let end = select(0u, params.len, at.line < params.lines);
  let base = (at.line / params.inner) * params.len * params.inner + at.line % params.inner;
  var best = vec2(0u, 0xffffffffu);
  var k = at.lane;
  let step = LANES * params.inner;
  // Four loads under way at a time.
  for (; k + 3u * LANES < end; k += 4u * LANES) {
    let i = base + k * params.inner;
    let v = vec4(x[i], x[i + step], x[i + 2u * step], x[i + 3u * step]);
    for (var j = 0u; j < 4u; j++) { best = first_of(best, vec2(order_key(v[j]), k + j * LANES)); }
  }
  for (; k < end; k += LANES) {
    best = first_of(best, vec2(order_key(x[base + k * params.inner]), k));
  }
  partial[local] = best;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] = first_of(partial[local], partial[local + s * NEXT]); }
    workgroupBarrier();
  }
  if (end > 0u && at.lane == 0u) { y[at.line] = i32(partial[local].y); }
}
