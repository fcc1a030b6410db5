// sin and cos of any f32, right to about 1e-7. WGSL promises 2⁻¹¹ and no reduction. Up to 8,192 the angle loses its
// quarter turns by Cody and Waite's subtraction; beyond, Payne and Hanek's product of the 24 bits of x with the 96 bits
// of 1/2π that matter at its exponent gives the fraction of a turn exactly. Polynomials of Cephes (sinf.c).

// 1/2π to 224 bits, what the largest f32 needs: bit i of word k is worth 2^(−1 − 32k − i) from the top.
const TURNS = array(0x28be60dbu, 0x9391054au, 0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u, 0x4f10e410u, 0x7f9458eau, 0u);

// The upper 32 bits of a·b.
fn high_word(a: u32, b: u32) -> u32 {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}
// x as quarter turns (modulo 4) and the rest in radians, at most π/4.
struct Angle { quarters: i32, rest: f32 }
fn far_angle(x: f32) -> Angle {
  let bits = bitcast<u32>(x);
  let digits = (bits << 8u) | 0x80000000u;
  let e = ((bits >> 23u) & 0xffu) - 126u;
  let k = e >> 5u;
  let s = e & 31u;
  var words: array<u32, 3>;
  for (var i = 0u; i < 3u; i++) {
    let left = select(0u, TURNS[max(k + i, 1u) - 1u], k + i > 0u);
    words[i] = (left << s) | select(0u, TURNS[k + i] >> (32u - s), s > 0u);
  }
  let low = high_word(digits, words[2]);
  let middle = digits * words[1];
  let rest = middle + low;
  let turn = digits * words[0] + high_word(digits, words[1]) + select(0u, 1u, rest < low);
  let quarters = (turn + 0x20000000u) >> 30u;
  let over = f32(bitcast<i32>(turn - (quarters << 30u))) + f32(rest) * 2.3283064e-10;
  let angle = Angle(i32(quarters), over * 1.4629180792671596e-9);
  if (bits >> 31u == 1u) { return Angle(-angle.quarters, -angle.rest); }
  return angle;
}
fn near_angle(x: f32) -> Angle {
  let k = round(x * 0.63661977);
  return Angle(i32(k), ((x - k * 1.5703125) - k * 4.837512969970703e-4) - k * 7.54978995489188e-8);
}
fn sine(x: f32, ahead: i32) -> f32 {
  let size = bitcast<u32>(x) & 0x7fffffffu;
  if (size >= 0x7f800000u) { var nan = 0x7fc00000u; return bitcast<f32>(nan); }
  var at = near_angle(clamp(x, -8192.0, 8192.0));
  if (size > 0x46000000u) { at = far_angle(x); }
  let r = at.rest;
  let z = r * r;
  let s = r + r * z * (-0.16666654611 + z * (0.0083321608736 - z * 1.9515295891e-4));
  let c = 1.0 - 0.5 * z + z * z * (0.041666645683 + z * (-0.0013887316255 + z * 2.4433157118e-5));
  let q = at.quarters + ahead;
  let v = select(s, c, (q & 1) == 1);
  return select(select(v, -v, (q & 2) == 2), x, size == 0u && ahead == 0);
}
fn sin_(x: f32) -> f32 { return sine(x, 0); }
fn cos_(x: f32) -> f32 { return sine(x, 1); }
