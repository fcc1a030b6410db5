// The same of f32, exactly, where WGSL's % loses the digits of large quotients: a long division of the mantissas, eight
// binary digits at a time.
fn mantissa(bits: u32) -> u32 { return (bits & 0x7fffffu) | select(0u, 0x800000u, bits > 0x7fffffu); }
fn fmod_(a: f32, b: f32) -> f32 {
  let sign = bitcast<u32>(a) & 0x80000000u;
  let x = bitcast<u32>(a) ^ sign;
  let y = bitcast<u32>(b) & 0x7fffffffu;
  if (y == 0u || x >= 0x7f800000u || y > 0x7f800000u) { var nan = 0x7fc00000u; return bitcast<f32>(nan); }
  if (x < y) { return a; }
  let exponent = max(y >> 23u, 1u);
  let divisor = mantissa(y);
  var rest = mantissa(x) % divisor;
  for (var digits = max(x >> 23u, 1u) - exponent; digits > 0u; digits -= min(digits, 8u)) {
    rest = (rest << min(digits, 8u)) % divisor;
  }
  if (rest == 0u) { return bitcast<f32>(sign); }
  // Of a normal number the mantissa has its 24th bit, which adds 1 to the exponent.
  let shift = min(countLeadingZeros(rest) - 8u, exponent - 1u);
  return bitcast<f32>(sign | ((rest << shift) + ((exponent - shift - 1u) << 23u)));
}
fn remainder_(a: f32, b: f32) -> f32 {
  let r = fmod_(a, b);
  return select(r, r + b, !is_nan(r) && r != 0.0 && (r < 0.0) != (b < 0.0));
}
