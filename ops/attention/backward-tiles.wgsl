// What the backward kernels over tiles share (FlashAttention-2, Dao 2023): ROWS query rows with q and do, KEYS keys
// with k and v, and for each pair of them its weight p, computed anew, and its slope ds.
var<workgroup> q_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> do_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> k_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> v_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> p_tile: array<f32, ROWS * PITCH>;
var<workgroup> ds_tile: array<f32, ROWS * PITCH>;
/** Keys that each row sees, and its statistics. */
var<workgroup> row_keys: array<u32, ROWS>;
var<workgroup> stat_tile: array<vec4<f32>, ROWS>;

fn load_rows(p: Problem, first: u32, t: u32) {
  for (var r = t; r < ROWS; r += THREADS) {
    row_keys[r] = row_seen(p, first + r);
    stat_tile[r] = vec4<f32>();
    if (first + r < rows_of_problem()) { stat_tile[r] = load_row_stats(row_stat(p, first + r)); }
  }
  for (var e = t; e < ROWS * DV; e += THREADS) {
    let r = first + e / DV;
    var query = vec4<f32>();
    var grad = vec4<f32>();
    if (r < rows_of_problem()) {
      query = load_q(row_offset(p, r), e % DV);
      grad = load_do(row_offset(p, r), e % DV);
    }
    q_tile[(e / DV) * STRIDE + e % DV] = query;
    do_tile[(e / DV) * STRIDE + e % DV] = grad;
  }
}

/** Those from `end` on are left 0. */
fn load_keys(p: Problem, k0: u32, end: u32, t: u32) {
  for (var e = t; e < KEYS * DV; e += THREADS) {
    let key = k0 + e / DV;
    var k4 = vec4<f32>();
    var v4 = vec4<f32>();
    if (key < end) {
      k4 = load_k(key_offset(p, key), e % DV);
      v4 = load_v(key_offset(p, key), e % DV);
    }
    k_tile[(e / DV) * STRIDE + e % DV] = k4;
    v_tile[(e / DV) * STRIDE + e % DV] = v4;
  }
}

/** Each thread does TR × TC pairs. */
fn weigh(p: Problem, first: u32, k0: u32, t: u32) {
  let tx = t % COLUMN_GROUPS;
  let ty = t / COLUMN_GROUPS;
  var products: array<vec2<f32>, SCORES>;
  for (var i = 0u; i < SCORES; i++) { products[i] = vec2<f32>(); }
  for (var d = 0u; d < DV; d++) {
    var keys: array<vec4<f32>, TC>;
    var values: array<vec4<f32>, TC>;
    for (var j = 0u; j < TC; j++) {
      keys[j] = k_tile[(tx + j * COLUMN_GROUPS) * STRIDE + d];
      values[j] = v_tile[(tx + j * COLUMN_GROUPS) * STRIDE + d];
    }
    for (var i = 0u; i < TR; i++) {
      let query = q_tile[(ty + i * ROW_GROUPS) * STRIDE + d];
      let grad = do_tile[(ty + i * ROW_GROUPS) * STRIDE + d];
      for (var j = 0u; j < TC; j++) {
        products[i * TC + j] += vec2<f32>(dot(query, keys[j]), dot(grad, values[j]));
      }
    }
  }
  for (var j = 0u; j < TC; j++) {
    let column = tx + j * COLUMN_GROUPS;
    for (var i = 0u; i < TR; i++) {
      let r = ty + i * ROW_GROUPS;
      let seen = k0 + column < row_keys[r];
      let w = weight_and_slope(products[i * TC + j], stat_tile[r], p, first + r, k0 + column, seen);
      p_tile[r * PITCH + column] = w.x;
      ds_tile[r * PITCH + column] = w.y;
    }
  }
}
