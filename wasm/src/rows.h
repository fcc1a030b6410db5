// Reductions and maps over one row of n floats.
#pragma once
#include "math.h"

// Two sums of f32, kept in f64 and taken in pairs of lanes: what goes on for long loses no digits.
typedef struct {
  v128_t low, high;
} Total;

INLINE Total no_total(void) {
  return (Total){wasm_f64x2_const_splat(0.0), wasm_f64x2_const_splat(0.0)};
}

INLINE void add_to(Total *total, f4 v) {
  total->low = wasm_f64x2_add(total->low, wasm_f64x2_promote_low_f32x4(v));
  total->high = wasm_f64x2_add(total->high, wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(v, v, 2, 3, 0, 1)));
}

INLINE double total_of(const Total *total) {
  v128_t both = wasm_f64x2_add(total->low, total->high);
  return wasm_f64x2_extract_lane(both, 0) + wasm_f64x2_extract_lane(both, 1);
}

// The sum of four vectors that lie `step` floats apart.
INLINE f4 four(const float *x, size_t step) {
  return add4(add4(ld(x), ld(x + step)), add4(ld(x + 2 * step), ld(x + 3 * step)));
}

INLINE double row_sum(const float *x, size_t n) {
  Total total = no_total();
  size_t i = 0;
  for (; i + 32 <= n; i += 32) add_to(&total, add4(four(x + i, 4), four(x + i + 16, 4)));
  for (; i + 16 <= n; i += 16) add_to(&total, four(x + i, 4));
  for (; i + 4 <= n; i += 4) add_to(&total, ld(x + i));
  if (i < n) add_to(&total, ld_part(x + i, n - i, 0.0f));
  return total_of(&total);
}

#define BLOCK 256  // products that are summed in f32 before they go to a sum in f64

INLINE double row_dot(const float *a, const float *b, size_t n) {
  double total = 0;
  do {
    size_t block = least(n, BLOCK), i = 0;
    f4 s0 = zero4(), s1 = s0;
    for (; i + 8 <= block; i += 8) {
      s0 = fma4(ld(a + i), ld(b + i), s0);
      s1 = fma4(ld(a + i + 4), ld(b + i + 4), s1);
    }
    for (; i + 4 <= block; i += 4) s0 = fma4(ld(a + i), ld(b + i), s0);
    if (i < block) s1 = fma4(ld_part(a + i, block - i, 0.0f), ld_part(b + i, block - i, 0.0f), s1);
    total += sum4(add4(s0, s1));
    a += block, b += block, n -= block;
  } while (n > 0);
  return total;
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
INLINE double row_exp_sum(const float *x, float *y, size_t n, float max, float scale, float log) {
  f4 k = splat(scale), m = splat(max), l = splat(log);
  double total = 0;
  for (size_t i = 0; i < n;) {
    size_t end = least(n, i + BLOCK);
    f4 sum = zero4();
    for (; i + 4 <= end; i += 4) {
      f4 e = exp_neg4(sub4(mul4(sub4(ld(x + i), m), k), l));
      if (y) st(y + i, e);
      sum = add4(sum, e);
    }
    if (i < end) {
      f4 e = exp_neg4(sub4(mul4(sub4(ld_part(x + i, end - i, -__builtin_inff()), m), k), l));
      if (y) st_part(y + i, end - i, e);
      sum = add4(sum, e);
      i = end;
    }
    total += sum4(sum);
  }
  return total;
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
