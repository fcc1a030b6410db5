// Scaled dot-product attention with grouped key heads: o = softmax(scale·q·kᵀ + masks)·v, in blocks of queries and keys
// so that the scores never leave the cache (the online softmax of Milakov & Gimelshein 2018, the backward of
// FlashAttention, Dao et al. 2022).
#include "gemm.h"
#include "rows.h"

#define QUERIES 192
#define KEYS 192  // a row's are one BLOCK at most
#define NONE (-__builtin_inff())

// Strides in floats. q, o and their gradients share one set, k and v the other.
typedef struct {
  size_t length, keys, dim;
  size_t q_token, k_token;
  size_t mask_token;
  int additive;  // the mask is added to the scaled scores
  float scale, steepness;  // what is left to multiply scores with before exp
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

// How many of the `n` keys from `first` on a query sees.
INLINE size_t seen_in(const Shape *s, size_t query, size_t first, size_t n) {
  size_t seen = seen_by(s, query);
  return seen <= first ? 0 : least(seen - first, n);
}

INLINE void hide(float *row, const int32_t *mask, size_t n, float hidden) {
  for (size_t j = 0; j < n; j++)
    if (!mask[j]) row[j] = hidden;
}

// Masks a query's scores of n keys. `mask` is that of query 0, from the first of the keys on, or null.
INLINE void mask_row(const Shape *s, float *row, const float *mask, size_t query, size_t n) {
  if (!mask) return;
  mask += query * s->mask_token;
  if (!s->additive) return hide(row, (const int32_t *)mask, n, NONE);
  for (size_t j = 0; j < n; j++) row[j] = row[j] * s->scale + mask[j];
}

typedef struct {
  float max[QUERIES], sum[QUERIES];
  float scores[QUERIES * KEYS];
  float products[];
} Forward;

// Whether all tokens of a head are finite. A weight of 0 hides what is, but times ∞ or NaN it is NaN; so where some
// token is not, each query of causal attention gets a block of its own, which ends with the last key that it sees.
INLINE int finite_head(const float *x, size_t tokens, size_t token, size_t dim) {
  f4 a = zero4(), b = a;
  for (size_t i = 0; i < tokens; i++, x += token) {
    size_t d = 0;
    for (; d + 8 <= dim; d += 8) {
      a = fma4(ld(x + d), zero4(), a);
      b = fma4(ld(x + d + 4), zero4(), b);
    }
    for (; d < dim; d += 4) a = fma4(ld_upto(x + d, dim - d), zero4(), a);
  }
  return wasm_i32x4_all_true(wasm_f32x4_eq(add4(a, b), zero4()));
}

// Turns one row of raw scores into weights relative to the new maximum; scales what the row of o holds so far.
INLINE void online_row(const Shape *s, Forward *f, size_t r, size_t seen, size_t n, float *o) {
  float *row = f->scores + r * KEYS;
  float max = row_max(row, seen), before = f->max[r];
  if (max < before) max = before;
  float shift = max == NONE ? 0.0f : max, keep = exp1((before - shift) * s->steepness);
  f->sum[r] = f->sum[r] * keep + block_exp_sum(row, row, seen, shift, s->steepness, 0.0f);
  f->max[r] = max;
  row_zero(row + seen, n - seen);
  if (before != NONE && keep != 1.0f) row_scale(o, o, s->dim, keep);
}

NOINLINE void forward_rows(const Shape *s, Forward *f, const float *q, const float *k, const float *v,
                           const float *mask, float *o, float *stats, size_t first, size_t rows) {
  size_t end = seen_by(s, first + rows - 1);
  for (size_t r = 0; r < rows; r++) f->max[r] = NONE, f->sum[r] = 0;
  for (size_t j = 0; j < end; j += KEYS) {
    size_t n = least(KEYS, end - j);
    matmul(q, s->q_token, 0, k + j * s->k_token, s->k_token, 1, f->scores, KEYS, 0, rows, n, s->dim, 0, f->products);
    for (size_t r = 0; r < rows; r++) {
      size_t seen = seen_in(s, first + r, j, n);
      mask_row(s, f->scores + r * KEYS, mask ? mask + j : 0, first + r, seen);
      online_row(s, f, r, seen, n, o + r * s->q_token);
    }
    matmul(f->scores, KEYS, 0, v + j * s->k_token, s->k_token, 0, o, s->q_token, 0, rows, s->dim, n, j > 0,
           f->products);
  }
  for (size_t r = 0; r < rows; r++) {
    float *row = o + r * s->q_token, sum = f->sum[r];
    int none = sum == 0;
    if (end == 0) row_zero(row, s->dim);
    else row_scale(row, row, s->dim, none ? 0.0f : 1.0f / sum);
    stats[2 * r] = none ? 0.0f : f->max[r];
    stats[2 * r + 1] = none ? 0.0f : log1(sum);
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

// o = softmax(scale·q·kᵀ)·v. q, o (B, H, L, D), k, v (B, KV, S, D), heads and tokens laid out as the strides (in
// floats) say; query head h reads key head h/(H/KV). mask, or null, lies at b·mask_batch + h·mask_head +
// query·mask_token + key: i32, where 0 hides a key, or with `additive` f32, added to scaled scores. counts, or null:
// how many of the first keys exist, for each b an i32 at b·count_step. causal is aligned to the end of those. scale > 0.
// stats (B, H, L, 2) is for the backward; a query that sees no key gets o = 0.
void EXPORT(attention)(const float *q, const float *k, const float *v, const float *_Nullable mask,
                       const int32_t *_Nullable counts, size_t count_step, float *o, float *stats, size_t B, size_t H,
                       size_t KV, size_t L, size_t S, size_t D, size_t q_head, size_t q_token, size_t k_head,
                       size_t k_token, size_t mask_batch, size_t mask_head, size_t mask_token, int additive,
                       float scale, int causal, Forward *scratch) {
  for (size_t b = 0; b < B; b++) {
    int32_t count = counts ? counts[b * count_step] : 0;
    size_t keys = !counts ? S : count < 0 ? 0 : least((size_t)count, S);
    Shape s = {L, keys, D, q_token, k_token, mask_token, additive, scale, additive ? 1.0f : scale, causal};
    for (size_t h = 0; h < H; h++) {
      size_t kv = b * KV * S * D + h / (H / KV) * k_head;
      size_t at = b * H * L * D + h * q_head, row = (b * H + h) * L;
      for (size_t most = queries_of(causal);; most = 1) {
        for (size_t i = 0; i < L; i += most)
          forward_rows(&s, scratch, q + at + i * q_token, k + kv, v + kv,
                       mask ? mask + b * mask_batch + h * mask_head : 0, o + at + i * q_token, stats + 2 * (row + i), i,
                       least(most, L - i));
        if (!causal || most == 1 || finite_head(o + at, L, q_token, D)) break;
      }
    }
  }
}

typedef struct {
  const float *q, *k, *v, *dout, *stats, *delta;
  const float *mask;
  float *dq, *dk, *dv;  // of this head; each may be null
  float *p, *ds, *products;
} Backward;

// Weights of one row from its raw scores.
INLINE void weights_row(const Shape *s, const Backward *t, float *row, size_t query, size_t j, size_t n) {
  size_t seen = seen_in(s, query, j, n);
  mask_row(s, row, t->mask ? t->mask + j : 0, query, seen);
  block_exp_sum(row, row, seen, t->stats[2 * query], s->steepness, t->stats[2 * query + 1]);
  row_zero(row + seen, n - seen);
}

// dS = p·(dp − delta)·scale over dp, 0 for hidden keys whatever dp is.
INLINE void slope_row(const Shape *s, const Backward *t, const float *p, float *dp, size_t query, size_t j, size_t n) {
  size_t seen = seen_in(s, query, j, n);
  f4 delta = splat(t->delta[query]), scale = splat(s->scale);
  for (size_t i = 0; i < seen; i += 4) {
    f4 d = mul4(sub4(ld_upto(dp + i, seen - i), delta), scale);
    st_upto(dp + i, seen - i, mul4(ld_upto(p + i, seen - i), d));
  }
  row_zero(dp + seen, n - seen);
  if (t->mask && !s->additive) hide(dp, (const int32_t *)t->mask + query * s->mask_token + j, seen, 0.0f);
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
  for (size_t r = 0; r < rows; r++) slope_row(s, t, t->p + r * KEYS, t->ds + r * KEYS, i + r, j, n);
  if (t->dq) matmul(t->ds, KEYS, 0, k, kt, 0, t->dq + i * qt, qt, 0, rows, D, n, 1, t->products);
  if (t->dk) matmul(t->ds, KEYS, 1, q, qt, 0, t->dk + j * kt, kt, 0, n, D, rows, 1, t->products);
}

NOINLINE void backward_head(const Shape *s, const Backward *t) {
  int finite = !s->causal || (finite_head(t->q, s->length, s->q_token, s->dim) &&
                              finite_head(t->k, s->keys, s->k_token, s->dim) &&
                              finite_head(t->dout, s->length, s->q_token, s->dim));
  size_t most = finite ? queries_of(s->causal) : 1;
  for (size_t i = 0; i < s->length; i += most) {
    size_t rows = least(most, s->length - i), end = seen_by(s, i + rows - 1);
    for (size_t j = 0; j < end; j += KEYS) backward_block(s, t, i, rows, j, least(KEYS, end - j));
  }
}

INLINE void zero_head(float *to, size_t tokens, size_t token, size_t dim) {
  for (size_t i = 0; to && i < tokens; i++) row_zero(to + i * token, dim);
}

// Gradients of `attention`; dout has the layout of o. Each of dq, dk, dv may be 0. All are overwritten.
void EXPORT(attention_backward)(const float *q, const float *k, const float *v, const float *_Nullable mask,
                                const float *o, const float *stats, const float *dout, float *_Nullable dq,
                                float *_Nullable dk, float *_Nullable dv, size_t B, size_t H, size_t KV, size_t L,
                                size_t S, size_t D, size_t q_head, size_t q_token, size_t k_head, size_t k_token,
                                size_t mask_batch, size_t mask_head, size_t mask_token, int additive, float scale,
                                int causal, float *scratch) {
  Shape s = {L, S, D, q_token, k_token, mask_token, additive, scale, additive ? 1.0f : scale, causal};
  float *p = scratch, *ds = p + QUERIES * KEYS, *delta = ds + QUERIES * KEYS, *products = delta + L;
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < H; h++) {
      size_t at = b * H * L * D + h * q_head, kv = b * KV * S * D + h / (H / KV) * k_head;
      for (size_t i = 0; i < L; i++) delta[i] = row_dot(o + at + i * q_token, dout + at + i * q_token, D);
      Backward t = {q + at, k + kv, v + kv, dout + at, stats + 2 * (b * H + h) * L, delta,
                    mask ? mask + b * mask_batch + h * mask_head : 0,
                    dq ? dq + at : 0, dk ? dk + kv : 0, dv ? dv + kv : 0, p, ds, products};
      zero_head(t.dq, L, q_token, D);
      if (h % (H / KV) == 0) zero_head(t.dk, S, k_token, D), zero_head(t.dv, S, k_token, D);
      backward_head(&s, &t);
    }
  }
}
