// dx is dy at the chosen indices and 0 elsewhere, along lines (outer, len, inner). One workgroup a line.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let line = flat_group(group, groups);
  let inside = line < params.lines;
  let outer = line / params.inner;
  let column = line % params.inner;
  let base = outer * params.len * params.inner + column;
  if (inside) { for (var i = local; i < params.len; i += 256u) { dx[base + i * params.inner] = 0.0; } }
  storageBarrier();
  if (inside) {
    for (var round = local; round < params.k; round += 256u) {
      let o = (outer * params.k + round) * params.inner + column;
      dx[base + u32(indices[o]) * params.inner] = dy[o];
    }
  }
}
