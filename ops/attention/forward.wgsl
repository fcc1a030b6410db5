// Flash attention, forward (Dao et al. 2022): one workgroup a tile of ROWS query rows, online softmax over tiles of
// KEYS keys. A thread scores TR × TC pairs, then sums TO rows of one vec4 column of the output.
var<workgroup> q_tile: array<vec4<f32>, ROWS * STRIDE>;
/** The keys, then the values of a tile. */
var<workgroup> kv_tile: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> scores: array<f32, ROWS * PITCH>;
var<workgroup> row_keys: array<u32, ROWS>;
var<workgroup> row_scale: array<f32, ROWS>;
var<workgroup> partial: array<f32, THREADS>;

fn kernel(index: u32, t: u32) {
  let first = (index % params.tiles) * ROWS;
  let p = problem_of(index / params.tiles);

  for (var r = t; r < ROWS; r += THREADS) { row_keys[r] = row_seen(p, first + r); }
  for (var e = t; e < ROWS * DV; e += THREADS) {
    let r = e / DV;
    var value = vec4<f32>();
    if (first + r < rows_of_problem()) { value = load_q(row_offset(p, first + r), e % DV); }
    q_tile[r * STRIDE + e % DV] = value;
  }
  let tx = t % COLUMN_GROUPS;
  let ty = t / COLUMN_GROUPS;
  let soft_row = t / LANES;
  let lane = t % LANES;
  let out_column = t % DV;
  let out_row = t / DV;
  var out: array<vec4<f32>, TO>;
  var top = nothing();
  var sum = 0.0;

  let last = tile_seen(p, first, ROWS);
  for (var k0 = 0u; k0 < last; k0 += KEYS) {
    for (var e = t; e < KEYS * DV; e += THREADS) {
      let key = k0 + e / DV;
      var value = vec4<f32>();
      if (key < last) { value = load_k(key_offset(p, key), e % DV); }
      kv_tile[(e / DV) * STRIDE + e % DV] = value;
    }
    workgroupBarrier();
    var dots: array<f32, SCORES>;
    for (var i = 0u; i < SCORES; i++) { dots[i] = 0.0; }
    for (var d = 0u; d < DV; d++) {
      var keys: array<vec4<f32>, TC>;
      for (var j = 0u; j < TC; j++) { keys[j] = kv_tile[(tx + j * COLUMN_GROUPS) * STRIDE + d]; }
      for (var i = 0u; i < TR; i++) {
        let query = q_tile[(ty + i * ROW_GROUPS) * STRIDE + d];
        for (var j = 0u; j < TC; j++) { dots[i * TC + j] += dot(query, keys[j]); }
      }
    }
    for (var j = 0u; j < TC; j++) {
      let column = tx + j * COLUMN_GROUPS;
      for (var i = 0u; i < TR; i++) {
        let r = ty + i * ROW_GROUPS;
        let seen = k0 + column < row_keys[r];
        scores[r * PITCH + column] = score(dots[i * TC + j], p, first + r, k0 + column, seen);
      }
    }
    workgroupBarrier();
    for (var e = t; e < KEYS * DV; e += THREADS) {
      let key = k0 + e / DV;
      var value = vec4<f32>();
      if (key < last) { value = load_v(key_offset(p, key), e % DV); }
      kv_tile[(e / DV) * STRIDE + e % DV] = value;
    }
    let before = top;
    for (var j = lane; j < KEYS; j += LANES) { top = max(top, scores[soft_row * PITCH + j]); }
    partial[t] = top;
    workgroupBarrier();
    for (var j = 0u; j < LANES; j++) { top = max(top, partial[soft_row * LANES + j]); }
    let shrink = weight(before, top);
    sum *= shrink;
    for (var j = lane; j < KEYS; j += LANES) {
      let w = weight(scores[soft_row * PITCH + j], top);
      scores[soft_row * PITCH + j] = w;
      sum += w;
    }
    if (lane == 0u) { row_scale[soft_row] = shrink; }
    workgroupBarrier();
    for (var i = 0u; i < TO; i++) { out[i] *= row_scale[min(out_row + i * OUT_ROWS, ROWS - 1u)]; }
    if (tile_whole(p, first, ROWS) >= k0 + KEYS) {
      for (var key = 0u; key < KEYS; key++) {
        let value = kv_tile[key * STRIDE + out_column];
        for (var i = 0u; i < TO; i++) {
          out[i] += scores[min(out_row + i * OUT_ROWS, ROWS - 1u) * PITCH + key] * value;
        }
      }
    } else {
      for (var key = 0u; key < min(last - k0, KEYS); key++) {
        let value = kv_tile[key * STRIDE + out_column];
        for (var i = 0u; i < TO; i++) {
          let r = min(out_row + i * OUT_ROWS, ROWS - 1u);
          if (k0 + key < row_keys[r]) { out[i] += scores[r * PITCH + key] * value; }
        }
      }
    }
    workgroupBarrier();
  }

  partial[t] = sum;
  workgroupBarrier();
  if (lane == 0u) {
    var total = 0.0;
    for (var j = 0u; j < LANES; j++) { total += partial[t + j]; }
    // A row that sees no key is 0, and so are its gradients.
    row_scale[soft_row] = inverse(total);
    if (first + soft_row < rows_of_problem()) {
      put_stats(row_stat(p, first + soft_row), top, total);
    }
  }
  workgroupBarrier();
  for (var i = 0u; i < TO; i++) {
    let r = out_row + i * OUT_ROWS;
    if (out_row < OUT_ROWS && r < ROWS && first + r < rows_of_problem()) {
      store_o(row_offset(p, first + r), out_column, out[i] * row_scale[r]);
    }
  }
}
