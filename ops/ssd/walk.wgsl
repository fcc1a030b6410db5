// SSD scan in chunked form (Dao & Gu 2024, section 6), forward: within a tile the quadratic form
// (L ∘ C Bᵀ)(dt ∘ X), between tiles the state. Every exponent is a difference of the cumulative sum of dt·A, never
// positive. With BACKWARD_TIME the same walk carries the gradient of the state from the end of a chunk to its start:
// x is then dy, B is C, and token i weighs exp(cum_i).
var<workgroup> mix: array<f32, STEPS * (STEPS + 1u)>;
/** What token j adds to the state: exp(cum_last − cum_j) dt_j. */
var<workgroup> weight: array<f32, STEPS>;

fn kernel(index: u32, t: u32) {
  let at = place_of(index);
  let part = STEPS / EACH;
  for (var e = t; e < P_BLOCK * NV; e += WG) { state[cell_n(e)] = load_start(at, state_index(at), e); }
  var decay = 0.0;
  for (var k = 0u; k < params.tiles; k++) {
    let tile = select(k, params.tiles - 1u - k, BACKWARD_TIME == 1u);
    let l0 = at.first + tile * STEPS;
    if (l0 >= at.last) { continue; }
    workgroupBarrier();
    for (var e = t; e < STEPS * NV; e += WG) {
      b_tile[cell_n(e)] = load_b(at, l0 + e / NV, e % NV);
      if (WANT_Y == 1u) { c_tile[cell_n(e)] = load_c(at, l0 + e / NV, e % NV); }
    }
    for (var e = t; e < STEPS * PV; e += WG) { x_tile[cell_p(e)] = load_x(at, l0 + e / PV, e % PV); }
    if (WANT_TILES == 1u) {
      for (var e = t; e < P_BLOCK * NV; e += WG) {
        store_tile(at, state_index(at) * params.tiles + tile, e, state[cell_n(e)]);
      }
    }
    let skip = sum_steps(at, l0, t).z;
    if (t < STEPS) {
      weight[t] = select(exp(cum[STEPS - 1u] - cum[t]) * dt[t], exp(cum[t]), BACKWARD_TIME == 1u);
    }
    if (WANT_Y == 1u) {
      for (var e = t; e < part * part; e += WG) {
        let i = e / part;
        let j = e % part;
        var dots = products(i, j);
        for (var r = 0u; r < EACH; r++) {
          for (var q = 0u; q < EACH; q++) { put_mix(i + r * part, j + q * part, dots[r * EACH + q]); }
        }
      }
      workgroupBarrier();
      for (var e = t; e < part * PV; e += WG) {
        let i = e / PV;
        let v = e % PV;
        var y = array<vec4<f32>, EACH>();
        for (var n = 0u; n < NV; n++) {
          var c: array<vec4<f32>, EACH>;
          for (var r = 0u; r < EACH; r++) { c[r] = c_tile[(i + r * part) * N_STRIDE + n]; }
          for (var q = 0u; q < 4u; q++) {
            let s = state[(v + q * PV) * N_STRIDE + n];
            for (var r = 0u; r < EACH; r++) { y[r][q] += dot(c[r], s); }
          }
        }
        for (var r = 0u; r < EACH; r++) { y[r] *= exp(cum[i + r * part]); }
        for (var j = 0u; j < STEPS; j++) {
          let x = x_tile[j * P_STRIDE + v];
          for (var r = 0u; r < EACH; r++) { y[r] += mix[(i + r * part) * (STEPS + 1u) + j] * x; }
        }
        for (var r = 0u; r < EACH; r++) {
          store_y(at, l0 + i + r * part, v, y[r] + skip * x_tile[(i + r * part) * P_STRIDE + v]);
        }
      }
    }
    workgroupBarrier();
    decay += cum[STEPS - 1u];
    advance(t);
  }
  workgroupBarrier();
  if (WANT_END == 1u) {
    for (var e = t; e < P_BLOCK * NV; e += WG) { store_end(at, state_index(at), e, state[cell_n(e)]); }
  }
  if (t == 0u && at.block == 0u) { store_decays(state_index(at), decay); }
}

/** Element (i, j) of L ∘ C Bᵀ, times dt_j. */
fn put_mix(i: u32, j: u32, c_b: f32) {
  mix[i * (STEPS + 1u) + j] = select(0.0, c_b * exp(min(cum[i] - cum[j], 0.0)) * dt[j], j <= i);
}
