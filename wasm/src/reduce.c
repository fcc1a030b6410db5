// Sums, softmax and what is made of them, over the last dimension of [rows, n].
#include "rows.h"

void EXPORT(sum_last)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = row_sum(x + r * n, n);
}

// y[n] = Σ over rows (+ y when accumulate). Four rows at a time, y stays in cache.
void EXPORT(sum_first)(const float *x, float *y, size_t rows, size_t n, int accumulate) {
  if (!accumulate) row_zero(y, n);
  size_t r = 0;
  for (; r + 4 <= rows; r += 4, x += 4 * n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      f4 a = add4(ld(x + i), ld(x + n + i)), b = add4(ld(x + 2 * n + i), ld(x + 3 * n + i));
      st(y + i, add4(ld(y + i), add4(a, b)));
    }
    for (; i < n; i++) y[i] += (x[i] + x[n + i]) + (x[2 * n + i] + x[3 * n + i]);
  }
  for (; r < rows; r++, x += n) row_axpy(x, y, n, 1.0f);
}

// y[n] = Σ over rows of a·b: the gradient of a broadcast factor.
void EXPORT(dot_first)(const float *a, const float *b, float *y, size_t rows, size_t n, int accumulate) {
  if (!accumulate) row_zero(y, n);
  for (size_t r = 0; r < rows; r++, a += n, b += n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) st(y + i, fma4(ld(a + i), ld(b + i), ld(y + i)));
    for (; i < n; i++) y[i] += a[i] * b[i];
  }
}

// y[rows] = Σ over columns of a·b.
void EXPORT(dot_last)(const float *a, const float *b, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = row_dot(a + r * n, b + r * n, n);
}

// Σ (a − b)², in f64: a gradient's squared norm may have a billion terms. b may be null: zeros.
INLINE double squares(const float *a, const float *b, size_t n) {
  v128_t low = wasm_f64x2_const_splat(0.0), high = low;
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    f4 v = b ? sub4(ld(a + i), ld(b + i)) : ld(a + i);
    v128_t p = wasm_f64x2_promote_low_f32x4(v);
    v128_t q = wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    low = wasm_f64x2_add(low, wasm_f64x2_mul(p, p));
    high = wasm_f64x2_add(high, wasm_f64x2_mul(q, q));
  }
  v128_t both = wasm_f64x2_add(low, high);
  double sum = wasm_f64x2_extract_lane(both, 0) + wasm_f64x2_extract_lane(both, 1);
  for (; i < n; i++) {
    double v = b ? (double)a[i] - b[i] : a[i];
    sum += v * v;
  }
  return sum;
}

double EXPORT(sum_squares)(const float *x, size_t n) {
  return squares(x, 0, n);
}

// y[1] = ‖a − b‖
void EXPORT(l2_distance)(const float *a, const float *b, float *y, size_t n) {
  *y = (float)__builtin_sqrt(squares(a, b, n));
}

// da = dy·(a − b)/y, 0 where y is.
void EXPORT(l2_distance_backward)(const float *a, const float *b, const float *y, const float *dy, float *da,
                                  size_t n) {
  f4 scale = splat(*y == 0.0f ? 0.0f : *dy / *y);
  for (size_t i = 0; i < n; i += 4)
    st_upto(da + i, n - i, mul4(scale, sub4(ld_upto(a + i, n - i), ld_upto(b + i, n - i))));
}

void EXPORT(softmax)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, x += n, y += n) {
    float sum = row_exp_sum(x, y, n, row_max(x, n), 1.0f, 0.0f);
    row_scale(y, y, n, 1.0f / sum);
  }
}

// dx = y·(dy − Σ y·dy)
void EXPORT(softmax_backward)(const float *y, const float *dy, float *dx, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, y += n, dy += n, dx += n) {
    float dot = row_dot(y, dy, n);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) st(dx + i, mul4(ld(y + i), sub4(ld(dy + i), splat(dot))));
    for (; i < n; i++) dx[i] = y[i] * (dy[i] - dot);
  }
}

// An infinite maximum is the result, unless the row holds a NaN: no ∞ − ∞.
INLINE float row_logsumexp(const float *x, size_t n) {
  float max = row_max(x, n);
  if (max == max + max && max != 0.0f) {
    for (size_t i = 0; i < n; i++)
      if (x[i] != x[i]) return x[i];
    return max;
  }
  return max + log1(row_exp_sum(x, 0, n, max, 1.0f, 0.0f));
}

void EXPORT(logsumexp)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = row_logsumexp(x + r * n, n);
}

void EXPORT(log_softmax)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, x += n, y += n) {
    float max = row_max(x, n), rest = log1(row_exp_sum(x, 0, n, max, 1.0f, 0.0f));
    size_t i = 0;
    for (; i + 4 <= n; i += 4) st(y + i, sub4(sub4(ld(x + i), splat(max)), splat(rest)));
    for (; i < n; i++) y[i] = (x[i] - max) - rest;
  }
}

// dx = dy − e^y·Σ dy
void EXPORT(log_softmax_backward)(const float *y, const float *dy, float *dx, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++, y += n, dy += n, dx += n) {
    f4 sum = splat(row_sum(dy, n));
    size_t i = 0;
    for (; i + 4 <= n; i += 4) st(dx + i, sub4(ld(dy + i), mul4(exp_neg4(ld(y + i)), sum)));
    if (i < n) {
      f4 e = exp_neg4(ld_part(y + i, n - i, 0.0f));
      st_part(dx + i, n - i, sub4(ld_part(dy + i, n - i, 0.0f), mul4(e, sum)));
    }
  }
}
