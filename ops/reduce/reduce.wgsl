// Folds x (outer, len, inner) along len into y (outer, splits, inner); split group.z of len. The fold (Acc, start,
// fold, join, finish) comes before this text.
var<workgroup> partial: array<Acc, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place(group, groups, local);
  let valid = at.line < params.outputs;
  let begin = group.z * params.chunk;
  let end = min(params.len, begin + params.chunk);
  let outer = at.line / params.inner;
  let base = outer * params.len * params.inner + at.line % params.inner;
  var acc: Acc;
  if (valid) {
    acc = start(x[base + begin * params.inner]);
    var k = begin + at.lane;
    let step = LANES * params.inner;
    // Sixteen at a time, so that long sums lose no digits.
    while (k < end) {
      var part = start(x[base + k * params.inner]);
      let stop = min(end, k + 16u * LANES);
      // Four loads under way at a time.
      for (; k + 3u * LANES < stop; k += 4u * LANES) {
        let i = base + k * params.inner;
        let v = vec4(x[i], x[i + step], x[i + 2u * step], x[i + 3u * step]);
        part = fold(fold(fold(fold(part, v.x), v.y), v.z), v.w);
      }
      for (; k < stop; k += LANES) { part = fold(part, x[base + k * params.inner]); }
      acc = join(acc, part);
    }
  }
  partial[local] = acc;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s) { partial[local] = join(partial[local], partial[local + s * NEXT]); }
    workgroupBarrier();
  }
  if (valid && at.lane == 0u) {
    y[(outer * groups.z + group.z) * params.inner + at.line % params.inner] = finish(partial[local]);
  }
}
