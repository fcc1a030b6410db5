// Flash attention, backward over query rows: dq, and with FUSED, when one tile holds all rows, dk and dv as well.
const FUSED = WANT_KEYS == 1u;

fn kernel(index: u32, t: u32) {
  let first = (index % params.tiles) * ROWS;
  let p = problem_of(index / params.tiles);
  load_rows(p, first, t);
  let out_column = t % DV;
  let out_row = t / DV;
  var dq: array<vec4<f32>, TO>;

  let seen = tile_seen(p, first, ROWS);
  let whole = tile_whole(p, first, ROWS);
  let last = select(seen, params.keys, FUSED);
  for (var k0 = 0u; k0 < last; k0 += KEYS) {
    load_keys(p, k0, seen, t);
    workgroupBarrier();
    weigh(p, first, k0, t);
    workgroupBarrier();
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
    if (FUSED && out_row < OUT_ROWS) {
      for (var c = out_row; c < KEYS && k0 + c < params.keys; c += OUT_ROWS) {
        var dk = vec4<f32>();
        var dv = vec4<f32>();
        for (var r = 0u; r < ROWS; r++) {
          if (k0 + c >= whole && k0 + c >= row_keys[r]) { continue; }
          dk += ds_tile[r * PITCH + c] * q_tile[r * STRIDE + out_column];
          dv += p_tile[r * PITCH + c] * do_tile[r * STRIDE + out_column];
        }
        store_dk(key_offset(p, k0 + c), out_column, dk);
        store_dv(key_offset(p, k0 + c), out_column, dv);
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TO; i++) {
    let r = out_row + i * OUT_ROWS;
    if (out_row < OUT_ROWS && r < ROWS && first + r < rows_of_problem()) {
      store_dq(row_offset(p, first + r), out_column, dq[i]);
    }
  }
}
