// SSD scan as the recurrence, for single tokens and for drivers on the CPU: LANES threads hold one row p of a state
// and take one token after the other. With WANT_TILES the state before each token is kept for the backward. What
// starts and what ends may be the same tensor: a thread reads its elements before it writes them.
var<workgroup> parts: array<f32, WG>;

fn kernel(group: u32, local: u32) {
  let index = group * (WG / LANES) + local / LANES;
  let lane = local % LANES;
  let active_row = index < params.total;
  let row = min(index, params.total - 1u);
  let p = row % params.p;
  let head = row / params.p % params.heads;
  let batch = row / params.p / params.heads;
  var s = array<f32, EACH>();
  for (var k = 0u; k < each(); k++) {
    let n = lane + k * LANES;
    if (n < params.n) { s[k] = load_starts(row * params.n + n); }
  }
  for (var l = 0u; l < params.length; l++) {
    let token = batch * params.length + l;
    let step = step_at(token, head);
    let x = load_xs(token * params.x_row + params.x_from + head / params.x_share * params.p + p);
    let b_row = token * params.B_row + params.B_from + head / params.B_share * params.n;
    let c_row = token * params.C_row + params.C_from + head / params.C_share * params.n;
    let decay = exp(step.x * step.y);
    var sum = 0.0;
    for (var k = 0u; k < each(); k++) {
      let n = lane + k * LANES;
      if (n < params.n) {
        if (WANT_TILES == 1u && active_row) {
          store_tiles(((row / params.p * params.length + l) * params.p + p) * params.n + n, s[k]);
        }
        s[k] = decay * s[k] + step.x * x * load_bs(b_row + n);
        if (WANT_Y == 1u) { sum += s[k] * load_cs(c_row + n); }
      }
    }
    if (WANT_Y == 1u) {
      if (LANES > 1u) {
        parts[local] = sum;
        workgroupBarrier();
        sum = 0.0;
        for (var k = 0u; k < LANES; k++) { sum += parts[local - lane + k]; }
        workgroupBarrier();
      }
      if (lane == 0u && active_row) { store_ys((token * params.heads + head) * params.p + p, sum + step.z * x); }
    }
  }
  for (var k = 0u; k < each(); k++) {
    let n = lane + k * LANES;
    if (n < params.n && active_row) { store_ends(row * params.n + n, s[k]); }
  }
}
