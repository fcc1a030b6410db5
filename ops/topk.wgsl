// The k largest elements of each line of x (outer, len, inner), largest first: k rounds, each finding the first element
// that comes after the one found before. One workgroup a line.
var<workgroup> partial: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let line = flat_group(group, groups);
  let end = select(0u, params.len, line < params.lines);
  let outer = line / params.inner;
  let base = outer * params.len * params.inner + line % params.inner;
  var last = vec2(0xffffffffu, 0u);
  for (var round = 0u; round < params.k; round++) {
    var best = vec2(0u, 0xffffffffu);
    for (var i = local; i < end; i += 256u) {
      let key = order_key(x[base + i * params.inner]);
      let after = round == 0u || key < last.x || (key == last.x && i > last.y);
      if (after) { best = first_of(best, vec2(key, i)); }
    }
    partial[local] = best;
    workgroupBarrier();
    for (var s = 128u; s > 0u; s /= 2u) {
      if (local < s) { partial[local] = first_of(partial[local], partial[local + s]); }
      workgroupBarrier();
    }
    last = partial[0];
    if (end > 0u && local == 0u) {
      let o = (outer * params.k + round) * params.inner + line % params.inner;
      values[o] = x[base + last.y * params.inner];
      indices[o] = i32(last.y);
    }
    workgroupBarrier();
  }
}
