// Depthwise causal convolution, forward. K, CHANNELS_LAST and SILU are constants; column(), bias_at() and the
// bindings depend on which optional inputs there are.
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let at = place(i);
  var sum = bias_at(at.c);
  for (var k = 0u; k < K; k++) {
    sum += ws[at.c * K + k] * column(at.b, at.c, i32(at.l + k) - i32(K - 1u));
  }
  ys[i] = select(sum, sum * sigmoid(sum), SILU == 1u);
}
