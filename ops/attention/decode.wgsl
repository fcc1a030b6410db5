// Attention of few query rows: a workgroup takes one row and one of the PARTS of the keys that it sees, CHUNK keys at a
// time. LANES threads multiply a key; then each thread adds up one vec4 column of the values of every STRIPES-th key.
const STRIPES = THREADS / DV;

var<workgroup> query: array<vec4<f32>, DV>;
var<workgroup> products: array<f32, CHUNK * LANES>;
var<workgroup> scores: array<f32, CHUNK>;
var<workgroup> outs: array<vec4<f32>, THREADS>;
var<workgroup> sums: array<f32, THREADS>;

fn kernel(share: u32, t: u32) {
  let index = share / PARTS;
  let rows = rows_of_problem();
  let p = problem_of(index / rows);
  let r = index % rows;
  let at = row_offset(p, r);
  let all = row_seen(p, r);
  let each = (all + PARTS - 1u) / PARTS;
  let begin = min(share % PARTS * each, all);
  let end = min(begin + each, all);
  prepare(p, r, share, t);
  workgroupBarrier();
  let lane = t % LANES;
  let column = t % DV;
  let stripe = t / DV;
  var out = vec4<f32>();
  var sum = 0.0;
  var top = nothing();
  for (var k0 = begin; k0 < end; k0 += CHUNK) {
    let count = min(CHUNK, end - k0);
    for (var round = 0u; round < CHUNK * LANES / THREADS; round++) {
      let c = round * (THREADS / LANES) + t / LANES;
      let from_key = key_offset(p, min(k0 + c, end - 1u));
      var product = 0.0;
      for (var j = 0u; j < (DV + LANES - 1u) / LANES; j++) {
        let d = j * LANES + lane;
        if (d < DV) { product += dot(query[d], key_at(from_key, d)); }
      }
      products[c * LANES + lane] = product;
    }
    workgroupBarrier();
    if (t < CHUNK) {
      var product = 0.0;
      for (var j = 0u; j < LANES; j++) { product += products[t * LANES + j]; }
      scores[t] = score(product, p, r, k0 + t, t < count);
    }
    workgroupBarrier();
    let before = top;
    for (var c = 0u; c < CHUNK; c++) { top = max(top, scores[c]); }
    let shrink = weight(before, top);
    out *= shrink;
    sum *= shrink;
    for (var c = stripe; c < count && stripe < STRIPES; c += STRIPES) {
      let w = weight(scores[c], top);
      sum += w;
      out += w * value_at(key_offset(p, k0 + c), column);
    }
  }
  outs[t] = out;
  sums[t] = sum;
  workgroupBarrier();
  if (t >= DV) { return; }
  var value = vec4<f32>();
  var total = 0.0;
  for (var j = 0u; j < STRIPES; j++) {
    value += outs[j * DV + t];
    total += sums[j * DV + t];
  }
  if (PARTS > 1u) {
    store_parts(share * DV + t, value);
    if (t > 0u) { return; }
    store_part_stats(2u * share, top);
    store_part_stats(2u * share + 1u, total);
  } else {
    store_o(at, t, value * inverse(total));
    if (t == 0u) { put_stats(row_stat(p, r), top, total); }
  }
}
