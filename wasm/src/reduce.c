// Sums, softmax and what is made of them, over the last dimension of [rows, n].
#include "rows.h"

INLINE void row_div(float *y, size_t n, float by) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) st(y + i, div4(ld(y + i), splat(by)));
  for (; i < n; i++) y[i] /= by;
}

// y[rows] = sums of the rows of x [rows, n], divided by `count`.
void EXPORT(sum_last)(const float *x, float *y, size_t rows, size_t n, float count) {
  if (n > 0 && n < 4)
    for (size_t r = 0; r < rows; r++) y[r] = sum4(ld_part(x + r * n, n, 0.0f));
  else
    for (size_t r = 0; r < rows; r++) y[r] = row_sum(x + r * n, n);
  if (count != 1.0f) row_div(y, rows, count);
}

// y += Σ over rows of x. Four rows at a time, y stays in cache.
INLINE void add_rows(const float *x, float *y, size_t rows, size_t n) {
  size_t r = 0;
  for (; r + 4 <= rows; r += 4, x += 4 * n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      f4 a = add4(ld(x + i), ld(x + n + i)), b = add4(ld(x + 2 * n + i), ld(x + 3 * n + i));
      st(y + i, add4(ld(y + i), add4(a, b)));
    }
    for (; i < n; i++) y[i] += (x[i] + x[n + i]) + (x[2 * n + i] + x[3 * n + i]);
  }
  for (; r < rows; r++, x += n) row_add(x, y, n);
}

#define NARROW 64  // columns whose sums in f64 lie on the stack

// Bytes of scratch for sum_first.
size_t EXPORT(sum_first_scratch)(size_t rows, size_t n) {
  return rows <= BLOCK_ROWS || n <= NARROW ? 0 : n * sizeof(double);
}

// y[n] = sum over the rows of x [rows, n], divided by `count`.
void EXPORT(sum_first)(const float *x, float *y, size_t rows, size_t n, float count, double *sums) {
  row_zero(y, n);
  if (rows <= BLOCK_ROWS) {
    add_rows(x, y, rows, n);
  } else {
    double narrow[NARROW];
    if (n <= NARROW) sums = narrow;
    for (size_t i = 0; i < n; i++) sums[i] = 0;
    for (size_t r = 0; r < rows; r += BLOCK_ROWS) {
      add_rows(x + r * n, y, least(rows - r, BLOCK_ROWS), n);
      row_flush(y, sums, n);
    }
    row_narrow(sums, y, n);
  }
  if (count != 1.0f) row_div(y, n, count);
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

// y[1] = ‖a − b‖, added up in f64.
void EXPORT(l2_distance)(const float *a, const float *_Nullable b, float *y, size_t n) {
  *y = (float)__builtin_sqrt(squares(a, b, n));
}

// da = dy·(a − b)/y, and 0 where y is; y and dy are one float each.
void EXPORT(l2_distance_backward)(const float *a, const float *b, const float *y, const float *dy, float *da,
                                  size_t n) {
  f4 g = splat(*dy), norm = splat(*y == 0.0f ? __builtin_inff() : *y);
  for (size_t i = 0; i < n; i += 4)
    st_upto(da + i, n - i, mul4(g, div4(sub4(ld_upto(a + i, n - i), ld_upto(b + i, n - i)), norm)));
}

// Softmax over the last dimension of [rows, n]. May work in place.
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

// y[rows] = ln Σ e^x over the last dimension.
void EXPORT(logsumexp)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = row_logsumexp(x + r * n, n);
}

// ln softmax over the last dimension.
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
