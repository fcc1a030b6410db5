// One row of o from the PARTS that decode.wgsl made of its keys, a thread for each vec4.
fn kernel(group: u32, t: u32) {
  let i = group * THREADS + t;
  let index = i / DV;
  let d = i % DV;
  let rows = rows_of_problem();
  if (index >= rows * params.problems) { return; }
  var top = nothing();
  for (var part = index * PARTS; part < (index + 1u) * PARTS; part++) { top = max(top, load_part_stats(2u * part)); }
  var value = vec4<f32>();
  var sum = 0.0;
  for (var part = index * PARTS; part < (index + 1u) * PARTS; part++) {
    let shrink = weight(load_part_stats(2u * part), top);
    value += shrink * load_parts(part * DV + d);
    sum += shrink * load_part_stats(2u * part + 1u);
  }
  let p = problem_of(index / rows);
  store_o(row_offset(p, index % rows), d, value * inverse(sum));
  if (d == 0u) { put_stats(row_stat(p, index % rows), top, sum); }
}
