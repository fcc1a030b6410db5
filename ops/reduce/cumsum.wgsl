// Running sums along each line of x (outer, len, inner), from its end where params.reverse is 1. A workgroup takes a
// line, 256 elements at a time (Hillis and Steele).
var<workgroup> sums: array<T, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let line = flat_group(group, groups);
  let base = base_of(line);
  let inside = line < params.lines;
  var carry = T(0);
  var part = T(0);  // of the last few blocks: one sum of all would lose the digits of small blocks
  for (var start = 0u; start < params.len; start += 256u) {
    let k = start + local;
    let here = inside && k < params.len;
    var sum = T(0);
    if (here) { sum = load_x(index(base, k)); }
    sums[local] = sum;
    workgroupBarrier();
    for (var step = 1u; step < 256u; step *= 2u) {
      var before = T(0);
      if (local >= step) { before = sums[local - step]; }
      workgroupBarrier();
      sums[local] += before;
      workgroupBarrier();
    }
    if (here) { store_y(index(base, k), carry + (part + sums[local])); }
    part += sums[255];
    if (start / 256u % 32u == 31u) {
      carry += part;
      part = T(0);
    }
    workgroupBarrier();
  }
}
