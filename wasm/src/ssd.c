// The state space recurrence of Mamba-2 (Dao & Gu 2024), token by token, for each batch and head:
//   dt = softplus(dt_raw + dt_bias), a = exp(−dt·exp(A_log))
//   S ← a·S + dt·x ⊗ B        (P×N)
//   y = S·C + D·x             (P)
// x, y (B, L, H, P); dt_raw (B, L, H); A_log, D, dt_bias (H); B, C (B, L, G, N), head h reads group h/(H/G);
// states (B, H, P, N). The state of one head stays in cache, so this is as fast as chunks of products at P, N ≤ 128.
#include "rows.h"

#define CHUNK 32  // the backward keeps the state before every so many tokens, and all states of one such chunk

typedef struct {
  size_t P, N;
  size_t x_token, b_token;  // floats from a token to the next
  const float *x, *b, *c;   // of this batch and head
  const float *dt, *a;      // [L], of this head
} Scan;

// Sums of the lanes of four accumulators.
INLINE f4 sums_of(f4 a, f4 b, f4 c, f4 d) {
  f4 ab = add4(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
  f4 cd = add4(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
  return add4(wasm_i64x2_shuffle(ab, cd, 0, 2), wasm_i64x2_shuffle(ab, cd, 1, 3));
}

// Rows of the state that are walked together: 4, or those left. `rows` is a constant after inlining.
#define ROWS(rows) _Pragma("clang loop unroll(full)") for (int i = 0; i < (rows); i++)

// `rows` rows of S: S = a·S + xd ⊗ b; returns S·c.
INLINE f4 step_rows(const int rows, float *S, size_t N, float a, const float *xd, const float *b, const float *c) {
  f4 acc[4] = {zero4(), zero4(), zero4(), zero4()}, weight[4], decay = splat(a);
  ROWS(rows) weight[i] = splat(xd[i]);
  size_t n = 0;
  for (; n + 4 <= N; n += 4) {
    f4 bv = ld(b + n), cv = ld(c + n);
    ROWS(rows) {
      f4 s = fma4(weight[i], bv, mul4(decay, ld(S + i * N + n)));
      st(S + i * N + n, s);
      acc[i] = fma4(s, cv, acc[i]);
    }
  }
  if (n < N) {
    f4 bv = ld_part(b + n, N - n, 0.0f), cv = ld_part(c + n, N - n, 0.0f);
    ROWS(rows) {
      f4 s = fma4(weight[i], bv, mul4(decay, ld_part(S + i * N + n, N - n, 0.0f)));
      st_part(S + i * N + n, N - n, s);
      acc[i] = fma4(s, cv, acc[i]);
    }
  }
  return sums_of(acc[0], acc[1], acc[2], acc[3]);
}

// out[P] = S·c after S = a·S + dt·x ⊗ b.
INLINE void step(const Scan *s, float *S, size_t t, float *out, float d) {
  const float *x = s->x + t * s->x_token, *b = s->b + t * s->b_token, *c = s->c + t * s->b_token;
  for (size_t p = 0; p < s->P; p += 4) {
    size_t left = s->P - p;
    float xd[4];
    f4 xs = ld_upto(x + p, left);
    st(xd, mul4(xs, splat(s->dt[t])));
    f4 y;
    if (left >= 4) {
      y = step_rows(4, S + p * s->N, s->N, s->a[t], xd, b, c);
    } else {
      float lanes[4] = {0};
      for (size_t i = 0; i < left; i++)
        lanes[i] = wasm_f32x4_extract_lane(step_rows(1, S + (p + i) * s->N, s->N, s->a[t], xd + i, b, c), 0);
      y = ld(lanes);
    }
    st_upto(out + p, left, fma4(xs, splat(d), y));
  }
}

// dt and a of one head from dt_raw, which is `stride` apart.
INLINE void discretise(const float *raw, size_t stride, float bias, float A, size_t L, float *dt, float *a) {
  for (size_t t = 0; t < L; t += 4) {
    size_t left = L - t;
    float lanes[4] = {0};
    for (size_t i = 0; i < 4 && i < left; i++) lanes[i] = raw[(t + i) * stride] + bias;
    f4 d = softplus4(ld(lanes));
    st_upto(dt + t, left, d);
    st_upto(a + t, left, exp_neg4(mul4(d, splat(A))));
  }
}

// Bytes of scratch for `ssd_scan`.
size_t EXPORT(ssd_scan_scratch)(size_t L) {
  return 4 * 2 * L;
}

// The state space scan of Mamba-2: dt = softplus(dtRaw + dtBias), S ← exp(−dt·e^ALog)·S + dt·x ⊗ B, y = S·C + D·x. x, y
// (B, L, H, P); dtRaw (B, L, H); ALog, D, dtBias (H); Bs, Cs (B, L, G, N); initial, state (B, H, P, N). D, dtBias and
// initial may be 0.
void EXPORT(ssd_scan)(const float *x, const float *dt_raw, const float *A_log, const float *B, const float *C,
                      const float *_Nullable D, const float *_Nullable dt_bias, const float *_Nullable initial,
                      float *y, float *state, size_t batches, size_t L, size_t H, size_t P, size_t G, size_t N,
                      float *scratch) {
  float *dt = scratch, *a = scratch + L;
  for (size_t i = 0; i < batches * H; i++) {
    size_t b = i / H, h = i % H, at = (b * L * H + h) * P, group = (b * L * G + h / (H / G)) * N;
    float *S = state + i * P * N;
    if (initial) row_copy(initial + i * P * N, S, P * N);
    else row_zero(S, P * N);
    discretise(dt_raw + b * L * H + h, H, dt_bias ? dt_bias[h] : 0.0f, -exp1(A_log[h]), L, dt, a);
    Scan s = {P, N, H * P, G * N, x + at, B + group, C + group, dt, a};
    for (size_t t = 0; t < L; t++) step(&s, S, t, y + at + t * H * P, D ? D[h] : 0.0f);
  }
}

// One token of `ssd_scan`: the states (B, H, P, N) are updated where they lie. Sequence b reads its values behind
// b·x_row, b·dt_row, … floats; head h reads x, B and C of head h/x_share, h/B_share, h/C_share. y (B, H, P).
void EXPORT(ssd_step)(const float *x, const float *dt_raw, const float *B, const float *C, const float *A_log,
                      const float *D, const float *dt_bias, float *state, float *y, size_t batches, size_t H, size_t P,
                      size_t N, size_t x_row, size_t dt_row, size_t B_row, size_t C_row, size_t x_share,
                      size_t B_share, size_t C_share) {
  for (size_t i = 0; i < batches * H; i++) {
    size_t b = i / H, h = i % H;
    float dt, a;
    discretise(dt_raw + b * dt_row + h, 1, dt_bias[h], -exp1(A_log[h]), 1, &dt, &a);
    Scan s = {P, N, 0, 0, x + b * x_row + h / x_share * P, B + b * B_row + h / B_share * N,
              C + b * C_row + h / C_share * N, &dt, &a};
    step(&s, state + i * P * N, 0, y + i * P, D[h]);
  }
}

// Rows of the next state: to = a·from + xd ⊗ b; part[N] += Σ_p dy[p]·to[p] where `read` asks for it.
INLINE void next_rows(const int rows, const int read, const float *from, float *to, size_t N, float a, const float *xd,
                      const float *dy, const float *b, float *part) {
  f4 weight[4], slope[4], decay = splat(a);
  ROWS(rows) weight[i] = splat(xd[i]), slope[i] = splat(dy[i]);
  for (size_t n = 0; n < N; n += 4) {
    size_t left = N - n;
    f4 bv = ld_upto(b + n, left), sum = read ? ld(part + n) : zero4();
    ROWS(rows) {
      f4 s = fma4(weight[i], bv, mul4(decay, ld_upto(from + i * N + n, left)));
      st_upto(to + i * N + n, left, s);
      if (read) sum = fma4(slope[i], s, sum);
    }
    if (read) st(part + n, sum);
  }
}

// Backward, reverse sweep: G = a·G + dy ⊗ c; part[N] += Σ_p x[p]·G[p]; *meet += Σ G·before; returns G·b of the rows.
INLINE f4 reverse_rows(const int rows, float *G, size_t N, float a, const float *x, const float *dy, const float *b,
                       const float *c, const float *before, float *part, f4 *meet) {
  f4 acc[4] = {zero4(), zero4(), zero4(), zero4()}, weight[4], slope[4], decay = splat(a), met = *meet;
  ROWS(rows) weight[i] = splat(x[i]), slope[i] = splat(dy[i]);
  for (size_t n = 0; n < N; n += 4) {
    size_t left = N - n;
    f4 bv = ld_upto(b + n, left), cv = ld_upto(c + n, left), sum = ld(part + n);
    ROWS(rows) {
      f4 g = fma4(slope[i], cv, mul4(decay, ld_upto(G + i * N + n, left)));
      st_upto(G + i * N + n, left, g);
      sum = fma4(weight[i], g, sum);
      acc[i] = fma4(g, bv, acc[i]);
      met = fma4(g, ld_upto(before + i * N + n, left), met);
    }
    st(part + n, sum);
  }
  *meet = met;
  return sums_of(acc[0], acc[1], acc[2], acc[3]);
}

typedef struct {
  Scan s;
  const float *dy, *raw;
  float *dx, *ddt, *db, *dc;
  size_t L, H;
  float A, D, bias;
  // scratch; `starts` has the state before every chunk, `states` those before and after each token of one chunk
  float *starts, *states, *G, *part, *dxd;
  // sums
  double dA, dD, dbias;
} Head;

// The state after token t from the one before; with `read` also part[N] = Σ_p dy[p]·to[p].
INLINE void next_state(const Head *k, size_t t, const int read, const float *from, float *to) {
  const Scan *s = &k->s;
  size_t P = s->P, N = s->N, p = 0;
  const float *dy = k->dy + t * s->x_token, *b = s->b + t * s->b_token;
  row_scale(s->x + t * s->x_token, k->dxd, P, s->dt[t]);
  if (read) row_zero(k->part, (N + 3) / 4 * 4);
  for (; p + 4 <= P; p += 4) next_rows(4, read, from + p * N, to + p * N, N, s->a[t], k->dxd + p, dy + p, b, k->part);
  for (; p < P; p++) next_rows(1, read, from + p * N, to + p * N, N, s->a[t], k->dxd + p, dy + p, b, k->part);
}

// Keeps the state before every chunk, from S, the state before the first.
NOINLINE void store_starts(const Head *k, float *S) {
  size_t PN = k->s.P * k->s.N;
  for (size_t t = 0;; t++) {
    if (t % CHUNK == 0) row_copy(S, k->starts + t / CHUNK * PN, PN);
    if (t + CHUNK >= k->L && t % CHUNK == 0) return;
    next_state(k, t, 0, S, S);
  }
}

// The states of the chunk from token `first` on, and its dC.
NOINLINE void walk_chunk(const Head *k, size_t first, size_t end) {
  const Scan *s = &k->s;
  size_t PN = s->P * s->N;
  row_copy(k->starts + first / CHUNK * PN, k->states, PN);
  for (size_t t = first; t < end; t++) {
    float *before = k->states + (t - first) * PN;
    next_state(k, t, 1, before, before + PN);
    row_axpy(k->part, k->dc + t * s->b_token, s->N, 1.0f);
  }
}

// Gradients of token t. G comes in as that of the state after t + 1, `decay` is a of t + 1, `before` the state before t.
INLINE void reverse_token(Head *k, size_t t, float decay, const float *before) {
  const Scan *s = &k->s;
  size_t P = s->P, N = s->N, p = 0;
  const float *x = s->x + t * s->x_token, *dy = k->dy + t * s->x_token;
  const float *b = s->b + t * s->b_token, *c = s->c + t * s->b_token;
  f4 meet = zero4();
  row_zero(k->part, (N + 3) / 4 * 4);
  for (; p + 4 <= P; p += 4)
    st(k->dxd + p,
       reverse_rows(4, k->G + p * N, N, decay, x + p, dy + p, b, c, before + p * N, k->part, &meet));
  for (; p < P; p++)
    k->dxd[p] = wasm_f32x4_extract_lane(
        reverse_rows(1, k->G + p * N, N, decay, x + p, dy + p, b, c, before + p * N, k->part, &meet), 0);
  float dt = s->dt[t], ux = row_dot(x, k->dxd, P);
  float q = s->a[t] * sum4(meet);  // a·dL/da
  row_axpy(k->part, k->db + t * s->b_token, N, dt);
  float *dx = k->dx + t * s->x_token;
  row_scale(k->dxd, dx, P, dt);
  row_axpy(dy, dx, P, k->D);
  float gate = wasm_f32x4_extract_lane(sigmoid4(splat(k->raw[t * k->H] + k->bias)), 0);
  float ddt = (ux + k->A * q) * gate;
  k->ddt[t * k->H] = ddt;
  k->dA += (double)dt * q;
  k->dD += row_dot(dy, x, P);
  k->dbias += ddt;
}

// All gradients of a head, chunk by chunk from the last.
NOINLINE void reverse(Head *k) {
  size_t PN = k->s.P * k->s.N;
  float decay = 1.0f;
  for (size_t end = k->L; end > 0;) {
    size_t first = (end - 1) / CHUNK * CHUNK;
    walk_chunk(k, first, end);
    for (size_t t = end; t-- > first;) {
      reverse_token(k, t, decay, k->states + (t - first) * PN);
      decay = k->s.a[t];
    }
    end = first;
  }
  row_scale(k->G, k->G, PN, decay);
}

INLINE size_t padded(size_t n) {
  return (n + 3) / 4 * 4;
}

// Bytes of scratch for `ssd_scan_backward`.
size_t EXPORT(ssd_scan_backward_scratch)(size_t L, size_t P, size_t N) {
  return 4 * (2 * L + ((L + CHUNK - 1) / CHUNK + CHUNK + 2) * P * N + padded(N) + padded(P));
}

typedef struct {
  float *dx, *ddt, *dA_log, *dB, *dC, *dD, *ddt_bias, *dinitial;
} Grads;

// Sums over the batch go to dA_log, dD and ddt_bias.
INLINE void add_sums(const Grads *to, const Head *k, size_t h) {
  if (to->dA_log) to->dA_log[h] += (float)(k->dA * k->A);
  if (to->dD) to->dD[h] += (float)k->dD;
  if (to->ddt_bias) to->ddt_bias[h] += (float)k->dbias;
}

// Gradients of `ssd_scan`; all are overwritten. D, dtBias, initial, dstate and dALog, dD, ddtBias, dinitial may be 0.
void EXPORT(ssd_scan_backward)(const float *x, const float *dt_raw, const float *A_log, const float *B,
                               const float *C, const float *_Nullable D, const float *_Nullable dt_bias,
                               const float *_Nullable initial, const float *dy, const float *_Nullable dstate,
                               float *dx, float *ddt, float *_Nullable dA_log, float *dB, float *dC,
                               float *_Nullable dD, float *_Nullable ddt_bias, float *_Nullable dinitial,
                               size_t batches, size_t L, size_t H, size_t P, size_t G, size_t N, float *scratch) {
  Grads to = {dx, ddt, dA_log, dB, dC, dD, ddt_bias, dinitial};
  size_t PN = P * N;
  float *dt = scratch, *a = dt + L, *states = a + L, *Gs = states + (CHUNK + 1) * PN, *starts = Gs + PN;
  float *part = starts + (L + CHUNK - 1) / CHUNK * PN, *dxd = part + padded(N);
  row_zero(dB, batches * L * G * N);
  row_zero(dC, batches * L * G * N);
  if (dA_log) row_zero(dA_log, H);
  if (dD) row_zero(dD, H);
  if (ddt_bias) row_zero(ddt_bias, H);
  for (size_t i = 0; i < batches * H; i++) {
    size_t b = i / H, h = i % H, at = (b * L * H + h) * P, group = (b * L * G + h / (H / G)) * N;
    size_t raw = b * L * H + h;
    Head k = {{P, N, H * P, G * N, x + at, B + group, C + group, dt, a}, dy + at, dt_raw + raw, dx + at, ddt + raw,
              dB + group, dC + group, L, H, -exp1(A_log[h]), D ? D[h] : 0.0f, dt_bias ? dt_bias[h] : 0.0f, starts,
              states, Gs, part, dxd, 0, 0, 0};
    discretise(k.raw, H, k.bias, k.A, L, dt, a);
    if (initial) row_copy(initial + i * PN, states, PN);
    else row_zero(states, PN);
    store_starts(&k, states);
    if (dstate) row_copy(dstate + i * PN, Gs, PN);
    else row_zero(Gs, PN);
    reverse(&k);
    if (dinitial) row_copy(Gs, dinitial + i * PN, PN);
    add_sums(&to, &k, h);
  }
}
