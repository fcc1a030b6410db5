// WGSL's pow is undefined for negative bases, where torch's is not if the exponent is whole; drivers differ at zeros
// and infinities. The special values of C (F.10.4.4) come first, then |a|ᵇ with the sign that an odd exponent keeps.
fn pow_(a: f32, b: f32) -> f32 {
  var infinity = 0x7f800000u;
  var nan = 0x7fc00000u;
  let inf = bitcast<f32>(infinity);
  let size = bitcast<u32>(a) & 0x7fffffffu;
  let negative = (bitcast<u32>(a) >> 31u) == 1u;
  if (b == 0.0 || bitcast<u32>(a) == 0x3f800000u) { return 1.0; }
  if (is_nan(a) || is_nan(b)) { return bitcast<f32>(nan); }
  let grows = (size > 0x3f800000u) == (b > 0.0);
  if ((bitcast<u32>(b) & 0x7fffffffu) == infinity) {
    return select(select(0.0, inf, grows), 1.0, size == 0x3f800000u);
  }
  let whole = floor(b) == b;
  let flips = negative && whole && abs(b) < 16777216.0 && (i32(b) & 1) != 0;
  if (size == 0u || size == infinity) {
    let r = select(0.0, inf, grows);
    return select(r, -r, flips);
  }
  if (negative && !whole) { return bitcast<f32>(nan); }
  if (b == 1.0) { return a; }
  if (b == 2.0) { return a * a; }
  var r = pow(abs(a), b);
  // Subnormal: whole numbers of 2⁻¹⁴⁹.
  if (size < 0x00800000u) { r = pow(f32(size), b) * exp2(-75.0 * b) * exp2(-74.0 * b); }
  return select(r, -r, flips);
}
