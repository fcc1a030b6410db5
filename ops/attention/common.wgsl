// What the attention kernels share. The query rows of a problem (batch b, key head kv) are the tokens of all query
// heads that kv serves, one head after the other: row r is head kv · group + r / length, token r % length.
// Tiles hold rows of DV vec4, STRIDE apart: odd, so that neighbouring rows lie in different banks.
struct Problem {
  b: u32,
  kv: u32,
}

fn problem_of(index: u32) -> Problem { return Problem(index / params.kv_heads, index % params.kv_heads); }

// Scores are dot products before the scale, turned over where it is negative, and the scale comes after the largest is
// taken off: a compiler may fuse a product and a sum, in one kernel and not in another, and would then round scores of
// some size differently in each. Only where a mask is added to them do they have the scale in them.

/** What scores are to be multiplied with: |scale|; above 0, so that −∞ stays what it is. */
fn steepness() -> f32 { return select(max(abs(params.scale), 1.17549435e-38), 1.0, ADDITIVE); }

/** The score of a key from its dot product; −∞ for one that the row does not see or the mask hides. */
fn score(product: f32, p: Problem, r: u32, key: u32, seen: bool) -> f32 {
  let open = seen && key_open(p, r, key);
  if (ADDITIVE) { return select(nothing(), product * params.scale + added(p, r, key), open); }
  return select(nothing(), product * sign(params.scale), open);
}

/**
 * A key's weight p = exp(s − lse), by the statistics of its row, and ds = p ∘ (do·v − delta) · scale, from the products
 * q·k and do·v. Of a key that the mask hides p is 0, or NaN where all of the row is, and ds is 0.
 */
fn weight_and_slope(products: vec2<f32>, stat: vec4<f32>, p: Problem, r: u32, key: u32, seen: bool) -> vec2<f32> {
  let s = score(products.x, p, r, key, seen);
  let weight = select(0.0, exp((s - stat.x) * steepness() - stat.y), seen);
  let open = seen && key_open(p, r, key);
  return vec2<f32>(weight, select(0.0, weight * (products.y - stat.z) * params.scale, open));
}

/** vec4 of a head, in loops that compilers shall not unroll. */
fn vectors() -> u32 { return (params.dim + 3u) / 4u; }

fn rows_of_problem() -> u32 { return params.group * params.length; }

fn head_of(p: Problem, r: u32) -> u32 { return p.kv * params.group + r / params.length; }

/** Offset of a query row in q, o and their gradients. */
fn row_offset(p: Problem, r: u32) -> u32 {
  let plane = params.kv_heads * params.group * params.length * params.dim;
  return p.b * plane + head_of(p, r) * params.q_head + (r % params.length) * params.q_token;
}

/** Index of a query row in the (B, H, L) statistics. */
fn row_stat(p: Problem, r: u32) -> u32 { return (p.b * params.kv_heads + p.kv) * rows_of_problem() + r; }

/** Offset of a key in k, v and their gradients. */
fn key_offset(p: Problem, key: u32) -> u32 {
  return p.b * params.kv_heads * params.keys * params.dim + p.kv * params.k_head + key * params.k_token;
}

/** How many keys token i sees: causal attention is aligned to the end. */
fn seen_by(p: Problem, i: u32) -> u32 {
  let all = key_count(p);
  if (params.causal == 0u) { return all; }
  return u32(max(0, i32(i + 1u + all) - i32(params.length)));
}

fn row_seen(p: Problem, r: u32) -> u32 {
  if (r >= rows_of_problem()) { return 0u; }
  return seen_by(p, r % params.length);
}

/** Keys that any of `count` rows from `first` on sees. */
fn tile_seen(p: Problem, first: u32, count: u32) -> u32 {
  let last = min(first + count, rows_of_problem()) - 1u;
  if (first / params.length != last / params.length) { return seen_by(p, params.length - 1u); }
  return seen_by(p, last % params.length);
}

/**
 * Keys that each of `count` rows from `first` on sees. What only some see has the weight 0 for the others, but must not
 * be multiplied with it: it may be infinite or NaN. The test for it in every product would cost a fifth of the time.
 */
fn tile_whole(p: Problem, first: u32, count: u32) -> u32 {
  let last = min(first + count, rows_of_problem()) - 1u;
  return seen_by(p, select(first % params.length, 0u, first / params.length != last / params.length));
}
