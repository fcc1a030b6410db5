// Per token and head (dt, A, D, sigmoid): dt = softplus(raw + bias), A = −exp(A_log), and the slope of the softplus.
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let h = i % params.heads;
  let raw = dts[i] + dt_bias[h];
  let e = exp(-abs(raw));
  let soft = max(raw, 0.0) + select(log(1.0 + e), e * (1.0 - e * (0.5 - e / 3.0)), e < 0.01);
  steps[i] = vec4<f32>(soft, -exp(a_log[h]), d_skip[h], select(e, 1.0, raw >= 0.0) / (1.0 + e));
}
