// Flash attention, backward over keys: a workgroup owns a tile of keys and walks over all query rows that see it, of
// every query head that its key head serves, so that dk and dv are summed in one fixed order.
var<workgroup> q_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> do_tile: array<vec4<f32>, ROWS * STRIDE>;
var<workgroup> k_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> v_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> p_tile: array<f32, ROWS * PITCH>;
var<workgroup> ds_tile: array<f32, ROWS * PITCH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let index = flat_group(group, groups);
  if (index >= params.tiles * params.problems) { return; }
  let k0 = (index % params.tiles) * KEYS;
  let problem = index / params.tiles;
  let b = problem / params.kv_heads;
  let kv = problem % params.kv_heads;

  for (var e = t; e < KEYS * DV; e += THREADS) {
    let key = k0 + e / DV;
    var k4 = vec4<f32>();
    var v4 = vec4<f32>();
    if (key < params.keys) {
      k4 = load_k(key_offset(b, kv, key), e % DV);
      v4 = load_v(key_offset(b, kv, key), e % DV);
    }
    k_tile[(e / DV) * STRIDE + e % DV] = k4;
    v_tile[(e / DV) * STRIDE + e % DV] = v4;
  }
  let tx = t % COLUMN_GROUPS;
  let ty = t / COLUMN_GROUPS;
  let out_column = t % DV;
  let out_row = t / DV;
  var dk: array<vec4<f32>, TK>;
  var dv: array<vec4<f32>, TK>;

  for (var first = 0u; first < rows_of_problem(); first += ROWS) {
    if (tile_seen(b, first, ROWS) <= k0) { continue; }
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
    for (var i = 0u; i < TR; i++) {
      let r = ty + i * ROW_GROUPS;
      let seen = row_seen(b, first + r);
      var stat = vec4<f32>();
      if (first + r < rows_of_problem()) { stat = row_stats[row_stat(b, kv, first + r)]; }
      for (var j = 0u; j < TC; j++) {
        let column = tx + j * COLUMN_GROUPS;
        let s = dots[i * TC + j];
        let open = key_open(b, k0 + column);
        let p = select(0.0, known_weight(score(s.x, open), stat), k0 + column < seen);
        p_tile[r * PITCH + column] = p;
        ds_tile[r * PITCH + column] = select(0.0, p * (s.y - stat.z) * params.scale, open && k0 + column < seen);
      }
    }
    workgroupBarrier();
    if (tile_whole(b, first, ROWS) >= k0 + KEYS) {
      for (var r = 0u; r < ROWS; r++) {
        let query = q_tile[r * STRIDE + out_column];
        let grad = do_tile[r * STRIDE + out_column];
        for (var i = 0u; i < TK; i++) {
          let c = min(out_row + i * OUT_ROWS, KEYS - 1u);
          dk[i] += ds_tile[r * PITCH + c] * query;
          dv[i] += p_tile[r * PITCH + c] * grad;
        }
      }
    } else {
      for (var r = 0u; r < ROWS; r++) {
        let query = q_tile[r * STRIDE + out_column];
        let grad = do_tile[r * STRIDE + out_column];
        let seen = row_seen(b, first + r);
        for (var i = 0u; i < TK; i++) {
          let c = min(out_row + i * OUT_ROWS, KEYS - 1u);
          if (k0 + c >= seen) { continue; }
          dk[i] += ds_tile[r * PITCH + c] * query;
          dv[i] += p_tile[r * PITCH + c] * grad;
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TK; i++) {
    let c = out_row + i * OUT_ROWS;
    if (out_row < OUT_ROWS && c < KEYS && k0 + c < params.keys) {
      store_dk(key_offset(b, kv, k0 + c), out_column, dk[i]);
      store_dv(key_offset(b, kv, k0 + c), out_column, dv[i]);
    }
  }
}
