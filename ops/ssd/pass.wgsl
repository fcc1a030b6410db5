// Hands the state over the chunks of a head: what each chunk made from zero becomes the state each chunk starts from
// (or, with BACKWARD_TIME, the gradient of the state each chunk ends in). A thread owns one element.
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let head = i / params.plane;
  var carried = load_first(i);
  for (var k = 0u; k < params.chunks; k++) {
    let chunk = head * params.chunks + select(k, params.chunks - 1u - k, BACKWARD_TIME == 1u);
    let at = chunk * params.plane + i % params.plane;
    let made = states[at];
    states[at] = carried;
    carried = exp(decays[chunk]) * carried + made;
  }
  store_last(i, carried);
}
