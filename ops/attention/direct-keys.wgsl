// Attention, backward over keys without tiles: SPLIT threads form dk and dv of one key, each over every SPLIT-th query
// row of all heads that its key head serves.
var<workgroup> sums: array<vec4<f32>, MERGED * DV>;

@compute @workgroup_size(DIRECT)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let index = flat_group(group, groups) * (DIRECT / SPLIT) + local / SPLIT;
  let lane = local % SPLIT;
  let valid = index < params.keys * params.problems;
  let problem = min(index / params.keys, params.problems - 1u);
  let b = problem / params.kv_heads;
  let kv = problem % params.kv_heads;
  let key = index % params.keys;
  let at = key_offset(b, kv, key);
  var k4: array<vec4<f32>, DV>;
  var v4: array<vec4<f32>, DV>;
  var dk: array<vec4<f32>, DV>;
  var dv: array<vec4<f32>, DV>;
  for (var d = 0u; d < DV; d++) {
    k4[d] = load_k(at, d);
    v4[d] = load_v(at, d);
    dk[d] = vec4<f32>();
    dv[d] = vec4<f32>();
  }
  let rows = select(0u, rows_of_problem(), valid);
  let open = key_open(b, key);
  for (var r = lane; r < rows; r += SPLIT) {
    if (key >= row_seen(b, r)) { continue; }
    let from_row = row_offset(b, kv, r);
    let stat = row_stats[row_stat(b, kv, r)];
    var s = 0.0;
    var dp = 0.0;
    for (var d = 0u; d < DV; d++) {
      s += dot(k4[d], load_q(from_row, d));
      dp += dot(v4[d], load_do(from_row, d));
    }
    let p = known_weight(score(s, open), stat);
    let ds = select(0.0, p * (dp - stat.z) * params.scale, open);
    for (var d = 0u; d < DV; d++) {
      dk[d] += ds * load_q(from_row, d);
      dv[d] += p * load_do(from_row, d);
    }
  }
  if (SPLIT == 1u) {
    if (valid) {
      for (var d = 0u; d < DV; d++) {
        store_dk(at, d, dk[d]);
        store_dv(at, d, dv[d]);
      }
    }
    return;
  }
  for (var d = 0u; d < DV; d++) { sums[(local % MERGED) * DV + d] = dk[d]; }
  workgroupBarrier();
  for (var d = lane; d < DV && valid; d += SPLIT) {
    var value = vec4<f32>();
    for (var k = 0u; k < SPLIT; k++) { value += sums[((local - lane + k) % MERGED) * DV + d]; }
    store_dk(at, d, value);
  }
  workgroupBarrier();
  for (var d = 0u; d < DV; d++) { sums[(local % MERGED) * DV + d] = dv[d]; }
  workgroupBarrier();
  for (var d = lane; d < DV && valid; d += SPLIT) {
    var value = vec4<f32>();
    for (var k = 0u; k < SPLIT; k++) { value += sums[((local - lane + k) % MERGED) * DV + d]; }
    store_dv(at, d, value);
  }
}
