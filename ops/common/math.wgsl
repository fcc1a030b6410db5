// WGSL leaves open what min, max, clamp, sign and comparisons make of NaN, and drivers do drop it; these look at the
// bits and keep it, as JavaScript and torch do.
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
fn max_(a: f32, b: f32) -> f32 { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
fn min_(a: f32, b: f32) -> f32 { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
fn sign_(x: f32) -> f32 { return select(sign(x), 0.0, is_nan(x)); }
fn share(x: f32, other: f32, dy: f32) -> f32 {
  if (is_nan(x) || is_nan(other)) { return dy; }
  return select(select(dy, 0.0, x < other), 0.5 * dy, x == other);
}

// WGSL's log has an absolute error near 1, where the result is small: there 2·artanh(d/(2 + d)) by its series keeps the
// digits of ln(1 + d), for d from −⅓ to 1. Subnormal arguments, which arithmetic may take for 0, are read off their
// bits, as whole numbers of 2⁻¹⁴⁹.
fn log_of_one_plus(d: f32) -> f32 {
  let s = d / (2.0 + d);
  let z = s * s;
  let far = 1.0 / 9.0 + z * (1.0 / 11.0 + z * (1.0 / 13.0 + z / 15.0));
  return 2.0 * (s + s * z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * far))));
}
fn log_(x: f32) -> f32 {
  if (x > 0.7 && x < 1.5) { return log_of_one_plus(x - 1.0); }
  let bits = bitcast<u32>(x);
  if (bits > 0u && bits < 0x00800000u) { return log(f32(bits)) - 103.27893; }
  return log(x);
}

// eˣ − 1 with the digits of small x: by its series up to ½.
fn expm1_(x: f32) -> f32 {
  let p = 1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0)));
  let near = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * p)));
  return select(exp(x) - 1.0, near, abs(x) < 0.5);
}

// erf, and the cumulative normal distribution without loss in its lower tail, in f32 WGSL: the Maclaurin series near
// zero, Numerical Recipes' erfcc (relative error 1.2e-7 everywhere) beyond.
fn erf_near(x: f32) -> f32 {
  let s = x * x;
  let p = 0.11283792 + s * (-0.026866171 + s * (0.0052239776 - s * 0.00085483270));
  return x * (1.1283792 + s * (-0.37612638 + s * p));
}
fn erfc_(a: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.5 * a);
  let low = -1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277));
  let p = 1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 + t * low))));
  return t * exp(t * p - 1.26551223 - a * a);
}
fn erf_(x: f32) -> f32 {
  let a = abs(x);
  return select(sign(x) * (1.0 - erfc_(a)), erf_near(x), a < 0.5);
}
fn normal_cdf(x: f32) -> f32 {
  let z = x * 0.7071067811865476;
  let upper = 0.5 * erfc_(abs(z));
  return select(select(upper, 1.0 - upper, z > 0.0), 0.5 + 0.5 * erf_near(z), abs(z) < 0.5);
}

// WGSL's tanh overflows to NaN on some drivers for large arguments, where the clamp changes nothing in f32, and loses
// the bits of small ones, which the series keeps. With e = exp(−|x|), tanh(log(1 + eˣ)) is a ratio of polynomials that
// loses no digits.
fn tanh_(x: f32) -> f32 {
  let s = x * x;
  let near = x * (1.0 + s * (-0.33333333 + s * (0.13333333 - s * 0.053968254)));
  return select(select(tanh(clamp(x, -15.0, 15.0)), near, abs(x) < 0.2), x, is_nan(x));
}
fn sigmoid_(x: f32) -> f32 { let e = exp(-abs(x)); return select(e, 1.0, x >= 0.0) / (1.0 + e); }
fn silu(x: f32) -> f32 { return x * sigmoid_(x); }
fn dsilu(x: f32) -> f32 { let s = sigmoid_(x); return s * (1.0 + x * (1.0 - s)); }
fn softplus_(x: f32) -> f32 { return max(x, 0.0) + log_of_one_plus(exp(-abs(x))); }
fn tanh_softplus(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e * (e + 2.0) / (e * (e + 2.0) + 2.0), (1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e), x > 0.0);
}

// ½(1 + tanh u) is σ(2u), which keeps the bits of the lower tail. Beyond ±20 the derivative is 0 or 1, and x² must not
// overflow.
fn gelu_twice(x: f32) -> f32 { return 1.5957691216057308 * (x + 0.044715 * x * x * x); }
fn dgelu_tanh(x: f32) -> f32 {
  let c = clamp(x, -20.0, 20.0);
  let u = gelu_twice(c);
  let s = sigmoid_(u);
  let d = s + c * s * sigmoid_(-u) * 1.5957691216057308 * (1.0 + 0.134145 * c * c);
  return select(d, x, is_nan(x));
}

// WGSL stops at the largest float below an integer type's bound, and leaves open what becomes of NaN.
fn to_i32(value: f32) -> i32 { return select(select(i32(value), 0x7fffffff, value >= 0x1p31), 0, is_nan(value)); }
fn to_u32(value: f32) -> u32 { return select(select(u32(value), 0xffffffffu, value >= 0x1p32), 0u, is_nan(value)); }

// x / y, of which devices may make 0 where y is beyond 2¹²⁶.
fn ratio_of(x: f32, y: f32) -> f32 {
  let down = select(1.0, 0x1p-64, abs(y) > 0x1p64);
  return (x * down) / (y * down);
}

// −∞ as where a maximum starts. It is made and told by its bits, because compilers may take it for granted that
// there are no infinities.
fn nothing() -> f32 {
  var bits = 0xff800000u;
  return bitcast<f32>(bits);
}
fn is_nothing(x: f32) -> bool { return bitcast<u32>(x) == 0xff800000u; }

// WGSL for sums of exponentials in one pass, as pairs (maximum m, Σ exp((x − m)·k)). The pair of nothing is (−∞, 0),
// and values of −∞ add nothing to it either. NaN and +∞ make the sum NaN, as in torch's softmax.
fn no_exp() -> vec2<f32> { return vec2<f32>(nothing(), 0.0); }
fn exp_above(x: f32, m: f32, k: f32) -> f32 { return select(exp((x - m) * k), 0.0, is_nothing(x)); }
fn join_exp(a: vec2<f32>, b: vec2<f32>, k: f32) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2<f32>(m, a.y * exp_above(a.x, m, k) + b.y * exp_above(b.x, m, k));
}

// p·x, where 0·x = 0 for infinite x too; and log cosh, by its series near zero, where the logarithm would lose every
// digit: a student that has learned its teacher lives there.
fn scaled(p: f32, x: f32) -> f32 { return select(p * x, 0.0, p == 0.0); }
fn log_cosh(x: f32) -> f32 {
  let a = abs(x);
  let s = x * x;
  let near = s * (0.5 - s * (0.083333333 - s * (0.022222222 - s * 0.0067460317)));
  return select(a + log(1.0 + exp(-2.0 * a)) - 0.69314718, near, a < 0.25);
}

// For rows of any f32: what they are multiplied by before they are summed, what before they are squared, and their
// 1/√(variance + eps) from that.
// A power of two that n numbers can be multiplied by and then not overflow in their sum.
fn share_of(n: u32) -> f32 { return bitcast<f32>((127u - firstLeadingBit(2u * n - 1u)) << 23u); }
// A power of two near 1/size; 1 where squares neither vanish nor overflow without.
fn scale_for(size: f32) -> f32 {
  let exponent = clamp((bitcast<u32>(size) >> 23u) & 0xffu, 1u, 253u);
  return select(bitcast<f32>((254u - exponent) << 23u), 1.0, exponent > 90u && exponent < 164u);
}
fn rstd_of(squares: f32, scale: f32, eps: f32) -> f32 {
  if (scale == 1.0) { return 1.0 / sqrt(squares + eps); }
  let a = sqrt(squares) / scale;
  let b = sqrt(eps);
  let large = max(a, b);
  let ratio = select(min(a, b) / large, 0.0, large == 0.0);
  return 1.0 / (large * sqrt(1.0 + ratio * ratio));
}
