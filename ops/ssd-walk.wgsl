// SSD scan in chunked form (Dao & Gu 2024, section 6), forward: within a tile the quadratic form
// (L ∘ C Bᵀ)(dt ∘ X), between tiles the state. Every exponent is a difference of the cumulative sum of dt·A, never
// positive. With BACKWARD_TIME the same walk carries the gradient of the state from the end of a chunk to its start:
// x is then dy, B is C, and token i weighs exp(cum_i).
var<workgroup> state: array<vec4<f32>, P_BLOCK * N_STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, STEPS * N_STRIDE>;
var<workgroup> c_tile: array<vec4<f32>, WANT_Y * (STEPS * N_STRIDE - 1u) + 1u>;
var<workgroup> x_tile: array<vec4<f32>, STEPS * P_STRIDE>;
var<workgroup> mix: array<f32, STEPS * (STEPS + 1u)>;
var<workgroup> dt: array<f32, STEPS>;
var<workgroup> cum: array<f32, STEPS>;
/** What token j adds to the state: exp(cum_last − cum_j) dt_j. */
var<workgroup> weight: array<f32, STEPS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let index = flat_group(group, groups);
  if (index >= params.total) { return; }
  let at = place_of(index);
  let half = STEPS / 2u;
  for (var e = t; e < P_BLOCK * NV; e += THREADS) {
    let p = e / NV;
    var value = vec4<f32>();
    if (row_of(at, p) < params.p) { value = load_start(state_index(at) * params.p + row_of(at, p), e % NV); }
    state[p * N_STRIDE + e % NV] = value;
  }
  var decay = 0.0;
  for (var k = 0u; k < params.tiles; k++) {
    let tile = select(k, params.tiles - 1u - k, BACKWARD_TIME == 1u);
    let l0 = at.first + tile * STEPS;
    if (l0 >= at.last) { continue; }
    workgroupBarrier();
    for (var e = t; e < STEPS * NV; e += THREADS) {
      let i = e / NV;
      var b = vec4<f32>();
      var c = vec4<f32>();
      if (l0 + i < at.last) {
        b = load_b(group_row(at, l0 + i), e % NV);
        if (WANT_Y == 1u) { c = load_c(group_row(at, l0 + i), e % NV); }
      }
      b_tile[i * N_STRIDE + e % NV] = b;
      if (WANT_Y == 1u) { c_tile[i * N_STRIDE + e % NV] = c; }
    }
    for (var e = t; e < STEPS * PV; e += THREADS) {
      let i = e / PV;
      var x = vec4<f32>();
      if (l0 + i < at.last) { x = load_x(at, l0 + i, e % PV); }
      x_tile[i * P_STRIDE + e % PV] = x;
    }
    if (WANT_TILES == 1u) {
      for (var e = t; e < P_BLOCK * NV; e += THREADS) {
        let p = e / NV;
        if (row_of(at, p) < params.p) {
          let row = (state_index(at) * params.tiles + tile) * params.p + row_of(at, p);
          store_tile(row, e % NV, state[p * N_STRIDE + e % NV]);
        }
      }
    }
    // A and D of the head are the same at every token; past the end dt is 0 and the state stands still.
    let head = step_at(step_index(at, l0));
    if (t < STEPS) { dt[t] = select(0.0, step_at(step_index(at, min(l0 + t, at.last - 1u))).x, l0 + t < at.last); }
    workgroupBarrier();
    if (t < STEPS) {
      var sum = 0.0;
      for (var j = 0u; j <= t; j++) { sum += dt[j]; }
      cum[t] = sum * head.y;
    }
    workgroupBarrier();
    if (t < STEPS) {
      weight[t] = select(exp(cum[STEPS - 1u] - cum[t]) * dt[t], exp(cum[t]), BACKWARD_TIME == 1u);
    }
    if (WANT_Y == 1u) {
      for (var e = t; e < half * half; e += THREADS) {
        let i = e / half;
        let j = e % half;
        var dots = vec4<f32>();
        for (var n = 0u; n < upto(NV); n++) {
          let c0 = c_tile[i * N_STRIDE + n];
          let c1 = c_tile[(i + half) * N_STRIDE + n];
          let b0 = b_tile[j * N_STRIDE + n];
          let b1 = b_tile[(j + half) * N_STRIDE + n];
          dots += vec4<f32>(dot(c0, b0), dot(c0, b1), dot(c1, b0), dot(c1, b1));
        }
        mix[i * (STEPS + 1u) + j] = mixed(i, j, dots.x);
        mix[i * (STEPS + 1u) + j + half] = mixed(i, j + half, dots.y);
        mix[(i + half) * (STEPS + 1u) + j] = mixed(i + half, j, dots.z);
        mix[(i + half) * (STEPS + 1u) + j + half] = mixed(i + half, j + half, dots.w);
      }
      workgroupBarrier();
      for (var e = t; e < half * PV; e += THREADS) {
        let i = e / PV;
        let v = e % PV;
        var y0 = vec4<f32>();
        var y1 = vec4<f32>();
        for (var n = 0u; n < upto(NV); n++) {
          let c0 = c_tile[i * N_STRIDE + n];
          let c1 = c_tile[(i + half) * N_STRIDE + n];
          let s0 = state[v * N_STRIDE + n];
          let s1 = state[(v + PV) * N_STRIDE + n];
          let s2 = state[(v + 2u * PV) * N_STRIDE + n];
          let s3 = state[(v + 3u * PV) * N_STRIDE + n];
          y0 += vec4<f32>(dot(c0, s0), dot(c0, s1), dot(c0, s2), dot(c0, s3));
          y1 += vec4<f32>(dot(c1, s0), dot(c1, s1), dot(c1, s2), dot(c1, s3));
        }
        y0 *= exp(cum[i]);
        y1 *= exp(cum[i + half]);
        for (var j = 0u; j < upto(STEPS); j++) {
          let x = x_tile[j * P_STRIDE + v];
          y0 += mix[i * (STEPS + 1u) + j] * x;
          y1 += mix[(i + half) * (STEPS + 1u) + j] * x;
        }
        y0 += head.z * x_tile[i * P_STRIDE + v];
        y1 += head.z * x_tile[(i + half) * P_STRIDE + v];
        if (l0 + i < at.last) { store_y(at, l0 + i, v, y0); }
        if (l0 + i + half < at.last) { store_y(at, l0 + i + half, v, y1); }
      }
    }
    workgroupBarrier();
    let shrink = exp(cum[STEPS - 1u]);
    decay += cum[STEPS - 1u];
    for (var e = t; e < PV * NV; e += THREADS) {
      let v = e / NV;
      let n = e % NV;
      var s0 = state[v * N_STRIDE + n] * shrink;
      var s1 = state[(v + PV) * N_STRIDE + n] * shrink;
      var s2 = state[(v + 2u * PV) * N_STRIDE + n] * shrink;
      var s3 = state[(v + 3u * PV) * N_STRIDE + n] * shrink;
      for (var j = 0u; j < upto(STEPS); j++) {
        let x = x_tile[j * P_STRIDE + v] * weight[j];
        let b = b_tile[j * N_STRIDE + n];
        s0 += x.x * b;
        s1 += x.y * b;
        s2 += x.z * b;
        s3 += x.w * b;
      }
      state[v * N_STRIDE + n] = s0;
      state[(v + PV) * N_STRIDE + n] = s1;
      state[(v + 2u * PV) * N_STRIDE + n] = s2;
      state[(v + 3u * PV) * N_STRIDE + n] = s3;
    }
  }
  workgroupBarrier();
  if (WANT_END == 1u) {
    for (var e = t; e < P_BLOCK * NV; e += THREADS) {
      let p = e / NV;
      if (row_of(at, p) < params.p) {
        store_end(state_index(at) * params.p + row_of(at, p), e % NV, state[p * N_STRIDE + e % NV]);
      }
    }
  }
  if (t == 0u && at.block == 0u) { store_decay(state_index(at), decay); }
}

/** Element (i, j) of L ∘ C Bᵀ, times dt_j. */
fn mixed(i: u32, j: u32, cb: f32) -> f32 {
  return select(0.0, cb * exp(min(cum[i] - cum[j], 0.0)) * dt[j], j <= i);
}
