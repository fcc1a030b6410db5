// Per query row its statistics and Σ do ∘ o: what the backward kernels need of the forward. Eight threads a row.
var<workgroup> partial: array<f32, THREADS>;

fn kernel(group: u32, t: u32) {
  let stat = group * (THREADS / 8u) + t / 8u;
  let rows = rows_of_problem();
  let valid = stat < rows * params.problems;
  var sum = 0.0;
  if (valid) {
    let at = row_offset(problem_of(stat / rows), stat % rows);
    for (var d = t % 8u; d < DV; d += 8u) { sum += dot(load_o(at, d), load_do(at, d)); }
  }
  partial[t] = sum;
  workgroupBarrier();
  if (valid && t % 8u == 0u) {
    var total = 0.0;
    for (var j = 0u; j < 8u; j++) { total += partial[t + j]; }
    store_row_stats(stat, vec4<f32>(load_stats(2u * stat), load_stats(2u * stat + 1u), total, 0.0));
  }
}
