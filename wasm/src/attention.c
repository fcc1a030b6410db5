// Scaled dot-product attention with grouped key heads: o = softmax(scale·q·kᵀ + masks)·v, in blocks of queries and keys
// so that the scores never leave the cache (the online softmax of Milakov & Gimelshein 2018, the backward of
// FlashAttention, Dao et al. 2022).
#include "gemm.h"
#include "rows.h"

#define QUERIES 192
#define KEYS 192
#define NONE (-__builtin_inff())

// Strides in floats. q, o and their gradients share one set, k and v the other.
typedef struct {
  size_t length, keys, dim;
  size_t q_token, k_token;
  float scale;
  int causal;
} Shape;

// Causal attention is aligned to the end: the last query sees all keys.
INLINE size_t seen_by(const Shape *s, size_t query) {
  if (!s->causal) return s->keys;
  size_t past = query + 1 + s->keys;
  return past < s->length ? 0 : past - s->length > s->keys ? s->keys : past - s->length;
}

// Fewer queries a block leave out more of what causal attention hides.
INLINE size_t queries_of(int causal) {
  return causal ? QUERIES / 2 : QUERIES;
}

INLINE size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

// How many of the `n` keys from `first` on a query sees.
INLINE size_t seen_in(const Shape *s, size_t query, size_t first, size_t n) {
  size_t seen = seen_by(s, query);
  return seen <= first ? 0 : least(seen - first, n);
}

// Scores of hidden keys become −∞.
INLINE void hide(float *scores, const int32_t *mask, size_t n) {
  for (size_t j = 0; j < n; j++)
    if (!mask[j]) scores[j] = NONE;
}

typedef struct {
  float max[QUERIES], sum[QUERIES];
  float scores[QUERIES * KEYS];
  float products[];
} Forward;

// Turns one row of raw scores into weights relative to the new maximum; scales what the row of o holds so far.
INLINE void online_row(const Shape *s, Forward *f, size_t r, size_t seen, size_t n, const int32_t *mask, float *o) {
  float *row = f->scores + r * KEYS;
  if (mask) hide(row, mask, seen);
  float max = row_max(row, seen) * s->scale, before = f->max[r];
  if (!(max > before)) max = before == before && max == max ? before : max;  // a NaN stays one
  if (max == NONE) {
    max = row_sum(row, seen);  // −∞ or, because a maximum passes NaN over, NaN
    if (max == max) {
      row_zero(row, n);
      return;
    }
  }
  float keep = exp1(before - max);
  f->sum[r] = f->sum[r] * keep + row_exp_sum(row, row, seen, s->scale, max);
  f->max[r] = max;
  row_zero(row + seen, n - seen);
  if (before != NONE && keep != 1.0f) row_scale(o, o, s->dim, keep);
}

NOINLINE void forward_rows(const Shape *s, Forward *f, const float *q, const float *k, const float *v,
                           const int32_t *mask, float *o, float *lse, size_t first, size_t rows) {
  size_t end = seen_by(s, first + rows - 1);
  for (size_t r = 0; r < rows; r++) f->max[r] = NONE, f->sum[r] = 0;
  for (size_t j = 0; j < end; j += KEYS) {
    size_t n = least(KEYS, end - j);
    matmul(q, s->q_token, 0, k + j * s->k_token, s->k_token, 1, f->scores, KEYS, 0, rows, n, s->dim, 0, f->products);
    for (size_t r = 0; r < rows; r++)
      online_row(s, f, r, seen_in(s, first + r, j, n), n, mask ? mask + j : 0, o + r * s->q_token);
    matmul(f->scores, KEYS, 0, v + j * s->k_token, s->k_token, 0, o, s->q_token, 0, rows, s->dim, n, j > 0,
           f->products);
  }
  for (size_t r = 0; r < rows; r++) {
    float *row = o + r * s->q_token;
    int some = f->max[r] != NONE;
    if (some) row_scale(row, row, s->dim, 1.0f / f->sum[r]);
    else row_zero(row, s->dim);
    lse[r] = some ? f->max[r] + log1(f->sum[r]) : 0.0f;
  }
}

// Floats that products inside one block need at most.
INLINE size_t product_floats(size_t dim) {
  size_t a = matmul_scratch_floats(QUERIES, KEYS, dim, 0), b = matmul_scratch_floats(KEYS, dim, QUERIES, 1);
  return (a > b ? a : b) + KEYS * 8;
}

// Bytes of scratch for both directions.
size_t EXPORT(attention_scratch)(size_t length, size_t dim) {
  return sizeof(Forward) + 4 * (QUERIES * KEYS + product_floats(dim) + length);
}

// q (B, H, L, D) and k, v (B, KV, S, D), heads and tokens in memory as the strides say; query head h reads key head
// h/(H/KV). mask (B, S), or null: 0 hides a key. count, or null: only that many of the first keys exist. lse (B, H, L)
// is ln Σ e^score. A query that sees no key gets o = 0 and lse = 0.
void EXPORT(attention)(const float *q, const float *k, const float *v, const int32_t *mask, const int32_t *count,
                       float *o, float *lse, size_t B, size_t H, size_t KV, size_t L, size_t S, size_t D,
                       size_t q_head, size_t q_token, size_t k_head, size_t k_token, float scale, int causal,
                       Forward *scratch) {
  size_t keys = !count ? S : *count < 0 ? 0 : least((size_t)*count, S);
  Shape s = {L, keys, D, q_token, k_token, scale, causal};
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < H; h++) {
      size_t kv = b * KV * S * D + h / (H / KV) * k_head;
      for (size_t i = 0; i < L; i += queries_of(causal)) {
        size_t at = b * H * L * D + h * q_head + i * q_token;
        forward_rows(&s, scratch, q + at, k + kv, v + kv, mask ? mask + b * S : 0, o + at, lse + (b * H + h) * L + i,
                     i, least(queries_of(causal), L - i));
      }
    }
  }
}

typedef struct {
  const float *q, *k, *v, *dout, *lse, *delta;
  const int32_t *mask;
  float *dq, *dk, *dv;  // of this head; each may be null
  float *p, *ds, *products;
} Backward;

// Weights of one row from its raw scores, then dS = p·(dp − delta)·scale over dp.
INLINE void weights_row(const Shape *s, const Backward *t, float *row, size_t query, size_t j, size_t n) {
  size_t seen = seen_in(s, query, j, n);
  if (t->mask) hide(row, t->mask + j, seen);
  row_exp_sum(row, row, seen, s->scale, t->lse[query]);
  row_zero(row + seen, n - seen);
}

INLINE void slope_row(const float *p, float *dp, size_t n, float delta, float scale) {
  for (size_t j = 0; j < n; j += 4) {
    f4 d = mul4(sub4(ld_upto(dp + j, n - j), splat(delta)), splat(scale));
    st_upto(dp + j, n - j, mul4(ld_upto(p + j, n - j), d));
  }
}

// One block: queries i…i+rows, keys j…j+n.
NOINLINE void backward_block(const Shape *s, const Backward *t, size_t i, size_t rows, size_t j, size_t n) {
  size_t qt = s->q_token, kt = s->k_token, D = s->dim;
  const float *q = t->q + i * qt, *k = t->k + j * kt, *v = t->v + j * kt, *dout = t->dout + i * qt;
  matmul(q, qt, 0, k, kt, 1, t->p, KEYS, 0, rows, n, D, 0, t->products);
  for (size_t r = 0; r < rows; r++) weights_row(s, t, t->p + r * KEYS, i + r, j, n);
  if (t->dv) matmul(t->p, KEYS, 1, dout, qt, 0, t->dv + j * kt, kt, 0, n, D, rows, 1, t->products);
  if (!t->dq && !t->dk) return;
  matmul(dout, qt, 0, v, kt, 1, t->ds, KEYS, 0, rows, n, D, 0, t->products);
  for (size_t r = 0; r < rows; r++)
    slope_row(t->p + r * KEYS, t->ds + r * KEYS, n, t->delta[i + r], s->scale);
  if (t->dq) matmul(t->ds, KEYS, 0, k, kt, 0, t->dq + i * qt, qt, 0, rows, D, n, 1, t->products);
  if (t->dk) matmul(t->ds, KEYS, 1, q, qt, 0, t->dk + j * kt, kt, 0, n, D, rows, 1, t->products);
}

NOINLINE void backward_head(const Shape *s, const Backward *t) {
  for (size_t i = 0; i < s->length; i += queries_of(s->causal)) {
    size_t rows = least(queries_of(s->causal), s->length - i), end = seen_by(s, i + rows - 1);
    for (size_t j = 0; j < end; j += KEYS) backward_block(s, t, i, rows, j, least(KEYS, end - j));
  }
}

INLINE void zero_head(float *to, size_t tokens, size_t token, size_t dim) {
  for (size_t i = 0; to && i < tokens; i++) row_zero(to + i * token, dim);
}

// dout has the layout of o. Each of dq, dk and dv may be null; they are overwritten.
void EXPORT(attention_backward)(const float *q, const float *k, const float *v, const int32_t *mask, const float *o,
                                const float *lse, const float *dout, float *dq, float *dk, float *dv, size_t B,
                                size_t H, size_t KV, size_t L, size_t S, size_t D, size_t q_head, size_t q_token,
                                size_t k_head, size_t k_token, float scale, int causal, float *scratch) {
  Shape s = {L, S, D, q_token, k_token, scale, causal};
  float *p = scratch, *ds = p + QUERIES * KEYS, *delta = ds + QUERIES * KEYS, *products = delta + L;
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < H; h++) {
      size_t at = b * H * L * D + h * q_head, kv = b * KV * S * D + h / (H / KV) * k_head;
      for (size_t i = 0; i < L; i++) delta[i] = row_dot(o + at + i * q_token, dout + at + i * q_token, D);
      Backward t = {q + at, k + kv, v + kv, dout + at, lse + (b * H + h) * L, delta, mask ? mask + b * S : 0,
                    dq ? dq + at : 0, dk ? dk + kv : 0, dv ? dv + kv : 0, p, ds, products};
      zero_head(t.dq, L, q_token, D);
      if (h % (H / KV) == 0) zero_head(t.dk, S, k_token, D), zero_head(t.dv, S, k_token, D);
      backward_head(&s, &t);
    }
  }
}
