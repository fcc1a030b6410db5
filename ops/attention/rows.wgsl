// Flash attention, backward over query rows: dq, and with FUSED, when one tile holds all rows, dk and dv as well.
// p = exp(s − lse) is computed anew; ds = p ∘ (do·v − delta) · scale.
var<workgroup> q_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> do_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> k_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> v_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> p_tile: array<f32, FUSED * (ROWS * PITCH - 1u) + 1u>;
var<workgroup> ds_tile: array<f32, ROWS * PITCH>;
var<workgroup> row_keys: array<u32, ROWS>;
var<workgroup> stat_tile: array<vec4<f32>, ROWS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let index = flat_group(group, groups);
  if (index >= params.tiles * params.problems) { return; }
  let first = (index % params.tiles) * ROWS;
  let problem = index / params.tiles;
  let b = problem / params.kv_heads;
  let kv = problem % params.kv_heads;

  for (var r = t; r < ROWS; r += THREADS) {
    row_keys[r] = row_seen(b, first + r);
    stat_tile[r] = vec4<f32>();
    if (first + r < rows_of_problem()) { stat_tile[r] = row_stats[row_stat(b, kv, first + r)]; }
  }
  for (var e = t; e < ROWS * DV; e += THREADS) {
    let r = first + e / DV;
    var query = vec4<f32>();
    var grad = vec4<f32>();
    if (r < rows_of_problem()) {
      query = load_q(row_offset(b, kv, r), e % DV);
      grad = load_do(row_offset(b, kv, r), e % DV);
    }
    q_tile[(e / DV) * STRIDE + e % DV] = query;
    do_tile[(e / DV) * STRIDE + e % DV] = grad;
  }
  let tx = t % COLUMN_GROUPS;
  let ty = t / COLUMN_GROUPS;
  let out_column = t % DV;
  let out_row = t / DV;
  var dq: array<vec4<f32>, TO>;

  let seen = tile_seen(b, first, ROWS);
  let last = select(seen, params.keys, FUSED == 1u);
  for (var k0 = 0u; k0 < last; k0 += KEYS) {
    for (var e = t; e < KEYS * DV; e += THREADS) {
      let key = k0 + e / DV;
      var k4 = vec4<f32>();
      var v4 = vec4<f32>();
      if (key < seen) {
        k4 = load_k(key_offset(b, kv, key), e % DV);
        v4 = load_v(key_offset(b, kv, key), e % DV);
      }
      k_tile[(e / DV) * STRIDE + e % DV] = k4;
      v_tile[(e / DV) * STRIDE + e % DV] = v4;
    }
    workgroupBarrier();
    var dots: array<vec2<f32>, SCORES>;
    for (var i = 0u; i < SCORES; i++) { dots[i] = vec2<f32>(); }
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
          dots[i * TC + j] += vec2<f32>(dot(query, keys[j]), dot(grad, values[j]));
        }
      }
    }
    for (var j = 0u; j < TC; j++) {
      let column = tx + j * COLUMN_GROUPS;
      let open = key_open(b, k0 + column);
      for (var i = 0u; i < TR; i++) {
        let r = ty + i * ROW_GROUPS;
        let stat = stat_tile[r];
        let s = dots[i * TC + j];
        let seen = k0 + column < row_keys[r];
        let p = select(0.0, known_weight(score(s.x, open), stat), seen);
        if (FUSED == 1u) { p_tile[r * PITCH + column] = p; }
        ds_tile[r * PITCH + column] = select(0.0, p * (s.y - stat.z) * params.scale, open && seen);
      }
    }
    workgroupBarrier();
    let whole = tile_whole(b, first, ROWS);
    if (whole >= k0 + KEYS) {
      for (var key = 0u; key < KEYS; key++) {
        let k4 = k_tile[key * STRIDE + out_column];
        for (var i = 0u; i < TO; i++) {
          dq[i] += ds_tile[min(out_row + i * OUT_ROWS, ROWS - 1u) * PITCH + key] * k4;
        }
      }
    } else {
      for (var key = 0u; key < KEYS; key++) {
        let k4 = k_tile[key * STRIDE + out_column];
        for (var i = 0u; i < TO; i++) {
          let r = min(out_row + i * OUT_ROWS, ROWS - 1u);
          if (k0 + key < row_keys[r]) { dq[i] += ds_tile[r * PITCH + key] * k4; }
        }
      }
    }
    if (FUSED == 1u && out_row < OUT_ROWS) {
      for (var c = out_row; c < KEYS && k0 + c < params.keys; c += OUT_ROWS) {
        var dk = vec4<f32>();
        var dv = vec4<f32>();
        for (var r = 0u; r < ROWS; r++) {
          if (k0 + c >= whole && k0 + c >= row_keys[r]) { continue; }
          dk += ds_tile[r * PITCH + c] * q_tile[r * STRIDE + out_column];
          dv += p_tile[r * PITCH + c] * do_tile[r * STRIDE + out_column];
        }
        store_dk(key_offset(b, kv, k0 + c), out_column, dk);
        store_dv(key_offset(b, kv, k0 + c), out_column, dv);
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TO; i++) {
    let r = out_row + i * OUT_ROWS;
    if (out_row < OUT_ROWS && r < ROWS && first + r < rows_of_problem()) {
      store_dq(row_offset(b, kv, first + r), out_column, dq[i]);
    }
  }
}
