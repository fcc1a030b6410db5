// Attention, backward over query rows without tiles: SPLIT threads form dq of one row, each over every SPLIT-th key.
var<workgroup> sums: array<vec4<f32>, MERGED * DV>;

@compute @workgroup_size(DIRECT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let index = flat_group(group, groups) * (DIRECT / SPLIT) + local / SPLIT;
  let lane = local % SPLIT;
  let rows = rows_of_problem();
  let valid = index < rows * params.problems;
  let problem = min(index / rows, params.problems - 1u);
  let b = problem / params.kv_heads;
  let kv = problem % params.kv_heads;
  let r = index % rows;
  let at = row_offset(b, kv, r);
  let seen = select(0u, row_seen(b, r), valid);
  let stat = row_stats[row_stat(b, kv, r)];
  var q: array<vec4<f32>, DV>;
  var grad: array<vec4<f32>, DV>;
  var dq: array<vec4<f32>, DV>;
  for (var d = 0u; d < DV; d++) {
    q[d] = load_q(at, d);
    grad[d] = load_do(at, d);
    dq[d] = vec4<f32>();
  }
  for (var key = lane; key < seen; key += BLOCK * SPLIT) {
    var from_key: array<u32, BLOCK>;
    var s: array<f32, BLOCK>;
    var dp: array<f32, BLOCK>;
    for (var u = 0u; u < BLOCK; u++) {
      from_key[u] = key_offset(b, kv, min(key + u * SPLIT, seen - 1u));
      s[u] = 0.0;
      dp[u] = 0.0;
    }
    for (var d = 0u; d < DV; d++) {
      for (var u = 0u; u < BLOCK; u++) {
        s[u] += dot(q[d], load_k(from_key[u], d));
        dp[u] += dot(grad[d], load_v(from_key[u], d));
      }
    }
    for (var u = 0u; u < BLOCK; u++) {
      let open = key + u * SPLIT < seen && key_open(b, min(key + u * SPLIT, seen - 1u));
      s[u] = select(0.0, known_weight(score(s[u], open), stat) * (dp[u] - stat.z) * params.scale, open);
    }
    for (var d = 0u; d < DV; d++) {
      for (var u = 0u; u < BLOCK; u++) { dq[d] += s[u] * load_k(from_key[u], d); }
    }
  }
  if (SPLIT == 1u) {
    if (valid) {
      for (var d = 0u; d < DV; d++) { store_dq(at, d, dq[d]); }
    }
    return;
  }
  for (var d = 0u; d < DV; d++) { sums[(local % MERGED) * DV + d] = dq[d]; }
  workgroupBarrier();
  for (var d = lane; d < DV && valid; d += SPLIT) {
    var value = vec4<f32>();
    for (var k = 0u; k < SPLIT; k++) { value += sums[((local - lane + k) % MERGED) * DV + d]; }
    store_dq(at, d, value);
  }
}
