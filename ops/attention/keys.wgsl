// Flash attention, backward over keys: a workgroup owns a tile of keys and walks over all query rows that see it, of
// every query head that its key head serves, so that dk and dv are summed in one fixed order.
fn kernel(index: u32, t: u32) {
  let k0 = (index % params.tiles) * KEYS;
  let p = problem_of(index / params.tiles);
  load_keys(p, k0, params.keys, t);
  let out_column = t % DV;
  let out_row = t / DV;
  var dk: array<vec4<f32>, TK>;
  var dv: array<vec4<f32>, TK>;

  for (var first = 0u; first < rows_of_problem(); first += ROWS) {
    if (tile_seen(p, first, ROWS) <= k0) { continue; }
    load_rows(p, first, t);
    workgroupBarrier();
    weigh(p, first, k0, t);
    workgroupBarrier();
    if (tile_whole(p, first, ROWS) >= k0 + KEYS) {
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
        for (var i = 0u; i < TK; i++) {
          let c = min(out_row + i * OUT_ROWS, KEYS - 1u);
          if (k0 + c >= row_keys[r]) { continue; }
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
      store_dk(key_offset(p, k0 + c), out_column, dk[i]);
      store_dv(key_offset(p, k0 + c), out_column, dv[i]);
    }
  }
}
