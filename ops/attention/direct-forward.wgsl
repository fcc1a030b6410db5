// Attention, forward, without tiles: SPLIT threads take one query row, each every SPLIT-th key, BLOCK keys at a time,
// with the row and its output in registers. For small heads, where a tile's barriers cost more than they save, for
// one token against many keys, and, with no loop unrolled, for drivers on the CPU, which compile tiles for minutes.
// With PARTS, that many share the keys that a row sees; each leaves Σ p·v, its largest score and Σ p to merge.wgsl.
var<workgroup> tops: array<f32, DIRECT>;
var<workgroup> totals: array<f32, DIRECT>;
var<workgroup> outs: array<vec4<f32>, MERGED * DV>;

@compute @workgroup_size(DIRECT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let share = flat_group(group, groups) * (DIRECT / SPLIT) + local / SPLIT;
  let index = share / PARTS;
  let lane = local % SPLIT;
  let rows = rows_of_problem();
  let valid = index < rows * params.problems;
  let p = problem_of(min(index / rows, params.problems - 1u));
  let r = index % rows;
  let at = row_offset(p, r);
  let all = select(0u, row_seen(p, r), valid);
  let each = (all + PARTS - 1u) / PARTS;
  let begin = min(share % PARTS * each, all);
  let seen = min(begin + each, all);
  var q: array<vec4<f32>, DV>;
  var o: array<vec4<f32>, DV>;
  for (var d = 0u; d < DV; d++) {
    q[d] = load_q(at, d);
    o[d] = vec4<f32>();
  }
  var top = nothing();
  var sum = 0.0;
  for (var key = begin + lane; key < seen; key += BLOCK * SPLIT) {
    var from_key: array<u32, BLOCK>;
    var s: array<f32, BLOCK>;
    for (var u = 0u; u < BLOCK; u++) {
      from_key[u] = key_offset(p, min(key + u * SPLIT, seen - 1u));
      s[u] = 0.0;
    }
    for (var d = 0u; d < DV; d++) {
      for (var u = 0u; u < BLOCK; u++) { s[u] += dot(q[d], load_k(from_key[u], d)); }
    }
    let before = top;
    for (var u = 0u; u < BLOCK; u++) {
      s[u] = score(s[u], p, r, key + u * SPLIT, key + u * SPLIT < seen);
      top = max(top, s[u]);
    }
    let shrink = weight(before, top);
    sum *= shrink;
    for (var u = 0u; u < BLOCK; u++) {
      s[u] = weight(s[u], top);
      sum += s[u];
    }
    if (key + (BLOCK - 1u) * SPLIT < seen) {
      for (var d = 0u; d < DV; d++) {
        o[d] *= shrink;
        for (var u = 0u; u < BLOCK; u++) { o[d] += s[u] * load_v(from_key[u], d); }
      }
    } else {
      // What fills up a block is the last key once more, which may be infinite.
      for (var d = 0u; d < DV; d++) {
        o[d] *= shrink;
        for (var u = 0u; u < BLOCK; u++) {
          if (key + u * SPLIT < seen) { o[d] += s[u] * load_v(from_key[u], d); }
        }
      }
    }
  }
  if (SPLIT == 1u) {
    if (valid) {
      for (var d = 0u; d < DV; d++) { leave(share, at, d, o[d], sum); }
      leave_stats(share, row_stat(p, r), top, sum);
    }
    return;
  }
  tops[local] = top;
  totals[local] = sum;
  for (var d = 0u; d < DV; d++) { outs[(local % MERGED) * DV + d] = o[d]; }
  workgroupBarrier();
  let first = local - lane;
  var whole = nothing();
  for (var k = 0u; k < SPLIT; k++) { whole = max(whole, tops[first + k]); }
  var total = 0.0;
  for (var k = 0u; k < SPLIT; k++) { total += totals[first + k] * weight(tops[first + k], whole); }
  for (var d = lane; d < DV && valid; d += SPLIT) {
    var value = vec4<f32>();
    for (var k = 0u; k < SPLIT; k++) {
      value += outs[((first + k) % MERGED) * DV + d] * weight(tops[first + k], whole);
    }
    leave(share, at, d, value, total);
  }
  if (lane == 0u && valid) { leave_stats(share, row_stat(p, r), whole, total); }
}
