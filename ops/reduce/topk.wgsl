// The k largest elements of each part of each line of x (outer, len, inner), largest first: k rounds, each finding the
// first element that comes after the one found before. One workgroup a part; group.z is the part, of `chunk` elements.
// With CACHED the keys of a part stay in workgroup memory; with MAPPED x is what an earlier stage chose and `ids` says
// where it stood. Parts shorter than k are filled up with what comes last of all.
var<workgroup> partial: array<vec2<u32>, 256>;
var<workgroup> keys: array<u32, CACHE>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let line = flat_group(group, groups);
  let begin = group.z * params.chunk;
  let count = select(0u, min(params.chunk, params.len - begin), line < params.lines);
  let outer = line / params.inner;
  let column = line % params.inner;
  let base = (outer * params.len + begin) * params.inner + column;
  if (CACHED == 1u) {
    for (var i = local; i < count; i += 256u) { keys[i] = order_key(x[base + i * params.inner]); }
    workgroupBarrier();
  }
  var last = vec2(0xffffffffu, 0u);
  for (var round = 0u; round < params.k; round++) {
    var best = vec2(0u, 0xffffffffu);
    for (var i = local; i < count; i += 256u) {
      var key = 0u;
      if (CACHED == 1u) { key = keys[i]; } else { key = order_key(x[base + i * params.inner]); }
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
    if (line < params.lines && local == 0u) {
      let o = ((outer * groups.z + group.z) * params.k + round) * params.inner + column;
      let found = round < count;
      var lowest = 0xff800000u;
      values[o] = select(bitcast<f32>(lowest), x[base + select(0u, last.y, found) * params.inner], found);
      indices[o] = select(-1, place_of(base, begin, last.y), found);
    }
    workgroupBarrier();
  }
}
