// Attention, forward, without tiles or barriers: a thread takes one query row.
fn kernel(group: u32, t: u32) {
  let index = group * THREADS + t;
  let rows = rows_of_problem();
  if (index >= rows * params.problems) { return; }
  let p = problem_of(index / rows);
  let r = index % rows;
  let at = row_offset(p, r);
  var q: array<vec4<f32>, DV>;
  var o: array<vec4<f32>, DV>;
  for (var d = 0u; d < vectors(); d++) {
    q[d] = load_q(at, d);
    o[d] = vec4<f32>();
  }
  var top = nothing();
  var sum = 0.0;
  let seen = row_seen(p, r);
  for (var key = 0u; key < seen; key++) {
    let from_key = key_offset(p, key);
    var product = 0.0;
    for (var d = 0u; d < vectors(); d++) { product += dot(q[d], load_k(from_key, d)); }
    let s = score(product, p, r, key, true);
    let before = top;
    top = max(top, s);
    let shrink = weight(before, top);
    let w = weight(s, top);
    sum = sum * shrink + w;
    for (var d = 0u; d < vectors(); d++) { o[d] = o[d] * shrink + w * load_v(from_key, d); }
  }
  for (var d = 0u; d < vectors(); d++) { store_o(at, d, o[d] * inverse(sum)); }
  put_stats(row_stat(p, r), top, sum);
}
