// SSD scan, backward: walks the tiles of a chunk from its end, carrying G, the gradient of the state. With
// cb = L ∘ C Bᵀ, xy = L ∘ dy xᵀ, S the state the tile starts from, e_i = exp(cum_i), d_j = exp(cum_last − cum_j):
//   dx_j = dt_j (Σ_i cb_ij dy_i + d_j G B_j) + D dy_j
//   dB_j = dt_j (Σ_i xy_ij C_i + d_j Gᵀ x_j)        dC_i = Σ_j xy_ij dt_j B_j + e_i Sᵀ dy_i
//   G ← exp(cum_last) G + Σ_i e_i dy_i C_iᵀ
// The gradient of dt_t A is what flows over token t: the sum of all pairs (source before t, sink at t or after), the
// state the tile starts from being the first source and G the last sink. It is summed as such, not as a difference of
// large numbers.
var<workgroup> grad: array<vec4<f32>, P_BLOCK * N_STRIDE>;
var<workgroup> dy_tile: array<vec4<f32>, STEPS * P_STRIDE>;
var<workgroup> cb: array<f32, STEPS * (STEPS + 1u)>;
var<workgroup> xy: array<f32, STEPS * (STEPS + 1u)>;
/** Pairs cb ∘ xy without the second L, then running sums of them over the sources; the last row is the sink G. */
var<workgroup> pairs: array<f32, (STEPS + 1u) * (STEPS + 1u)>;
/** Per token: what reaches it from S, what it sends to G, its own ∂/∂dt. Sums of the parts in *_parts. */
var<workgroup> direct: array<f32, STEPS>;
var<workgroup> in_parts: array<f32, STEPS * (NV + 1u)>;
var<workgroup> out_parts: array<f32, STEPS * (PV + 1u)>;
var<workgroup> through_parts: array<f32, WG>;
var<workgroup> token_sums: array<vec3<f32>, STEPS>;

fn causal(i: u32, j: u32) -> f32 { return select(0.0, exp(min(cum[i] - cum[j], 0.0)), j <= i); }

fn put_pair(i: u32, j: u32, c_b: f32, d_x: f32) {
  let l = causal(i, j);
  cb[i * (STEPS + 1u) + j] = l * c_b;
  xy[i * (STEPS + 1u) + j] = l * d_x;
  pairs[i * (STEPS + 1u) + j] = l * c_b * d_x;
}

fn load_tiles(at: Place, l0: u32, tile: u32, t: u32) {
  for (var e = t; e < P_BLOCK * NV; e += WG) {
    state[cell_n(e)] = load_state(at, state_index(at) * params.tiles + tile, e);
  }
  for (var e = t; e < STEPS * NV; e += WG) {
    b_tile[cell_n(e)] = load_b(at, l0 + e / NV, e % NV);
    c_tile[cell_n(e)] = load_c(at, l0 + e / NV, e % NV);
  }
  for (var e = t; e < STEPS * PV; e += WG) {
    x_tile[cell_p(e)] = load_x(at, l0 + e / PV, e % PV);
    dy_tile[cell_p(e)] = load_dy(at, l0 + e / PV, e % PV);
  }
}

/** cb, xy and pairs. */
fn fill_pairs(t: u32) {
  let part = STEPS / EACH;
  for (var e = t; e < part * part; e += WG) {
    let i = e / part;
    let j = e % part;
    var cb_dots = products(i, j);
    var d_x = array<f32, PAIRS>();
    for (var v = 0u; v < PV; v++) {
      for (var r = 0u; r < EACH; r++) {
        let d = dy_tile[(i + r * part) * P_STRIDE + v];
        for (var q = 0u; q < EACH; q++) { d_x[r * EACH + q] += dot(d, x_tile[(j + q * part) * P_STRIDE + v]); }
      }
    }
    for (var r = 0u; r < EACH; r++) {
      for (var q = 0u; q < EACH; q++) {
        put_pair(i + r * part, j + q * part, cb_dots[r * EACH + q], d_x[r * EACH + q]);
      }
    }
  }
}

/** dx of one token at column v from its sum over cb and its dots with G; notes what the token sends to G. */
fn finish_dx(at: Place, l0: u32, j: u32, v: u32, inner: vec4<f32>, dots: vec4<f32>, skip: f32) {
  let reach = exp(cum[STEPS - 1u] - cum[j]) * dots;
  out_parts[j * (PV + 1u) + v] = dot(x_tile[j * P_STRIDE + v], reach);
  store_dx(at, l0 + j, v, dt[j] * (inner + reach) + skip * dy_tile[j * P_STRIDE + v]);
}

fn form_dx(at: Place, l0: u32, t: u32, skip: f32) {
  let part = STEPS / EACH;
  for (var e = t; e < part * PV; e += WG) {
    let j = e / PV;
    let v = e % PV;
    var dots = array<vec4<f32>, EACH>();
    var inner = array<vec4<f32>, EACH>();
    for (var n = 0u; n < NV; n++) {
      var b: array<vec4<f32>, EACH>;
      for (var r = 0u; r < EACH; r++) { b[r] = b_tile[(j + r * part) * N_STRIDE + n]; }
      for (var q = 0u; q < 4u; q++) {
        let g = grad[(v + q * PV) * N_STRIDE + n];
        for (var r = 0u; r < EACH; r++) { dots[r][q] += dot(b[r], g); }
      }
    }
    for (var i = 0u; i < STEPS; i++) {
      let dy = dy_tile[i * P_STRIDE + v];
      for (var r = 0u; r < EACH; r++) { inner[r] += cb[i * (STEPS + 1u) + j + r * part] * dy; }
    }
    for (var r = 0u; r < EACH; r++) { finish_dx(at, l0, j + r * part, v, inner[r], dots[r], skip); }
  }
}

/** dB and dC of one token at column n; notes what reaches the token from S. */
fn finish_bc(at: Place, l0: u32, j: u32, n: u32, db: vec4<f32>, gx: vec4<f32>, dc: vec4<f32>, sdy: vec4<f32>) {
  let reach = exp(cum[j]) * sdy;
  in_parts[j * (NV + 1u) + n] = dot(c_tile[j * N_STRIDE + n], reach);
  store_db(at, l0 + j, n, dt[j] * (db + exp(cum[STEPS - 1u] - cum[j]) * gx));
  store_dc(at, l0 + j, n, dc + reach);
}

fn form_bc(at: Place, l0: u32, t: u32) {
  let part = STEPS / EACH;
  for (var e = t; e < part * NV; e += WG) {
    let j = e / NV;
    let n = e % NV;
    var gx = array<vec4<f32>, EACH>();
    var sdy = array<vec4<f32>, EACH>();
    var db = array<vec4<f32>, EACH>();
    var dc = array<vec4<f32>, EACH>();
    for (var v = 0u; v < PV; v++) {
      var x: array<vec4<f32>, EACH>;
      var dy: array<vec4<f32>, EACH>;
      for (var r = 0u; r < EACH; r++) {
        x[r] = x_tile[(j + r * part) * P_STRIDE + v];
        dy[r] = dy_tile[(j + r * part) * P_STRIDE + v];
      }
      for (var q = 0u; q < 4u; q++) {
        let g = grad[(v + q * PV) * N_STRIDE + n];
        let s = state[(v + q * PV) * N_STRIDE + n];
        for (var r = 0u; r < EACH; r++) {
          gx[r] += x[r][q] * g;
          sdy[r] += dy[r][q] * s;
        }
      }
    }
    for (var i = 0u; i < STEPS; i++) {
      let c = c_tile[i * N_STRIDE + n];
      let b = b_tile[i * N_STRIDE + n] * dt[i];
      for (var r = 0u; r < EACH; r++) {
        db[r] += xy[i * (STEPS + 1u) + j + r * part] * c;
        dc[r] += xy[(j + r * part) * (STEPS + 1u) + i] * b;
      }
    }
    for (var r = 0u; r < EACH; r++) { finish_bc(at, l0, j + r * part, n, db[r], gx[r], dc[r], sdy[r]); }
  }
}

/** Sums pairs over the sinks into `direct` and turns each row into running sums over its sources. */
fn sum_sources(t: u32) {
  if (t < STEPS) {
    var own = 0.0;
    for (var v = 0u; v < PV; v++) { own += out_parts[t * (PV + 1u) + v]; }
    pairs[STEPS * (STEPS + 1u) + t] = own;
    for (var i = t; i < STEPS; i++) { own += pairs[i * (STEPS + 1u) + t]; }
    direct[t] = own;
  }
  workgroupBarrier();
  if (t <= STEPS) {
    var run = 0.0;
    if (t < STEPS) {
      for (var n = 0u; n < NV; n++) { run += in_parts[t * (NV + 1u) + n]; }
    } else {
      for (var i = 0u; i < WG; i++) { run += through_parts[i]; }
      run *= exp(cum[STEPS - 1u]);
    }
    for (var j = 0u; j < STEPS; j++) {
      let pair = pairs[t * (STEPS + 1u) + j];
      pairs[t * (STEPS + 1u) + j] = run;
      run += pair * dt[j];
    }
  }
}

fn kernel(index: u32, t: u32) {
  let at = place_of(index);
  for (var e = t; e < P_BLOCK * NV; e += WG) { grad[cell_n(e)] = load_end(at, state_index(at), e); }
  // Gradients of A, D and dt_bias that this thread's tokens add.
  var head_sums = vec3<f32>();
  for (var k = params.tiles; k > 0u; k--) {
    let l0 = at.first + (k - 1u) * STEPS;
    if (l0 >= at.last) { continue; }
    load_tiles(at, l0, k - 1u, t);
    let step = sum_steps(at, l0, t);
    let a = step.y;
    fill_pairs(t);
    workgroupBarrier();
    form_dx(at, l0, t, step.z);
    form_bc(at, l0, t);
    var through = 0.0;
    for (var e = t; e < P_BLOCK * NV; e += WG) { through += dot(grad[cell_n(e)], state[cell_n(e)]); }
    through_parts[t] = through;
    workgroupBarrier();
    sum_sources(t);
    advance(t);
    workgroupBarrier();
    if (t < STEPS && l0 + t < at.last) {
      var flow = 0.0;
      for (var i = t; i <= STEPS; i++) { flow += pairs[i * (STEPS + 1u) + t]; }
      let draw = (direct[t] + a * flow) * step.w;
      store_ddts(step_index(at, l0 + t) * params.blocks + at.block, draw);
      head_sums += vec3<f32>(a * dt[t] * flow, xy[t * (STEPS + 1u) + t], draw);
    }
    workgroupBarrier();
  }
  if (t < STEPS) { token_sums[t] = head_sums; }
  workgroupBarrier();
  if (t == 0u) {
    var total = vec3<f32>();
    for (var i = 0u; i < STEPS; i++) { total += token_sums[i]; }
    put_sums(((at.batch * params.chunks + at.chunk) * params.blocks + at.block) * params.heads + at.head, total);
  }
  for (var e = t; e < P_BLOCK * NV; e += WG) { store_first(at, state_index(at), e, grad[cell_n(e)]); }
}
