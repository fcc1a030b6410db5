// Elementary functions on four f32, right to about 1e-6 relative over the whole range, infinities and NaN included.
// Polynomials are those of Cephes' single-precision library where nothing else is said.
#pragma once
#include "simd.h"

#define c4(x) wasm_f32x4_const_splat(x)
#define select4(yes, no, mask) wasm_v128_bitselect(yes, no, mask)

// Engines turn min and max into eight instructions each, to treat NaN and −0 by the book; these are one. A NaN in x
// stays, one in y is lost.
#define least4(x, y) wasm_f32x4_pmin(x, y)
#define most4(x, y) wasm_f32x4_pmax(x, y)

// x + 1.5·2^23 is x rounded to a whole number, which then stands in the low bits: cheaper than the instructions that
// round and convert. For |x| < 2^22.
#define ROUNDER 12582912.0f

// e^r for |r| ≤ ln 2 / 2, where x = n·ln 2 + r.
INLINE f4 exp_rest4(f4 x, f4 n) {
  f4 r = fma4(n, c4(-0.693359375f), x);
  r = fma4(n, c4(2.12194440e-4f), r);
  f4 p = c4(1.9875691500e-4f);
  p = fma4(p, r, c4(1.3981999507e-3f));
  p = fma4(p, r, c4(8.3334519073e-3f));
  p = fma4(p, r, c4(4.1665795894e-2f));
  p = fma4(p, r, c4(1.6666665459e-1f));
  p = fma4(p, r, c4(5.0000001201e-1f));
  return add4(fma4(mul4(r, r), p, r), c4(1.0f));
}

// 2^n for whole n from −126 to 127; of n, the low bits count.
INLINE f4 power_of_two4(i4 n) {
  return wasm_i32x4_add(wasm_i32x4_shl(n, 23), c4(1.0f));
}

// e^x, all of it. The power of two is applied in two halves: it may lie outside of the exponent's range.
INLINE f4 exp4(f4 x) {
  x = most4(least4(x, c4(89.0f)), c4(-104.5f));
  f4 rounded = fma4(x, c4(1.44269504088896341f), c4(ROUNDER));
  i4 whole = wasm_i32x4_sub(rounded, c4(ROUNDER)), half = wasm_i32x4_shr(whole, 1);
  f4 p = mul4(exp_rest4(x, sub4(rounded, c4(ROUNDER))), power_of_two4(half));
  return mul4(p, power_of_two4(wasm_i32x4_sub(whole, half)));
}

// e^x for x up to 88: what would be subnormal is 0, because processors take a hundred times longer over subnormals.
INLINE f4 exp_neg4(f4 x) {
  f4 rounded = fma4(x, c4(1.44269504088896341f), c4(ROUNDER));
  f4 y = mul4(exp_rest4(x, sub4(rounded, c4(ROUNDER))), power_of_two4(rounded));
  return wasm_v128_andnot(y, wasm_f32x4_lt(x, c4(-87.3f)));
}

// ln x: −∞ at 0, NaN below; subnormals too.
INLINE f4 log4(f4 x) {
  f4 tiny = wasm_f32x4_lt(x, c4(1.17549435e-38f));
  f4 scaled = select4(mul4(x, c4(8388608.0f)), x, tiny);
  i4 e = wasm_i32x4_sub(wasm_u32x4_shr(scaled, 23), wasm_i32x4_const_splat(126));
  e = wasm_i32x4_sub(e, wasm_v128_and(tiny, wasm_i32x4_const_splat(23)));
  f4 m = wasm_v128_or(wasm_v128_and(scaled, wasm_i32x4_const_splat(0x007fffff)), c4(0.5f));  // in [½, 1)
  f4 small = wasm_f32x4_lt(m, c4(0.707106781186547524f));
  e = wasm_i32x4_add(e, small);  // a true lane is −1
  f4 r = sub4(add4(m, wasm_v128_and(small, m)), c4(1.0f)), z = mul4(r, r), n = wasm_f32x4_convert_i32x4(e);
  f4 p = c4(7.0376836292e-2f);
  p = fma4(p, r, c4(-1.1514610310e-1f));
  p = fma4(p, r, c4(1.1676998740e-1f));
  p = fma4(p, r, c4(-1.2420140846e-1f));
  p = fma4(p, r, c4(1.4249322787e-1f));
  p = fma4(p, r, c4(-1.6668057665e-1f));
  p = fma4(p, r, c4(2.0000714765e-1f));
  p = fma4(p, r, c4(-2.4999993993e-1f));
  p = fma4(p, r, c4(3.3333331174e-1f));
  f4 y = fma4(n, c4(-2.12194440e-4f), mul4(mul4(p, r), z));
  y = fma4(n, c4(0.693359375f), add4(r, fma4(z, c4(-0.5f), y)));
  y = select4(y, x, wasm_f32x4_lt(x, c4(__builtin_inff())));  // +∞ and NaN are their own logarithm
  y = select4(c4(-__builtin_inff()), y, wasm_f32x4_eq(x, zero4()));
  return select4(c4(__builtin_nanf("")), y, wasm_f32x4_lt(x, zero4()));
}

INLINE f4 copysign4(f4 magnitude, f4 sign) {
  return select4(sign, magnitude, wasm_i32x4_const_splat((int32_t)0x80000000));
}

INLINE f4 tanh4(f4 x) {
  f4 a = wasm_f32x4_abs(x), z = mul4(x, x);
  f4 p = c4(-5.70498872745e-3f);
  p = fma4(p, z, c4(2.06390887954e-2f));
  p = fma4(p, z, c4(-5.37397155531e-2f));
  p = fma4(p, z, c4(1.33314422036e-1f));
  p = fma4(p, z, c4(-3.33332819422e-1f));
  f4 near = fma4(mul4(p, z), x, x);
  f4 e = exp_neg4(mul4(a, c4(-2.0f)));
  f4 far = div4(sub4(c4(1.0f), e), add4(c4(1.0f), e));
  return copysign4(select4(near, far, wasm_f32x4_lt(a, c4(0.625f))), x);
}

// 1/(1 + e^−x), from e^−|x| so that neither end loses its digits.
INLINE f4 sigmoid4(f4 x) {
  f4 e = exp_neg4(wasm_f32x4_neg(wasm_f32x4_abs(x)));
  return div4(select4(e, c4(1.0f), wasm_f32x4_lt(x, zero4())), add4(c4(1.0f), e));
}

INLINE f4 silu4(f4 x) {
  return mul4(x, sigmoid4(x));
}

// x·σ(x) differentiated: σ·(1 + x·(1 − σ)).
INLINE f4 dsilu4(f4 x) {
  f4 s = sigmoid4(x);
  return mul4(s, fma4(x, sub4(c4(1.0f), s), c4(1.0f)));
}

// ln(1 + e), 0 ≤ e ≤ 1: 2·artanh(e/(2 + e)) by its series, whose argument is at most ⅓.
INLINE f4 log1p4(f4 e) {
  f4 s = div4(e, add4(e, c4(2.0f))), z = mul4(s, s);
  f4 p = c4(1.0f / 15);
  p = fma4(p, z, c4(1.0f / 13));
  p = fma4(p, z, c4(1.0f / 11));
  p = fma4(p, z, c4(1.0f / 9));
  p = fma4(p, z, c4(1.0f / 7));
  p = fma4(p, z, c4(1.0f / 5));
  p = fma4(p, z, c4(1.0f / 3));
  s = add4(s, s);
  return fma4(mul4(p, z), s, s);
}

// ln(1 + e^x)
INLINE f4 softplus4(f4 x) {
  return add4(most4(x, zero4()), log1p4(exp_neg4(wasm_f32x4_neg(wasm_f32x4_abs(x)))));
}

// erfc(a) for a ≥ ½: Numerical Recipes' Chebyshev fit in 1/(1 + a/2) (relative error 1.2e-7).
INLINE f4 erfc_far4(f4 a) {
  f4 t = div4(c4(1.0f), fma4(a, c4(0.5f), c4(1.0f)));
  f4 p = c4(0.17087277f);
  p = fma4(p, t, c4(-0.82215223f));
  p = fma4(p, t, c4(1.48851587f));
  p = fma4(p, t, c4(-1.13520398f));
  p = fma4(p, t, c4(0.27886807f));
  p = fma4(p, t, c4(-0.18628806f));
  p = fma4(p, t, c4(0.09678418f));
  p = fma4(p, t, c4(0.37409196f));
  p = fma4(p, t, c4(1.00002368f));
  p = fma4(p, t, c4(-1.26551223f));
  return mul4(t, exp_neg4(sub4(p, mul4(a, a))));
}

// erf(x) for |x| ≤ ½: the Maclaurin series.
INLINE f4 erf_near4(f4 x) {
  f4 z = mul4(x, x), p = c4(-8.5483270e-4f);
  p = fma4(p, z, c4(5.2239776e-3f));
  p = fma4(p, z, c4(-2.6866171e-2f));
  p = fma4(p, z, c4(1.1283792e-1f));
  p = fma4(p, z, c4(-3.7612639e-1f));
  p = fma4(p, z, c4(1.1283792f));
  return mul4(p, x);
}

INLINE f4 erf4(f4 x) {
  f4 a = wasm_f32x4_abs(x);
  f4 far = copysign4(sub4(c4(1.0f), erfc_far4(a)), x);
  return select4(erf_near4(x), far, wasm_f32x4_lt(a, c4(0.5f)));
}

// The normal distribution function ½·(1 + erf(x/√2)), with all its digits in the left tail.
INLINE f4 normal_cdf4(f4 x) {
  f4 a = mul4(wasm_f32x4_abs(x), c4(0.707106781186547524f));
  f4 tail = mul4(erfc_far4(a), c4(0.5f));
  f4 far = select4(tail, sub4(c4(1.0f), tail), wasm_f32x4_lt(x, zero4()));
  f4 near = fma4(erf_near4(mul4(x, c4(0.707106781186547524f))), c4(0.5f), c4(0.5f));
  return select4(near, far, wasm_f32x4_lt(a, c4(0.5f)));
}

// sin and cos of `quadrant` quarter turns and r, at most π/4: the Taylor series.
INLINE void sincos_rest(int quadrant, double r, double *sine, double *cosine) {
  double z = r * r;
  double s = r + r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800)))));
  double c = -1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z / 479001600));
  c = 1 + z * (-0.5 + z * (1.0 / 24 + z * c));
  *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

// sin and cos of a double, for angles up to about 2^30: Cody–Waite reduction by π/2.
INLINE void sincos_f64(double x, double *sine, double *cosine) {
  double n = __builtin_rint(x * 0.63661977236758134308);
  double r = x - n * 1.57079632673412561417 - n * 6.07710050630396597660e-11 - n * 2.02226624879595063154e-21;
  sincos_rest((int)((int64_t)n & 3), r, sine, cosine);
}

// 1/2π to 256 bits.
static const uint32_t TURNS[8] = {0x28be60db, 0x9391054a, 0x7f09d5f4, 0x7d4d3770,
                                  0x36d8a566, 0x4f10e410, 0x7f9458ea, 0xf7aef158};

// sin and cos of a finite f32 of at least 1: the product of its 24 bits with the 96 bits of 1/2π that matter at its
// exponent is the fraction of a turn, without a rounding (Payne and Hanek 1983).
INLINE void sincos_far(float x, double *sine, double *cosine) {
  union {
    float value;
    uint32_t bits;
  } of = {x};
  uint64_t digits = (of.bits << 8) | 0x80000000u;
  uint32_t e = ((of.bits >> 23) & 0xff) - 126, k = e >> 5, s = e & 31, words[3];
  for (uint32_t i = 0; i < 3; i++) {
    uint64_t both = (uint64_t)(k + i ? TURNS[k + i - 1] : 0) << 32 | TURNS[k + i];
    words[i] = (uint32_t)(both << s >> 32);
  }
  uint64_t turn = digits * words[1] + (digits * words[2] >> 32) + (digits * words[0] << 32);
  uint64_t quarters = (turn + (UINT64_C(1) << 61)) >> 62;
  double rest = (double)(int64_t)(turn - (quarters << 62)) * (1.57079632679489661923 / 4611686018427387904.0);
  sincos_rest((int)quarters & 3, rest, sine, cosine);
  if (x < 0) *sine = -*sine;
}

// sin(x + turn·π/2), one lane at a time in double: for arguments too large for the vector reduction.
NOINLINE f4 sine_far4(f4 x, int turn) {
  float lanes[4];
  st(lanes, x);
  for (int i = 0; i < 4; i++) {
    double s, c;
    if (lanes[i] == 0 && turn == 0) continue;  // −0 too
    if (lanes[i] - lanes[i] != 0) {  // infinities and NaN
      lanes[i] = __builtin_nanf("");
      continue;
    }
    if (__builtin_fabsf(lanes[i]) < 8192.0f) sincos_f64(lanes[i], &s, &c);
    else sincos_far(lanes[i], &s, &c);
    lanes[i] = (float)(turn ? c : s);
  }
  return ld(lanes);
}

// sin(x + turn·π/2): turn 0 is the sine, turn 1 the cosine.
INLINE f4 sine4(f4 x, int turn) {
  if (!wasm_i32x4_all_true(wasm_f32x4_lt(wasm_f32x4_abs(x), c4(8192.0f)))) return sine_far4(x, turn);
  f4 rounded = fma4(x, c4(0.63661977236f), c4(ROUNDER)), n = sub4(rounded, c4(ROUNDER));
  f4 r = fma4(n, c4(-1.5703125f), x);
  r = fma4(n, c4(-4.8375129699707031e-4f), r);
  r = fma4(n, c4(-7.549789948768648e-8f), r);
  i4 quadrant = wasm_i32x4_add(rounded, wasm_i32x4_splat(turn));
  f4 z = mul4(r, r), s = c4(-1.9515295891e-4f), c = c4(2.443315711809948e-5f);
  s = fma4(s, z, c4(8.3321608736e-3f));
  s = fma4(s, z, c4(-1.6666654611e-1f));
  s = copysign4(fma4(mul4(s, z), r, r), r);  // of −0 too
  c = fma4(c, z, c4(-1.388731625493765e-3f));
  c = fma4(c, z, c4(4.166664568298827e-2f));
  c = fma4(mul4(c, z), z, fma4(z, c4(-0.5f), c4(1.0f)));
  f4 odd = wasm_i32x4_eq(wasm_v128_and(quadrant, wasm_i32x4_const_splat(1)), wasm_i32x4_const_splat(1));
  f4 y = select4(c, s, odd);
  i4 sign = wasm_i32x4_shl(wasm_v128_and(quadrant, wasm_i32x4_const_splat(2)), 30);
  return wasm_v128_xor(y, sign);
}
