// Reductions and maps over one row of n floats.
#pragma once
#include "math.h"

INLINE float row_sum(const float *x, size_t n) {
  f4 s0 = zero4(), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    s0 = add4(s0, ld(x + i));
    s1 = add4(s1, ld(x + i + 4));
    s2 = add4(s2, ld(x + i + 8));
    s3 = add4(s3, ld(x + i + 12));
  }
  for (; i + 4 <= n; i += 4) s0 = add4(s0, ld(x + i));
  if (i < n) s1 = add4(s1, ld_part(x + i, n - i, 0.0f));
  return sum4(add4(add4(s0, s1), add4(s2, s3)));
}

INLINE float row_dot(const float *a, const float *b, size_t n) {
  f4 s0 = zero4(), s1 = s0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    s0 = fma4(ld(a + i), ld(b + i), s0);
    s1 = fma4(ld(a + i + 4), ld(b + i + 4), s1);
  }
  for (; i + 4 <= n; i += 4) s0 = fma4(ld(a + i), ld(b + i), s0);
  if (i < n) s1 = fma4(ld_part(a + i, n - i, 0.0f), ld_part(b + i, n - i, 0.0f), s1);
  return sum4(add4(s0, s1));
}

// NaN are passed over.
INLINE float row_max(const float *x, size_t n) {
  f4 m = c4(-__builtin_inff());
  size_t i = 0;
  for (; i + 4 <= n; i += 4) m = most4(m, ld(x + i));
  if (i < n) m = most4(m, ld_part(x + i, n - i, -__builtin_inff()));
  return max4_across(m);
}

// Σ e^((x − max)·scale − log), exponents of at most about 0; y, unless null, gets the terms (y may be x). The maximum and
// the logarithm of a sum are two numbers, because one would round the logarithm away where the maximum is large.
INLINE float row_exp_sum(const float *x, float *y, size_t n, float max, float scale, float log) {
  f4 k = splat(scale), m = splat(max), l = splat(log), total = zero4();
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    f4 e = exp_neg4(sub4(mul4(sub4(ld(x + i), m), k), l));
    if (y) st(y + i, e);
    total = add4(total, e);
  }
  if (i < n) {
    f4 e = exp_neg4(sub4(mul4(sub4(ld_part(x + i, n - i, -__builtin_inff()), m), k), l));
    if (y) st_part(y + i, n - i, e);
    total = add4(total, e);
  }
  return sum4(total);
}

// y = x·scale
INLINE void row_scale(const float *x, float *y, size_t n, float scale) {
  f4 k = splat(scale);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, mul4(ld(x + i), k));
  if (i < n) st_part(y + i, n - i, mul4(ld_part(x + i, n - i, 0.0f), k));
}

// y += x·scale
INLINE void row_axpy(const float *x, float *y, size_t n, float scale) {
  f4 k = splat(scale);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, fma4(ld(x + i), k, ld(y + i)));
  if (i < n) st_part(y + i, n - i, fma4(ld_part(x + i, n - i, 0.0f), k, ld_part(y + i, n - i, 0.0f)));
}

INLINE void row_zero(float *y, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, zero4());
  for (; i < n; i++) y[i] = 0.0f;
}

INLINE void row_copy(const float *x, float *y, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, ld(x + i));
  for (; i < n; i++) y[i] = x[i];
}

// ln x of one number.
INLINE float log1(float x) {
  return wasm_f32x4_extract_lane(log4(splat(x)), 0);
}

INLINE float exp1(float x) {
  return wasm_f32x4_extract_lane(exp4(splat(x)), 0);
}
