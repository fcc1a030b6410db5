// Σ x² as three sums, of the x that are small, middling and large, each scaled so that squares and sums neither
// vanish nor overflow (Blue 1978), and the norm from them. By the bits, so that NaN counts as large: compilers may assume
// that comparisons never see it.
const UP: f32 = 0x1p80;
const DOWN: f32 = 0x1p-80;
fn squares(x: f32) -> vec3<f32> {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let small = bits < 0x2b800000u;
  let large = bits > 0x53800000u;
  let y = x * select(select(1.0, UP, small), DOWN, large);
  return select(vec3<f32>(), vec3<f32>(y * y), vec3<bool>(small, !small && !large, large));
}
fn hypotenuse(a: f32, b: f32) -> f32 { return a * sqrt(1.0 + (b / a) * (b / a)); }
fn norm_of(sums: vec3<f32>) -> f32 {
  let norms = sqrt(sums) * vec3<f32>(DOWN, 1.0, UP);
  if (bitcast<u32>(norms.z) != 0u) { return hypotenuse(norms.z, norms.y); }
  if (bitcast<u32>(norms.y) != 0u) { return hypotenuse(norms.y, norms.x); }
  return norms.x;
}
