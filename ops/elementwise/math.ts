/**
 * erf to double precision: the series with positive terms (Abramowitz & Stegun 7.1.6) near zero, the continued
 * fraction of erfc (7.1.14) beyond.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 60; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return (Math.sign(x) * 2 * Math.exp(-a * a) * sum) / Math.sqrt(Math.PI);
  }
  return Math.sign(x) * (1 - erfcTail(a));
}

/** 1 − erf(a) for a ≥ 2.5, by the continued fraction. */
function erfcTail(a: number): number {
  let fraction = a;
  for (let n = 60; n >= 1; n--) fraction = a + n / 2 / fraction;
  return Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI));
}

/** The cumulative normal distribution, ½(1 + erf(x/√2)), without loss in its lower tail. */
export function normalCdf(x: number): number {
  const z = x * Math.SQRT1_2;
  return z < -2.5 ? 0.5 * erfcTail(-z) : 0.5 * (1 + erf(z));
}

/**
 * WGSL leaves open what min, max, clamp, sign and comparisons make of NaN, and drivers do drop it; these look at the
 * bits and keep it, as JavaScript and torch do.
 */
export const nanWgsl = /* wgsl */ `
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn max_(a: f32, b: f32) -> f32 { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
fn min_(a: f32, b: f32) -> f32 { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
fn sign_(x: f32) -> f32 { return select(sign(x), 0.0, is_nan(x)); }
`;

/**
 * erf, and the cumulative normal distribution without loss in its lower tail, in f32 WGSL: the Maclaurin series near
 * zero, Numerical Recipes' erfcc (relative error 1.2e-7 everywhere) beyond.
 */
export const erfWgsl = /* wgsl */ `
fn erf_near(x: f32) -> f32 {
  let s = x * x;
  return x * (1.1283792 + s * (-0.37612638 + s * (0.11283792 + s * (-0.026866171 + s * (0.0052239776 - s * 0.00085483270)))));
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
  let z = x * ${Math.SQRT1_2};
  let upper = 0.5 * erfc_(abs(z));
  return select(select(upper, 1.0 - upper, z > 0.0), 0.5 + 0.5 * erf_near(z), abs(z) < 0.5);
}
`;

/**
 * WGSL's log has an absolute error near 1, where the result is small: there 2·artanh(d/(2 + d)) by its series keeps the
 * digits of ln(1 + d), for d from −⅓ to 1. Subnormal arguments, which arithmetic may take for 0, are read off their
 * bits, as whole numbers of 2⁻¹⁴⁹.
 */
export const logWgsl = /* wgsl */ `
fn log_of_one_plus(d: f32) -> f32 {
  let s = d / (2.0 + d);
  let z = s * s;
  let p = 1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * (1.0 / 11.0 + z * (1.0 / 13.0 + z / 15.0)))));
  return 2.0 * (s + s * z * p);
}
fn log_(x: f32) -> f32 {
  if (x > 0.7 && x < 1.5) { return log_of_one_plus(x - 1.0); }
  let bits = bitcast<u32>(x);
  if (bits > 0u && bits < 0x00800000u) { return log(f32(bits)) - 103.27893; }
  return log(x);
}
`;

/** eˣ − 1 with the digits of small x: by its series up to ½. */
export const expm1Wgsl = /* wgsl */ `
fn expm1_(x: f32) -> f32 {
  let p = 1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0)));
  let near = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * p)));
  return select(exp(x) - 1.0, near, abs(x) < 0.5);
}
`;
