// Sums rows of dys into the rows of dxs that the index names. A workgroup owns ROWS rows and COLUMNS columns of one
// slice's sums, keeps them in workgroup memory and walks over the slice's part of the index in order.
const NONE: u32 = 0xffffffffu;
var<workgroup> sums: array<f32, ROWS * COLUMNS>;
var<workgroup> named: array<vec4<u32>, COLUMNS / 4u>;

fn slope(wanted: bool, j: u32, c: u32) -> f32 {
  var value = 0.0;
  if (wanted && c < params.inner) { value = dys[j * params.inner + c]; }
  return value;
}

@compute @workgroup_size(COLUMNS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let first = group.x * ROWS;
  let c = group.y * COLUMNS + local;
  for (var r = 0u; r < ROWS; r += 1u) { sums[r * COLUMNS + local] = 0.0; }
  let end = min(params.count, (group.z + 1u) * params.slice);
  for (var start = group.z * params.slice; start < end; start += COLUMNS) {
    let mine = start + local;
    var row = NONE;
    if (mine < end) { row = u32(index[mine]) - first; }
    named[local / 4u][local % 4u] = row;
    workgroupBarrier();
    for (var j = 0u; j < COLUMNS / 4u; j += 1u) {
      let rows = named[j];
      let hit = rows < vec4<u32>(ROWS);
      if (any(hit)) {
        let at = start + j * 4u;
        let a = slope(hit.x, at, c);
        let b = slope(hit.y, at + 1u, c);
        let d = slope(hit.z, at + 2u, c);
        let e = slope(hit.w, at + 3u, c);
        if (hit.x) { sums[rows.x * COLUMNS + local] += a; }
        if (hit.y) { sums[rows.y * COLUMNS + local] += b; }
        if (hit.z) { sums[rows.z * COLUMNS + local] += d; }
        if (hit.w) { sums[rows.w * COLUMNS + local] += e; }
      }
    }
    workgroupBarrier();
  }
  if (c >= params.inner) { return; }
  for (var r = 0u; r < ROWS && first + r < params.length; r += 1u) {
    dxs[(group.z * params.length + first + r) * params.inner + c] = sums[r * COLUMNS + local];
  }
}
