// Reductions and maps over one row of n floats.
#pragma once
#include "math.h"

// So many terms, or rows of them, are summed in f32 before they go to a sum in f64: long sums lose no digits.
#define BLOCK 256
#define BLOCK_ROWS 64

INLINE f4 sum_of_four(const float *x) {
  return add4(add4(ld(x), ld(x + 4)), add4(ld(x + 8), ld(x + 12)));
}

// Sums of one block.
INLINE float block_sum(const float *x, size_t n) {
  f4 s = zero4(), t = s;
  size_t i = 0;
  for (; i + 32 <= n; i += 32) s = add4(s, add4(sum_of_four(x + i), sum_of_four(x + i + 16)));
  for (; i + 4 <= n; i += 4) t = add4(t, ld(x + i));
  if (i < n) s = add4(s, ld_part(x + i, n - i, 0.0f));
  return sum4(add4(s, t));
}

INLINE float block_dot(const float *a, const float *b, size_t n) {
  f4 s = zero4(), t = s;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    s = fma4(ld(a + i), ld(b + i), s);
    t = fma4(ld(a + i + 4), ld(b + i + 4), t);
  }
  for (; i + 4 <= n; i += 4) s = fma4(ld(a + i), ld(b + i), s);
  if (i < n) t = fma4(ld_part(a + i, n - i, 0.0f), ld_part(b + i, n - i, 0.0f), t);
  return sum4(add4(s, t));
}

// Σ e^((x − max)·scale − log); y, unless null, gets the terms.
INLINE float block_exp_sum(const float *x, float *y, size_t n, float max, float scale, float log) {
  f4 k = splat(scale), m = splat(max), l = splat(log), sum = zero4();
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    f4 e = exp_neg4(sub4(mul4(sub4(ld(x + i), m), k), l));
    if (y) st(y + i, e);
    sum = add4(sum, e);
  }
  if (i < n) {
    f4 e = exp_neg4(sub4(mul4(sub4(ld_part(x + i, n - i, -__builtin_inff()), m), k), l));
    if (y) st_part(y + i, n - i, e);
    sum = add4(sum, e);
  }
  return sum4(sum);
}

INLINE float row_sum(const float *x, size_t n) {
  if (n <= 2 * BLOCK) return block_sum(x, n);
  double sum = 0;
  for (size_t i = 0; i < n; i += 2 * BLOCK) sum += block_sum(x + i, least(n - i, 2 * BLOCK));
  return (float)sum;
}

INLINE float row_dot(const float *a, const float *b, size_t n) {
  if (n <= BLOCK) return block_dot(a, b, n);
  double sum = 0;
  for (size_t i = 0; i < n; i += BLOCK) sum += block_dot(a + i, b + i, least(n - i, BLOCK));
  return (float)sum;
}

// sums[0…4] += v, in f64.
INLINE void add_wide(double *sums, f4 v) {
  f4 swapped = wasm_i32x4_shuffle(v, v, 2, 3, 0, 1);
  st(sums, wasm_f64x2_add(ld(sums), wasm_f64x2_promote_low_f32x4(v)));
  st(sums + 2, wasm_f64x2_add(ld(sums + 2), wasm_f64x2_promote_low_f32x4(swapped)));
}

// Moves what x holds to sums in f64: sums += x, x = 0.
INLINE void row_flush(float *x, double *sums, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    add_wide(sums + i, ld(x + i));
    st(x + i, zero4());
  }
  for (; i < n; i++) sums[i] += x[i], x[i] = 0;
}

// y = sums, in f32
INLINE void row_narrow(const double *sums, float *y, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    f4 low = wasm_f32x4_demote_f64x2_zero(ld(sums + i)), high = wasm_f32x4_demote_f64x2_zero(ld(sums + i + 2));
    st(y + i, wasm_i64x2_shuffle(low, high, 0, 2));
  }
  for (; i < n; i++) y[i] = (float)sums[i];
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
  double sum = 0;
  for (size_t i = 0; i < n; i += BLOCK)
    sum += block_exp_sum(x + i, y ? y + i : 0, least(n - i, BLOCK), max, scale, log);
  return (float)sum;
}

// y = x·scale
INLINE void row_scale(const float *x, float *y, size_t n, float scale) {
  f4 k = splat(scale);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, mul4(ld(x + i), k));
  if (i < n) st_part(y + i, n - i, mul4(ld_part(x + i, n - i, 0.0f), k));
}

// y += x
INLINE void row_add(const float *x, float *y, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, add4(ld(y + i), ld(x + i)));
  for (; i < n; i++) y[i] += x[i];
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
