// SSD scan, backward: walks the tiles of a chunk from its end, carrying G, the gradient of the state. With
// cb = L ∘ C Bᵀ, xy = L ∘ dy xᵀ, S the state the tile starts from, e_i = exp(cum_i), d_j = exp(cum_last − cum_j):
//   dx_j = dt_j (Σ_i cb_ij dy_i + d_j G B_j) + D dy_j
//   dB_j = dt_j (Σ_i xy_ij C_i + d_j Gᵀ x_j)        dC_i = Σ_j xy_ij dt_j B_j + e_i Sᵀ dy_i
//   G ← exp(cum_last) G + Σ_i e_i dy_i C_iᵀ
// The gradient of dt_t A is what flows over token t: the sum of all pairs (source before t, sink at t or after), the
// state the tile starts from being the first source and G the last sink. It is summed as such, not as a difference of
// large numbers.
var<workgroup> state: array<vec4<f32>, P_BLOCK * N_STRIDE>;
var<workgroup> grad: array<vec4<f32>, P_BLOCK * N_STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, STEPS * N_STRIDE>;
var<workgroup> c_tile: array<vec4<f32>, STEPS * N_STRIDE>;
var<workgroup> x_tile: array<vec4<f32>, STEPS * P_STRIDE>;
var<workgroup> dy_tile: array<vec4<f32>, STEPS * P_STRIDE>;
var<workgroup> cb: array<f32, STEPS * (STEPS + 1u)>;
var<workgroup> xy: array<f32, STEPS * (STEPS + 1u)>;
/** Pairs cb ∘ xy without the second L, then running sums of them over the sources; the last row is the sink G. */
var<workgroup> pairs: array<f32, (STEPS + 1u) * (STEPS + 1u)>;
var<workgroup> dt: array<f32, STEPS>;
var<workgroup> cum: array<f32, STEPS>;
/** Per token: what reaches it from S, what it sends to G, its own ∂/∂dt. Sums of the parts in *_parts. */
var<workgroup> direct: array<f32, STEPS>;
var<workgroup> in_parts: array<f32, STEPS * (NV + 1u)>;
var<workgroup> out_parts: array<f32, STEPS * (PV + 1u)>;
var<workgroup> through_parts: array<f32, THREADS>;
var<workgroup> token_sums: array<vec3<f32>, STEPS>;

fn causal(i: u32, j: u32) -> f32 { return select(0.0, exp(min(cum[i] - cum[j], 0.0)), j <= i); }

fn put_pair(i: u32, j: u32, c_b: f32, d_x: f32) {
  let l = causal(i, j);
  cb[i * (STEPS + 1u) + j] = l * c_b;
  xy[i * (STEPS + 1u) + j] = l * d_x;
  pairs[i * (STEPS + 1u) + j] = l * c_b * d_x;
}

fn load_tiles(at: Place, l0: u32, tile: u32, t: u32) {
  for (var e = t; e < P_BLOCK * NV; e += THREADS) {
    let p = e / NV;
    var value = vec4<f32>();
    if (row_of(at, p) < params.p) {
      value = load_state((state_index(at) * params.tiles + tile) * params.p + row_of(at, p), e % NV);
    }
    state[p * N_STRIDE + e % NV] = value;
  }
  for (var e = t; e < STEPS * NV; e += THREADS) {
    let i = e / NV;
    var b = vec4<f32>();
    var c = vec4<f32>();
    if (l0 + i < at.last) {
      b = load_b(group_row(at, l0 + i), e % NV);
      c = load_c(group_row(at, l0 + i), e % NV);
    }
    b_tile[i * N_STRIDE + e % NV] = b;
    c_tile[i * N_STRIDE + e % NV] = c;
  }
  for (var e = t; e < STEPS * PV; e += THREADS) {
    let i = e / PV;
    var x = vec4<f32>();
    var dy = vec4<f32>();
    if (l0 + i < at.last) {
      x = load_x(at, l0 + i, e % PV);
      dy = load_dy(at, l0 + i, e % PV);
    }
    x_tile[i * P_STRIDE + e % PV] = x;
    dy_tile[i * P_STRIDE + e % PV] = dy;
  }
}

/** cb, xy and pairs, two by two. */
fn fill_pairs(t: u32) {
  let half = STEPS / 2u;
  for (var e = t; e < half * half; e += THREADS) {
    let i = e / half;
    let j = e % half;
    var c_b = vec4<f32>();
    for (var n = 0u; n < upto(NV); n++) {
      let c0 = c_tile[i * N_STRIDE + n];
      let c1 = c_tile[(i + half) * N_STRIDE + n];
      let b0 = b_tile[j * N_STRIDE + n];
      let b1 = b_tile[(j + half) * N_STRIDE + n];
      c_b += vec4<f32>(dot(c0, b0), dot(c0, b1), dot(c1, b0), dot(c1, b1));
    }
    var d_x = vec4<f32>();
    for (var v = 0u; v < upto(PV); v++) {
      let d0 = dy_tile[i * P_STRIDE + v];
      let d1 = dy_tile[(i + half) * P_STRIDE + v];
      let x0 = x_tile[j * P_STRIDE + v];
      let x1 = x_tile[(j + half) * P_STRIDE + v];
      d_x += vec4<f32>(dot(d0, x0), dot(d0, x1), dot(d1, x0), dot(d1, x1));
    }
    put_pair(i, j, c_b.x, d_x.x);
    put_pair(i, j + half, c_b.y, d_x.y);
    put_pair(i + half, j, c_b.z, d_x.z);
    put_pair(i + half, j + half, c_b.w, d_x.w);
  }
}

/** dx of one token at column v from its sum over cb and its dots with G; notes what the token sends to G. */
fn finish_dx(at: Place, l0: u32, j: u32, v: u32, inner: vec4<f32>, dots: vec4<f32>, skip: f32) {
  let reach = exp(cum[STEPS - 1u] - cum[j]) * dots;
  out_parts[j * (PV + 1u) + v] = dot(x_tile[j * P_STRIDE + v], reach);
  if (l0 + j < at.last) {
    store_dx(at, l0 + j, v, dt[j] * (inner + reach) + skip * dy_tile[j * P_STRIDE + v]);
  }
}

fn form_dx(at: Place, l0: u32, t: u32, skip: f32) {
  let half = STEPS / 2u;
  for (var e = t; e < half * PV; e += THREADS) {
    let j = e / PV;
    let v = e % PV;
    var dots0 = vec4<f32>();
    var dots1 = vec4<f32>();
    for (var n = 0u; n < upto(NV); n++) {
      let b0 = b_tile[j * N_STRIDE + n];
      let b1 = b_tile[(j + half) * N_STRIDE + n];
      let g0 = grad[v * N_STRIDE + n];
      let g1 = grad[(v + PV) * N_STRIDE + n];
      let g2 = grad[(v + 2u * PV) * N_STRIDE + n];
      let g3 = grad[(v + 3u * PV) * N_STRIDE + n];
      dots0 += vec4<f32>(dot(b0, g0), dot(b0, g1), dot(b0, g2), dot(b0, g3));
      dots1 += vec4<f32>(dot(b1, g0), dot(b1, g1), dot(b1, g2), dot(b1, g3));
    }
    var inner0 = vec4<f32>();
    var inner1 = vec4<f32>();
    for (var i = 0u; i < upto(STEPS); i++) {
      let dy = dy_tile[i * P_STRIDE + v];
      inner0 += cb[i * (STEPS + 1u) + j] * dy;
      inner1 += cb[i * (STEPS + 1u) + j + half] * dy;
    }
    finish_dx(at, l0, j, v, inner0, dots0, skip);
    finish_dx(at, l0, j + half, v, inner1, dots1, skip);
  }
}

/** dB and dC of one token at column n; notes what reaches the token from S. */
fn finish_bc(at: Place, l0: u32, j: u32, n: u32, db: vec4<f32>, gx: vec4<f32>, dc: vec4<f32>, sdy: vec4<f32>) {
  let reach = exp(cum[j]) * sdy;
  in_parts[j * (NV + 1u) + n] = dot(c_tile[j * N_STRIDE + n], reach);
  if (l0 + j < at.last) {
    let row = step_index(at, l0 + j) * params.blocks + at.block;
    store_db(row, n, dt[j] * (db + exp(cum[STEPS - 1u] - cum[j]) * gx));
    store_dc(row, n, dc + reach);
  }
}

fn form_bc(at: Place, l0: u32, t: u32) {
  let half = STEPS / 2u;
  for (var e = t; e < half * NV; e += THREADS) {
    let j = e / NV;
    let n = e % NV;
    var gx0 = vec4<f32>();
    var gx1 = vec4<f32>();
    var sdy0 = vec4<f32>();
    var sdy1 = vec4<f32>();
    for (var v = 0u; v < upto(PV); v++) {
      let x0 = x_tile[j * P_STRIDE + v];
      let x1 = x_tile[(j + half) * P_STRIDE + v];
      let d0 = dy_tile[j * P_STRIDE + v];
      let d1 = dy_tile[(j + half) * P_STRIDE + v];
      for (var c = 0u; c < 4u; c++) {
        let g = grad[(v + c * PV) * N_STRIDE + n];
        let s = state[(v + c * PV) * N_STRIDE + n];
        gx0 += x0[c] * g;
        gx1 += x1[c] * g;
        sdy0 += d0[c] * s;
        sdy1 += d1[c] * s;
      }
    }
    var db0 = vec4<f32>();
    var db1 = vec4<f32>();
    var dc0 = vec4<f32>();
    var dc1 = vec4<f32>();
    for (var i = 0u; i < upto(STEPS); i++) {
      let c = c_tile[i * N_STRIDE + n];
      let b = b_tile[i * N_STRIDE + n] * dt[i];
      db0 += xy[i * (STEPS + 1u) + j] * c;
      db1 += xy[i * (STEPS + 1u) + j + half] * c;
      dc0 += xy[j * (STEPS + 1u) + i] * b;
      dc1 += xy[(j + half) * (STEPS + 1u) + i] * b;
    }
    finish_bc(at, l0, j, n, db0, gx0, dc0, sdy0);
    finish_bc(at, l0, j + half, n, db1, gx1, dc1, sdy1);
  }
}

/** Sums pairs over the sinks into `direct` and turns each row into running sums over its sources. */
fn sum_sources(t: u32) {
  if (t < STEPS) {
    var own = 0.0;
    for (var v = 0u; v < upto(PV); v++) { own += out_parts[t * (PV + 1u) + v]; }
    pairs[STEPS * (STEPS + 1u) + t] = own;
    for (var i = t; i < STEPS; i++) { own += pairs[i * (STEPS + 1u) + t]; }
    direct[t] = own;
  }
  workgroupBarrier();
  if (t <= STEPS) {
    var run = 0.0;
    if (t < STEPS) {
      for (var n = 0u; n < upto(NV); n++) { run += in_parts[t * (NV + 1u) + n]; }
    } else {
      for (var i = 0u; i < upto(THREADS); i++) { run += through_parts[i]; }
      run *= exp(cum[STEPS - 1u]);
    }
    for (var j = 0u; j < upto(STEPS); j++) {
      let pair = pairs[t * (STEPS + 1u) + j];
      pairs[t * (STEPS + 1u) + j] = run;
      run += pair * dt[j];
    }
  }
}

fn advance_grad(t: u32) {
  let shrink = exp(cum[STEPS - 1u]);
  for (var e = t; e < PV * NV; e += THREADS) {
    let v = e / NV;
    let n = e % NV;
    var g0 = grad[v * N_STRIDE + n] * shrink;
    var g1 = grad[(v + PV) * N_STRIDE + n] * shrink;
    var g2 = grad[(v + 2u * PV) * N_STRIDE + n] * shrink;
    var g3 = grad[(v + 3u * PV) * N_STRIDE + n] * shrink;
    for (var i = 0u; i < upto(STEPS); i++) {
      let dy = dy_tile[i * P_STRIDE + v] * exp(cum[i]);
      let c = c_tile[i * N_STRIDE + n];
      g0 += dy.x * c;
      g1 += dy.y * c;
      g2 += dy.z * c;
      g3 += dy.w * c;
    }
    grad[v * N_STRIDE + n] = g0;
    grad[(v + PV) * N_STRIDE + n] = g1;
    grad[(v + 2u * PV) * N_STRIDE + n] = g2;
    grad[(v + 3u * PV) * N_STRIDE + n] = g3;
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let index = flat_group(group, groups);
  if (index >= params.total) { return; }
  let at = place_of(index);
  for (var e = t; e < P_BLOCK * NV; e += THREADS) {
    let p = e / NV;
    var value = vec4<f32>();
    if (row_of(at, p) < params.p) { value = load_end(state_index(at) * params.p + row_of(at, p), e % NV); }
    grad[p * N_STRIDE + e % NV] = value;
  }
  // Gradients of A, D and dt_bias that this thread's tokens add.
  var head_sums = vec3<f32>();
  for (var k = params.tiles; k > 0u; k--) {
    let l0 = at.first + (k - 1u) * STEPS;
    if (l0 >= at.last) { continue; }
    load_tiles(at, l0, k - 1u, t);
    let step = steps[step_index(at, min(l0 + t, at.last - 1u))];
    let a = step.y;
    if (t < STEPS) { dt[t] = select(0.0, step.x, l0 + t < at.last); }
    workgroupBarrier();
    if (t < STEPS) {
      var sum = 0.0;
      for (var j = 0u; j <= t; j++) { sum += dt[j]; }
      cum[t] = sum * a;
    }
    workgroupBarrier();
    fill_pairs(t);
    workgroupBarrier();
    form_dx(at, l0, t, step.z);
    form_bc(at, l0, t);
    var through = 0.0;
    for (var e = t; e < P_BLOCK * NV; e += THREADS) {
      let cell = (e / NV) * N_STRIDE + e % NV;
      through += dot(grad[cell], state[cell]);
    }
    through_parts[t] = through;
    workgroupBarrier();
    sum_sources(t);
    advance_grad(t);
    workgroupBarrier();
    if (t < STEPS && l0 + t < at.last) {
      var flow = 0.0;
      for (var i = t; i <= STEPS; i++) { flow += pairs[i * (STEPS + 1u) + t]; }
      let draw = (direct[t] + a * flow) * step.w;
      store_ddt(step_index(at, l0 + t) * params.blocks + at.block, draw);
      head_sums += vec3<f32>(a * dt[t] * flow, xy[t * (STEPS + 1u) + t], draw);
    }
    workgroupBarrier();
  }
  if (t < STEPS) { token_sums[t] = head_sums; }
  workgroupBarrier();
  if (t == 0u) {
    var total = vec3<f32>();
    for (var i = 0u; i < STEPS; i++) { total += token_sums[i]; }
    store_sums(((at.batch * params.chunks + at.chunk) * params.blocks + at.block) * params.heads + at.head, total);
  }
  for (var e = t; e < P_BLOCK * NV; e += THREADS) {
    let p = e / NV;
    if (row_of(at, p) < params.p) {
      store_first(state_index(at) * params.p + row_of(at, p), e % NV, grad[p * N_STRIDE + e % NV]);
    }
  }
}
