// Folds x (outer, len, inner) along len into y (outer, splits, inner); a workgroup covers TILE outputs with LANES
// threads each and split group.z of len. The fold (Acc, start, fold, join, finish) comes before this text.
var<workgroup> partial: array<Acc, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let tile = flat_group(group, groups);
  // Neighbouring threads read neighbouring elements: along len for rows, along inner otherwise.
  let lane = select(local / TILE, local % LANES, ROWS == 1u);
  let o = tile * TILE + select(local % TILE, local / LANES, ROWS == 1u);
  let valid = o < params.outputs;
  let begin = group.z * params.chunk;
  let end = min(params.len, begin + params.chunk);
  let base = (o / params.inner) * params.len * params.inner + o % params.inner;
  var acc: Acc;
  if (valid) {
    acc = start(x[base + begin * params.inner]);
    for (var k = begin + lane; k < end; k += LANES) { acc = fold(acc, x[base + k * params.inner]); }
  }
  partial[local] = acc;
  workgroupBarrier();
  let next = select(TILE, 1u, ROWS == 1u);
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (lane < s) { partial[local] = join(partial[local], partial[local + s * next]); }
    workgroupBarrier();
  }
  if (valid && lane == 0u) {
    y[((o / params.inner) * groups.z + group.z) * params.inner + o % params.inner] = finish(partial[local]);
  }
}
