// Layer norm, RMS norm and gated RMS norm: one kernel, whose parts are left out where their pointer or flag is 0.
// A row is `group` consecutive channels normalised together; weights have `channels` (a multiple of group) elements, so
// that row r uses those from (r·group) mod channels.
//   u = x, or x·silu(z) with gate FIRST;  hat = (u − mean)·rstd;  y = hat·w + b, times silu(z) with gate LAST
#include "rows.h"

enum { GATE_NONE, GATE_FIRST, GATE_LAST };

// u of a row, into `to`.
INLINE void gate_row(const float *x, const float *z, float *to, size_t n) {
  for (size_t i = 0; i < n; i += 4)
    st_upto(to + i, n - i, mul4(ld_upto(x + i, n - i), silu4(ld_upto(z + i, n - i))));
}

// The mean; where f32 cannot hold the sum, by f64.
INLINE float mean_of(const float *u, size_t n) {
  float mean = row_sum(u, n) / n;
  if (mean - mean == 0) return mean;
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += u[i];
  return (float)(sum / n);
}

#define SQUARES 4096  // squares that are summed in f32

INLINE float block_squares(const float *u, size_t n, float mean) {
  f4 s = zero4(), t = zero4(), m = splat(mean);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    f4 d = sub4(ld(u + i), m), e = sub4(ld(u + i + 4), m);
    s = fma4(d, d, s);
    t = fma4(e, e, t);
  }
  for (; i + 4 <= n; i += 4) {
    f4 d = sub4(ld(u + i), m);
    s = fma4(d, d, s);
  }
  float sum = sum4(add4(s, t));
  for (; i < n; i++) sum += (u[i] - mean) * (u[i] - mean);
  return sum;
}

// 1/√(Σ (u − mean)²/n + eps); where squares in f32 may vanish or overflow, by f64.
INLINE float rstd_of(const float *u, size_t n, float mean, float eps) {
  float sum = 0;
  if (n <= SQUARES) {
    sum = block_squares(u, n, mean);
  } else {
    double total = 0;
    for (size_t i = 0; i < n; i += SQUARES) total += block_squares(u + i, least(n - i, SQUARES), mean);
    sum = (float)total;
  }
  if (sum > 1e-25f && sum < 1e35f) return 1.0f / __builtin_sqrtf(sum / n + eps);
  double total = 0;
  for (size_t i = 0; i < n; i++) total += ((double)u[i] - mean) * ((double)u[i] - mean);
  return (float)(1 / __builtin_sqrt(total / n + eps));
}

// Layer norm (mean ≠ 0), RMS norm (mean = 0) and gated RMS norm of `rows` runs of `group` channels; weights have
// `channels`, a multiple of group. gate 0: none; 1: u = x·silu(z) is normalised; 2: the result is multiplied by
// silu(z). y = (u − mean)·rstd·w + b. Writes mean and rstd [rows]. z and b may be 0.
void EXPORT(norm)(const float *x, const float *_Nullable z, const float *w, const float *_Nullable b, float *y,
                  float *_Nullable mean, float *rstd, size_t rows, size_t group, size_t channels, float eps, int gate) {
  for (size_t r = 0, c = 0; r < rows; r++, c = c + group == channels ? 0 : c + group) {
    const float *u = x + r * group;
    float *out = y + r * group;
    if (gate == GATE_FIRST) {
      gate_row(u, z + r * group, out, group);
      u = out;
    }
    float mu = mean ? mean_of(u, group) : 0.0f;
    float scale = rstd_of(u, group, mu, eps);
    if (mean) mean[r] = mu;
    rstd[r] = scale;
    for (size_t i = 0; i < group; i += 4) {
      size_t left = group - i;
      f4 v = mul4(sub4(ld_upto(u + i, left), splat(mu)), splat(scale));
      v = fma4(v, ld_upto(w + c + i, left), b ? ld_upto(b + c + i, left) : zero4());
      if (gate == GATE_LAST) v = mul4(v, silu4(ld_upto(z + r * group + i, left)));
      st_upto(out + i, left, v);
    }
  }
}

typedef struct {
  const float *x, *z, *w, *dy;
  float mu, scale;
  int gate;
} Row;

// hat and dhat = dy·w (·silu(z)) of four channels.
INLINE void slopes(const Row *r, size_t i, size_t left, f4 *hat, f4 *dhat) {
  f4 u = ld_upto(r->x + i, left), d = mul4(ld_upto(r->dy + i, left), ld_upto(r->w + i, left));
  if (r->gate == GATE_FIRST) u = mul4(u, silu4(ld_upto(r->z + i, left)));
  if (r->gate == GATE_LAST) d = mul4(d, silu4(ld_upto(r->z + i, left)));
  *hat = mul4(sub4(u, splat(r->mu)), splat(r->scale));
  *dhat = d;
}

INLINE void row_to_inputs(const Row *r, size_t n, int center, float *dx, float *dz) {
  f4 sums = zero4(), dots = zero4(), hat, dhat;
  for (size_t i = 0; i < n; i += 4) {  // past the end dhat is 0
    slopes(r, i, n - i, &hat, &dhat);
    sums = add4(sums, dhat);
    dots = fma4(hat, dhat, dots);
  }
  f4 sum = splat(center ? sum4(sums) / n : 0.0f), dot = splat(sum4(dots) / n);
  for (size_t i = 0; i < n; i += 4) {
    size_t left = n - i;
    slopes(r, i, left, &hat, &dhat);
    f4 du = mul4(splat(r->scale), sub4(sub4(dhat, sum), mul4(hat, dot)));
    if (r->gate == GATE_NONE) {
      st_upto(dx + i, left, du);
      continue;
    }
    f4 z = ld_upto(r->z + i, left);
    if (r->gate == GATE_FIRST) {
      if (dz) st_upto(dz + i, left, mul4(mul4(du, ld_upto(r->x + i, left)), dsilu4(z)));
      st_upto(dx + i, left, mul4(du, silu4(z)));
    } else {
      f4 plain = mul4(mul4(ld_upto(r->dy + i, left), ld_upto(r->w + i, left)), hat);
      if (dz) st_upto(dz + i, left, mul4(plain, dsilu4(z)));
      st_upto(dx + i, left, du);
    }
  }
}

INLINE void row_to_weights(const Row *r, size_t n, float *dw, float *db) {
  for (size_t i = 0; i < n; i += 4) {
    size_t left = n - i;
    f4 u = ld_upto(r->x + i, left), g = ld_upto(r->dy + i, left);
    if (r->gate == GATE_FIRST) u = mul4(u, silu4(ld_upto(r->z + i, left)));
    if (r->gate == GATE_LAST) g = mul4(g, silu4(ld_upto(r->z + i, left)));
    f4 hat = mul4(sub4(u, splat(r->mu)), splat(r->scale));
    st_upto(dw + i, left, fma4(g, hat, ld_upto(dw + i, left)));
    if (db) st_upto(db + i, left, add4(g, ld_upto(db + i, left)));
  }
}

// Gradients of `norm` for x and z; dz may be 0.
void EXPORT(norm_backward)(const float *x, const float *_Nullable z, const float *w, const float *_Nullable mean,
                           const float *rstd, const float *dy, float *_Nullable dx, float *_Nullable dz, size_t rows,
                           size_t group, size_t channels, int gate) {
  for (size_t r = 0, c = 0; r < rows; r++, c = c + group == channels ? 0 : c + group) {
    size_t at = r * group;
    Row row = {x + at, z + at, w + c, dy + at, mean ? mean[r] : 0.0f, rstd[r], gate};
    row_to_inputs(&row, group, mean != 0, dx + at, dz ? dz + at : 0);
  }
}

// Bytes of scratch for norm_weights_backward.
size_t EXPORT(norm_weights_scratch)(size_t channels) {
  return 2 * channels * sizeof(double);
}

// db may be null. dw and db take the sums of BLOCK_ROWS rows before these go to the sums in f64.
void EXPORT(norm_weights_backward)(const float *x, const float *_Nullable z, const float *_Nullable mean,
                                   const float *rstd, const float *dy, float *dw, float *_Nullable db, size_t rows,
                                   size_t group, size_t channels, int gate, double *sums) {
  size_t block = channels / group * BLOCK_ROWS;
  for (size_t c = 0; c < 2 * channels; c++) sums[c] = 0;
  row_zero(dw, channels);
  if (db) row_zero(db, channels);
  for (size_t first = 0; first < rows; first += block) {
    size_t end = first + least(rows - first, block);
    for (size_t r = first, c = 0; r < end; r++, c = c + group == channels ? 0 : c + group) {
      size_t at = r * group;
      Row row = {x + at, z + at, 0, dy + at, mean ? mean[r] : 0.0f, rstd[r], gate};
      row_to_weights(&row, group, dw + c, db ? db + c : 0);
    }
    row_flush(dw, sums, channels);
    if (db) row_flush(db, sums + channels, channels);
  }
  row_narrow(sums, dw, channels);
  if (db) row_narrow(sums + channels, db, channels);
}
