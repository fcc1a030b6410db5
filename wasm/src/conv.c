// Depthwise causal convolution with optional SiLU: y[l] = act(bias + Σ_k w[k]·x[l − K + 1 + k]).
// w is (C, K), K ≤ 8. Token-major x is (B, L, C) with `initial` (B, K−1, C), the columns before the sequence;
// channel-major x is (B, C, L) with `initial` (B, C, K−1). Null: zeros.
#include "rows.h"

#define MAX_WIDTH 8

typedef struct {
  const float *x, *w, *bias, *initial;
  size_t channels, length, width;
  int silu;
} Conv;

INLINE f4 act4(f4 pre, int silu) {
  return silu ? silu4(pre) : pre;
}

// g = dy·act′(pre)
INLINE f4 dact4(f4 pre, f4 dy, int silu) {
  return silu ? mul4(dy, dsilu4(pre)) : dy;
}

// (C, K) → (K, C), so that channels lie side by side.
INLINE void transpose_weights(const float *w, float *to, size_t channels, size_t width) {
  for (size_t c = 0; c < channels; c++)
    for (size_t k = 0; k < width; k++) to[k * channels + c] = w[c * width + k];
}

// The row of x (or of what comes before it) that tap k of token l reads; null where that is zeros.
INLINE const float *tap_row(const Conv *s, size_t l, size_t k) {
  size_t at = l + k;  // column K−1 is token 0
  if (at >= s->width - 1) return s->x + (at - (s->width - 1)) * s->channels;
  return s->initial ? s->initial + at * s->channels : 0;
}

// Token-major: rows of channels and the rows of weights that they are multiplied by.
typedef struct {
  const float *row[MAX_WIDTH], *w[MAX_WIDTH];
  size_t taps;
} Taps;

INLINE void add_tap(Taps *t, const float *row, const float *w) {
  t->row[t->taps] = row;
  t->w[t->taps++] = w;
}

INLINE Taps taps_of(const Conv *s, size_t l) {
  Taps t = {.taps = 0};
  for (size_t k = 0; k < s->width; k++) {
    const float *row = tap_row(s, l, k);
    if (row) add_tap(&t, row, s->w + k * s->channels);
  }
  return t;
}

// bias + Σ w·row, then the activation, or with dy its slope times dy.
INLINE f4 finish4(f4 pre, const float *dy, size_t left, int silu) {
  return dy ? dact4(pre, ld_upto(dy, left), silu) : act4(pre, silu);
}

// One row of channels; the usual four taps have a loop of their own.
INLINE void sum_taps(const Taps *t, const float *bias, const float *dy, int silu, size_t channels, float *to) {
  size_t c = 0;
  if (t->taps == 4) {
    const float *r0 = t->row[0], *r1 = t->row[1], *r2 = t->row[2], *r3 = t->row[3];
    const float *w0 = t->w[0], *w1 = t->w[1], *w2 = t->w[2], *w3 = t->w[3];
    for (; c + 4 <= channels; c += 4) {
      f4 pre = fma4(ld(w0 + c), ld(r0 + c), bias ? ld(bias + c) : zero4());
      pre = fma4(ld(w1 + c), ld(r1 + c), pre);
      f4 rest = fma4(ld(w3 + c), ld(r3 + c), mul4(ld(w2 + c), ld(r2 + c)));
      st(to + c, finish4(add4(pre, rest), dy ? dy + c : 0, 4, silu));
    }
  }
  for (; c < channels; c += 4) {
    size_t left = channels - c;
    f4 pre = bias ? ld_upto(bias + c, left) : zero4();
    for (size_t k = 0; k < t->taps; k++) pre = fma4(ld_upto(t->w[k] + c, left), ld_upto(t->row[k] + c, left), pre);
    st_upto(to + c, left, finish4(pre, dy ? dy + c : 0, left, silu));
  }
}

NOINLINE void tokens_forward(const Conv *s, float *y) {
  for (size_t l = 0; l < s->length; l++, y += s->channels) {
    Taps t = taps_of(s, l);
    sum_taps(&t, s->bias, 0, s->silu, s->channels, y);
  }
}

// Value of column `at` of one channel (column K−1 is token 0).
INLINE float column(const Conv *s, const float *x, const float *initial, size_t at) {
  if (at >= s->width - 1) return x[at - (s->width - 1)];
  return initial ? initial[at] : 0.0f;
}

// Channel-major, one channel: bias + Σ w·x for tokens l…l+3 (or the last `left`).
INLINE f4 channel_pre(const Conv *s, const float *x, const float *initial, const float *w, float bias, size_t l,
                      size_t left) {
  f4 pre = splat(bias);
  if (l + 1 >= s->width) {
    for (size_t k = 0; k < s->width; k++) pre = fma4(splat(w[k]), ld_upto(x + (l + k - (s->width - 1)), left), pre);
    return pre;
  }
  float lanes[4] = {0};
  for (size_t i = 0; i < 4 && i < left; i++) {
    lanes[i] = bias;
    for (size_t k = 0; k < s->width; k++) lanes[i] += w[k] * column(s, x, initial, l + i + k);
  }
  return ld(lanes);
}

NOINLINE void channel_forward(const Conv *s, size_t c, float *y) {
  const float *x = s->x + c * s->length, *initial = s->initial ? s->initial + c * (s->width - 1) : 0;
  float bias = s->bias ? s->bias[c] : 0.0f;
  for (size_t l = 0; l < s->length; l += 4) {
    size_t left = s->length - l;
    f4 pre = channel_pre(s, x, initial, s->w + c * s->width, bias, l, left);
    st_upto(y + c * s->length + l, left, act4(pre, s->silu));
  }
}

// Bytes of scratch for both directions.
size_t EXPORT(causal_conv1d_scratch)(size_t C, size_t L, size_t K, int token_major) {
  return 4 * (token_major ? (3 * K + 2 + L) * C : L + 4);
}

// Depthwise causal convolution y[l] = act(bias + Σ_k w[k]·x[l−K+1+k]), w (C, K), K ≤ 8. x and y (B, C, L) with initial
// (B, C, K−1); tokenMajor: (B, L, C) with initial (B, K−1, C). bias and initial may be 0. silu: act.
void EXPORT(causal_conv1d)(const float *x, const float *w, const float *_Nullable bias,
                           const float *_Nullable initial, float *y, size_t B, size_t C, size_t L, size_t K,
                           int token_major, int silu, float *scratch) {
  Conv s = {x, w, bias, initial, C, L, K, silu};
  if (token_major) {
    transpose_weights(w, scratch, C, K);
    s.w = scratch;
  }
  for (size_t b = 0; b < B; b++, s.x += C * L, y += C * L) {
    if (token_major) tokens_forward(&s, y);
    else
      for (size_t c = 0; c < C; c++) channel_forward(&s, c, y);
    if (initial) s.initial += C * (K - 1);
  }
}

// One token of `causal_conv1d`, token-major: columns (B, K−1, C) take it up where they lie. x: of sequence b behind
// b·x_row floats. y (B, C).
void EXPORT(causal_conv1d_step)(const float *x, const float *w, const float *_Nullable bias, float *columns, float *y,
                                size_t B, size_t C, size_t K, size_t x_row, int silu, float *scratch) {
  transpose_weights(w, scratch, C, K);
  for (size_t b = 0; b < B; b++, columns += (K - 1) * C) {
    Conv s = {x + b * x_row, scratch, bias, columns, C, 1, K, silu};
    tokens_forward(&s, y + b * C);
    if (K == 1) continue;
    for (size_t k = 0; k + 2 < K; k++) row_copy(columns + (k + 1) * C, columns + k * C, C);
    row_copy(s.x, columns + (K - 2) * C, C);
  }
}

// g of every token: [L, C].
NOINLINE void tokens_slopes(const Conv *s, const float *dy, float *g) {
  for (size_t l = 0; l < s->length; l++, dy += s->channels, g += s->channels) {
    Taps t = taps_of(s, l);
    sum_taps(&t, s->bias, dy, s->silu, s->channels, g);
  }
}

// Gradient of column `at`: Σ_k w[k]·g[at − k].
NOINLINE void tokens_column(const Conv *s, const float *g, size_t at, float *to) {
  Taps t = {.taps = 0};
  for (size_t k = 0; k < s->width && k <= at; k++)
    if (at - k < s->length) add_tap(&t, g + (at - k) * s->channels, s->w + k * s->channels);
  sum_taps(&t, 0, 0, 0, s->channels, to);
}

// sums[k] += g·(the row that tap k reads), sums[K] += g: of dw and db, each if wanted. `part` takes the sums of a few
// tokens first, so that a long sequence loses no digits.
NOINLINE void tokens_weights(const Conv *s, const float *g, int dw, int db, float *part, float *sums) {
  size_t size = (s->width + 1) * s->channels;
  row_zero(part, size);
  for (size_t l = 0; l < s->length; l++, g += s->channels) {
    if (db) row_add(g, part + s->width * s->channels, s->channels);
    for (size_t k = 0; dw && k < s->width; k++) {
      const float *row = tap_row(s, l, k);
      if (!row) continue;
      float *to = part + k * s->channels;
      size_t c = 0;
      for (; c + 4 <= s->channels; c += 4) st(to + c, fma4(ld(g + c), ld(row + c), ld(to + c)));
      for (; c < s->channels; c++) to[c] += g[c] * row[c];
    }
    if (l % 256 == 255 || l + 1 == s->length) {
      row_add(part, sums, size);
      row_zero(part, size);
    }
  }
}

typedef struct {
  float *dx, *dw, *db, *dinitial;
} Grads;

INLINE void tokens_backward(Conv s, const float *dy, Grads to, size_t B, float *scratch) {
  size_t C = s.channels, L = s.length, K = s.width;
  float *sums = scratch + K * C, *part = sums + (K + 1) * C, *g = part + (K + 1) * C;
  const float *w = s.w;
  transpose_weights(w, scratch, C, K);
  s.w = scratch;
  row_zero(sums, (K + 1) * C);
  for (size_t b = 0; b < B; b++, s.x += C * L, dy += C * L) {
    tokens_slopes(&s, dy, g);
    for (size_t l = 0; to.dx && l < L; l++) tokens_column(&s, g, l + K - 1, to.dx + (b * L + l) * C);
    for (size_t k = 0; to.dinitial && k < K - 1; k++) tokens_column(&s, g, k, to.dinitial + (b * (K - 1) + k) * C);
    if (to.dw || to.db) tokens_weights(&s, g, to.dw != 0, to.db != 0, part, sums);
    if (s.initial) s.initial += C * (K - 1);
  }
  for (size_t c = 0; to.dw && c < C; c++)
    for (size_t k = 0; k < K; k++) to.dw[c * K + k] = sums[k * C + c];
  if (to.db) row_copy(sums + K * C, to.db, C);
}

// One channel of one batch; g is scratch of L floats.
NOINLINE void channel_backward(const Conv *s, size_t c, const float *dy, Grads to, float *g) {
  size_t L = s->length, K = s->width;
  const float *x = s->x + c * L, *w = s->w + c * K, *initial = s->initial ? s->initial + c * (K - 1) : 0;
  for (size_t l = 0; l < L; l += 4) {
    f4 pre = channel_pre(s, x, initial, w, s->bias ? s->bias[c] : 0.0f, l, L - l);
    st_upto(g + l, L - l, dact4(pre, ld_upto(dy + c * L + l, L - l), s->silu));
  }
  if (to.db) to.db[c] += row_sum(g, L);
  for (size_t k = 0; to.dw && k < K; k++) {
    size_t skip = K - 1 - k < L ? K - 1 - k : L;  // tokens whose tap k lies before the sequence
    double sum = row_dot(g + skip, x, L - skip);
    for (size_t l = 0; initial && l < skip; l++) sum += g[l] * initial[l + k];
    to.dw[c * K + k] += sum;
  }
  for (size_t k = 0; to.dx && k < K; k++) {
    size_t shift = K - 1 - k, n = shift < L ? L - shift : 0;
    if (shift == K - 1) row_zero(to.dx + c * L, L);
    row_axpy(g + shift, to.dx + c * L, n, w[k]);
  }
  for (size_t at = 0; to.dinitial && at < K - 1; at++) {
    float sum = 0;
    for (size_t k = 0; k <= at; k++) sum += at - k < L ? w[k] * g[at - k] : 0.0f;
    to.dinitial[c * (K - 1) + at] = sum;
  }
}

// Gradients of `causal_conv1d`; each of dx, dw, db, dinitial may be 0. All are overwritten.
void EXPORT(causal_conv1d_backward)(const float *x, const float *w, const float *_Nullable bias,
                                    const float *_Nullable initial, const float *dy, float *_Nullable dx,
                                    float *_Nullable dw, float *_Nullable db, float *_Nullable dinitial, size_t B,
                                    size_t C, size_t L, size_t K, int token_major, int silu, float *scratch) {
  Conv s = {x, w, bias, initial, C, L, K, silu};
  Grads to = {dx, dw, db, dinitial};
  if (dw) row_zero(dw, C * K);
  if (db) row_zero(db, C);
  if (token_major) {
    tokens_backward(s, dy, to, B, scratch);
    return;
  }
  for (size_t b = 0; b < B; b++, s.x += C * L, dy += C * L) {
    for (size_t c = 0; c < C; c++) channel_backward(&s, c, dy, to, scratch);
    if (to.dx) to.dx += C * L;
    if (s.initial) s.initial += C * (K - 1);
    if (to.dinitial) to.dinitial += C * (K - 1);
  }
}
