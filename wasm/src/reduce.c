// Sums, softmax and what is made of them, over the last dimension of [rows, n].
#include "rows.h"

void EXPORT(sum_last)(const float *x, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = (float)row_sum(x + r * n, n);
}

#define STRIP 256  // columns whose sums in f64 lie on the stack

// Four columns (or the first `count` of them) of a, or of a·b, summed over up to eight rows.
INLINE f4 eight_rows(const float *a, const float *b, size_t n, size_t rows, size_t count) {
  if (!b && rows == 8 && count >= 4) return add4(four(a, n), four(a + 4 * n, n));
  f4 sum = zero4();
  for (size_t r = 0; r < rows; r++) {
    f4 v = ld_upto(a + r * n, count);
    sum = add4(sum, b ? mul4(v, ld_upto(b + r * n, count)) : v);
  }
  return sum;
}

// y[n] = Σ over rows of a, or of a·b, which may be null (+ y when accumulate).
INLINE void sum_rows(const float *a, const float *b, float *y, size_t rows, size_t n, int accumulate) {
  double sums[STRIP + 4];
  for (size_t c = 0; c < n; c += STRIP) {
    size_t width = least(n - c, STRIP);
    for (size_t i = 0; i < width + 4; i++) sums[i] = i < width && accumulate ? y[c + i] : 0;
    for (size_t r = 0; r < rows; r += 8) {
      size_t at = r * n + c, count = least(rows - r, 8);
      for (size_t i = 0; i < width; i += 4) {
        Total total = {ld(sums + i), ld(sums + i + 2)};
        add_to(&total, eight_rows(a + at + i, b ? b + at + i : 0, n, count, width - i));
        st(sums + i, total.low);
        st(sums + i + 2, total.high);
      }
    }
    for (size_t i = 0; i < width; i++) y[c + i] = (float)sums[i];
  }
}

void EXPORT(sum_first)(const float *x, float *y, size_t rows, size_t n, int accumulate) {
  sum_rows(x, 0, y, rows, n, accumulate);
}

// The gradient of a broadcast factor.
void EXPORT(dot_first)(const float *a, const float *b, float *y, size_t rows, size_t n, int accumulate) {
  sum_rows(a, b, y, rows, n, accumulate);
}

// y[rows] = Σ over columns of a·b.
void EXPORT(dot_last)(const float *a, const float *b, float *y, size_t rows, size_t n) {
  for (size_t r = 0; r < rows; r++) y[r] = (float)row_dot(a + r * n, b + r * n, n);
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
  f4 g = splat(*dy), norm = splat(*y == 0.0f ? __builtin_inff() : *y);
  for (size_t i = 0; i < n; i += 4)
    st_upto(da + i, n - i, mul4(g, div4(sub4(ld_upto(a + i, n - i), ld_upto(b + i, n - i)), norm)));
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
