// The adjoint of the recurrence, for drivers on the CPU: a thread owns row p of the gradient of a state and walks from
// the last token to the first. What rows share (B, C, dt) it leaves for a later sum over p.
fn kernel(group: u32, local: u32) {
  let row = group * WG + local;
  if (row >= params.total) { return; }
  let p = row % params.p;
  let head = row / params.p % params.heads;
  let batch = row / params.p / params.heads;
  var g: array<f32, N>;
  for (var n = 0u; n < params.n; n++) { g[n] = load_ends(row * params.n + n); }
  var head_sums = vec3<f32>();
  for (var l = params.length; l > 0u; l--) {
    let token = batch * params.length + l - 1u;
    let at = (token * params.heads + head) * params.p + p;
    let step = steps[token * params.heads + head];
    let bc = (token * params.groups + head / (params.heads / params.groups)) * params.n;
    let states_at = ((row / params.p * params.length + l - 1u) * params.p + p) * params.n;
    let x = load_xs(at);
    let dy = load_dys(at);
    let decay = exp(step.x * step.y);
    var gb = 0.0;
    var flow = 0.0;
    for (var n = 0u; n < params.n; n++) {
      let before = load_states(states_at + n);
      let b = load_bs(bc + n);
      let now = g[n] + dy * load_cs(bc + n);
      store_dcs(at * params.n + n, dy * (decay * before + step.x * x * b));
      store_dbs(at * params.n + n, step.x * x * now);
      gb += now * b;
      flow += now * decay * before;
      g[n] = now * decay;
    }
    store_dxs(at, step.x * gb + step.z * dy);
    let draw = (gb * x + step.y * flow) * step.w;
    store_ddts(at, draw);
    head_sums += vec3<f32>(step.y * step.x * flow, dy * x, draw);
  }
  put_sums((batch * params.p + p) * params.heads + head, head_sums);
  for (var n = 0u; n < params.n; n++) { store_firsts(row * params.n + n, g[n]); }
}
