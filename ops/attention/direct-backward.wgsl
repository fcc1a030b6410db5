// Attention, backward, without tiles: a thread forms dq of one query row, or with OF_KEYS dk and dv of one key, whose
// rows of all heads that the key's head serves it walks over. x and y are q and do of a row, and k and v of a key.
const OF_KEYS = WANT_KEYS == 1u;

fn offset(of_key: bool, p: Problem, i: u32) -> u32 {
  if (of_key) { return key_offset(p, i); }
  return row_offset(p, i);
}
fn load_x(of_key: bool, at: u32, d: u32) -> vec4<f32> {
  if (of_key) { return load_k(at, d); }
  return load_q(at, d);
}
fn load_y(of_key: bool, at: u32, d: u32) -> vec4<f32> {
  if (of_key) { return load_v(at, d); }
  return load_do(at, d);
}

fn kernel(group: u32, t: u32) {
  let index = group * THREADS + t;
  let items = select(rows_of_problem(), params.keys, OF_KEYS);
  if (index >= items * params.problems) { return; }
  let p = problem_of(index / items);
  let own = index % items;
  let at = offset(OF_KEYS, p, own);
  var x: array<vec4<f32>, DV>;
  var y: array<vec4<f32>, DV>;
  var dx: array<vec4<f32>, DV>;
  var dy: array<vec4<f32>, DV>;
  for (var d = 0u; d < vectors(); d++) {
    x[d] = load_x(OF_KEYS, at, d);
    y[d] = load_y(OF_KEYS, at, d);
    dx[d] = vec4<f32>();
    dy[d] = vec4<f32>();
  }
  let others = select(row_seen(p, own), rows_of_problem(), OF_KEYS);
  for (var other = 0u; other < others; other++) {
    let r = select(own, other, OF_KEYS);
    let key = select(other, own, OF_KEYS);
    if (key >= row_seen(p, r)) { continue; }
    let from_other = offset(!OF_KEYS, p, other);
    var products = vec2<f32>();
    for (var d = 0u; d < vectors(); d++) {
      products.x += dot(x[d], load_x(!OF_KEYS, from_other, d));
      products.y += dot(y[d], load_y(!OF_KEYS, from_other, d));
    }
    let w = weight_and_slope(products, load_row_stats(row_stat(p, r)), p, r, key, true);
    for (var d = 0u; d < vectors(); d++) {
      dx[d] += w.y * load_x(!OF_KEYS, from_other, d);
      if (OF_KEYS) { dy[d] += w.x * load_y(!OF_KEYS, from_other, d); }
    }
  }
  for (var d = 0u; d < vectors(); d++) {
    if (OF_KEYS) {
      store_dk(at, d, dx[d]);
      store_dv(at, d, dy[d]);
    } else {
      store_dq(at, d, dx[d]);
    }
  }
}
