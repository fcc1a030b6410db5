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

// Σ (u − mean)² in f32 while it is sure to neither vanish nor overflow nor lose digits, else in f64.
INLINE double squares(const float *u, size_t n, float mean) {
  f4 s = zero4(), t = zero4(), m = splat(mean);
  size_t i = n > 4096 ? n : 0;
  for (; i + 8 <= n; i += 8) {
    f4 d = sub4(ld(u + i), m), e = sub4(ld(u + i + 4), m);
    s = fma4(d, d, s);
    t = fma4(e, e, t);
  }
  for (; i + 4 <= n; i += 4) {
    f4 d = sub4(ld(u + i), m);
    s = fma4(d, d, s);
  }
  double sum = sum4(add4(s, t));
  for (; i < n; i++) sum += (u[i] - mean) * (u[i] - mean);
  if (n <= 4096 && sum > 1e-25 && sum < 1e35) return sum;
  sum = 0;
  for (i = 0; i < n; i++) sum += ((double)u[i] - mean) * ((double)u[i] - mean);
  return sum;
}

// mean: null for RMS norms; mean and rstd have `rows` elements.
void EXPORT(norm)(const float *x, const float *z, const float *w, const float *b, float *y, float *mean, float *rstd,
                  size_t rows, size_t group, size_t channels, float eps, int gate) {
  for (size_t r = 0, c = 0; r < rows; r++, c = c + group == channels ? 0 : c + group) {
    const float *u = x + r * group;
    float *out = y + r * group;
    if (gate == GATE_FIRST) {
      gate_row(u, z + r * group, out, group);
      u = out;
    }
    float mu = mean ? (float)(row_sum(u, group) / group) : 0.0f;
    float scale = (float)(1 / __builtin_sqrt(squares(u, group, mu) / group + eps));
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
      if (dx) st_upto(dx + i, left, mul4(du, silu4(z)));
    } else {
      f4 plain = mul4(mul4(ld_upto(r->dy + i, left), ld_upto(r->w + i, left)), hat);
      if (dz) st_upto(dz + i, left, mul4(plain, dsilu4(z)));
      if (dx) st_upto(dx + i, left, du);
    }
  }
}

#define STRIP 128  // channels whose sums in f64 lie on the stack

// dw and db (each may be null) of `n` channels: sums over rows, of which one with these channels comes every `step`
// elements of x and every `stats` elements of mean and rstd.
INLINE void strip_to_weights(Row row, const float *mean, const float *rstd, size_t rows, size_t step, size_t stats,
                             size_t n, float *dw, float *db) {
  double weights[STRIP + 4] = {0}, biases[STRIP + 4] = {0};
  for (size_t r = 0; r < rows; r += 8) {
    size_t end = least(rows, r + 8);
    for (size_t i = 0; i < n; i += 4) {
      size_t left = n - i;
      f4 w = zero4(), b = zero4();
      for (size_t k = r; k < end; k++) {
        size_t at = k * step + i, s = k * stats;
        f4 u = ld_upto(row.x + at, left), g = ld_upto(row.dy + at, left);
        if (row.gate == GATE_FIRST) u = mul4(u, silu4(ld_upto(row.z + at, left)));
        if (row.gate == GATE_LAST) g = mul4(g, silu4(ld_upto(row.z + at, left)));
        w = fma4(g, mul4(sub4(u, splat(mean ? mean[s] : 0.0f)), splat(rstd[s])), w);
        b = add4(b, g);
      }
      Total sums = {ld(weights + i), ld(weights + i + 2)};
      add_to(&sums, w);
      st(weights + i, sums.low);
      st(weights + i + 2, sums.high);
      if (!db) continue;
      sums = (Total){ld(biases + i), ld(biases + i + 2)};
      add_to(&sums, b);
      st(biases + i, sums.low);
      st(biases + i + 2, sums.high);
    }
  }
  for (size_t i = 0; i < n && dw; i++) dw[i] = (float)weights[i];
  for (size_t i = 0; i < n && db; i++) db[i] = (float)biases[i];
}

// Each of dx, dz, dw, db may be null; dx and dz are written for every row, dw and db are sums over rows.
void EXPORT(norm_backward)(const float *x, const float *z, const float *w, const float *mean, const float *rstd,
                           const float *dy, float *dx, float *dz, float *dw, float *db, size_t rows, size_t group,
                           size_t channels, int gate) {
  for (size_t r = 0, c = 0; r < rows && (dx || dz); r++, c = c + group == channels ? 0 : c + group) {
    size_t at = r * group;
    Row row = {x + at, z + at, w + c, dy + at, mean ? mean[r] : 0.0f, rstd[r], gate};
    row_to_inputs(&row, group, mean != 0, dx ? dx + at : 0, dz ? dz + at : 0);
  }
  if (!dw && !db) return;
  size_t groups = channels / group;
  for (size_t g = 0; g < groups; g++) {
    for (size_t i = 0; i < group; i += STRIP) {
      size_t c = g * group + i;
      Row first = {x + c, z + c, 0, dy + c, 0, 0, gate};
      strip_to_weights(first, mean ? mean + g : 0, rstd + g, rows / groups, channels, groups, least(group - i, STRIP),
                       dw ? dw + c : 0, db ? db + c : 0);
    }
  }
}
