// Per token and head (dt, A, D, sigmoid): dt = softplus(raw + bias), A = −exp(A_log), and the slope of the softplus.
fn discretised(raw: f32, a_log: f32, d: f32) -> vec4<f32> {
  let e = exp(-abs(raw));
  let soft = max(raw, 0.0) + select(log(1.0 + e), e * (1.0 - e * (0.5 - e / 3.0)), e < 0.01);
  return vec4<f32>(soft, -exp(a_log), d, select(e, 1.0, raw >= 0.0) / (1.0 + e));
}
fn discretised_at(token: u32, head: u32) -> vec4<f32> {
  let raw = load_dt(token * params.dt_row + params.dt_from + head) + load_dt_bias(head);
  return discretised(raw, load_A_log(head), load_D(head));
}
