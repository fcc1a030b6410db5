// The state space recurrence of Mamba-2 (Dao & Gu 2024), token by token, for each batch and head:
//   dt = softplus(dt_raw + dt_bias), a = exp(−dt·exp(A_log))
//   S ← a·S + dt·x ⊗ B        (P×N)
//   y = S·C + D·x             (P)
// x, y (B, L, H, P); dt_raw (B, L, H); A_log, D, dt_bias (H); B, C (B, L, G, N), head h reads group h/(H/G);
// states (B, H, P, N). The state of one head stays in cache, so this is as fast as chunks of products at P, N ≤ 128.
#include "rows.h"

#define CHUNK 64  // the backward meets stored states this many tokens apart

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

// initial may be null (zeros), as may D (0) and dt_bias (0). state gets the final one.
void EXPORT(ssd_scan)(const float *x, const float *dt_raw, const float *A_log, const float *B, const float *C,
                      const float *D, const float *dt_bias, const float *initial, float *y, float *state,
                      size_t batches, size_t L, size_t H, size_t P, size_t G, size_t N, float *scratch) {
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

// Backward, forward sweep: S advances; part[N] = Σ_p dy[p]·S[p].
INLINE void sweep_rows(const int rows, float *S, size_t N, float a, const float *xd, const float *dy, const float *b,
                       float *part) {
  f4 weight[4], slope[4], decay = splat(a);
  ROWS(rows) weight[i] = splat(xd[i]), slope[i] = splat(dy[i]);
  for (size_t n = 0; n < N; n += 4) {
    size_t left = N - n;
    f4 bv = ld_upto(b + n, left), sum = ld(part + n);
    ROWS(rows) {
      f4 s = fma4(weight[i], bv, mul4(decay, ld_upto(S + i * N + n, left)));
      st_upto(S + i * N + n, left, s);
      sum = fma4(slope[i], s, sum);
    }
    st(part + n, sum);
  }
}

// Backward, reverse sweep: G = a·G + dy ⊗ c; part[N] += Σ_p x[p]·G[p]; returns G·b of the rows.
INLINE f4 reverse_rows(const int rows, float *G, size_t N, float a, const float *x, const float *dy, const float *b,
                       const float *c, float *part) {
  f4 acc[4] = {zero4(), zero4(), zero4(), zero4()}, weight[4], slope[4], decay = splat(a);
  ROWS(rows) weight[i] = splat(x[i]), slope[i] = splat(dy[i]);
  for (size_t n = 0; n < N; n += 4) {
    size_t left = N - n;
    f4 bv = ld_upto(b + n, left), cv = ld_upto(c + n, left), sum = ld(part + n);
    ROWS(rows) {
      f4 g = fma4(slope[i], cv, mul4(decay, ld_upto(G + i * N + n, left)));
      st_upto(G + i * N + n, left, g);
      sum = fma4(weight[i], g, sum);
      acc[i] = fma4(g, bv, acc[i]);
    }
    st(part + n, sum);
  }
  return sums_of(acc[0], acc[1], acc[2], acc[3]);
}

typedef struct {
  Scan s;
  const float *dy, *raw;
  float *dx, *ddt, *db, *dc;
  size_t L, H;
  float A, D, bias;
  // scratch
  float *S, *G, *starts, *agree, *part, *dxd;
  // sums
  double dA, dD, dbias;
} Head;

NOINLINE void sweep(Head *k) {
  const Scan *s = &k->s;
  size_t P = s->P, N = s->N;
  for (size_t t = 0; t < k->L; t++) {
    if (t % CHUNK == 0) row_copy(k->S, k->starts + t / CHUNK * P * N, P * N);
    const float *x = s->x + t * s->x_token, *dy = k->dy + t * s->x_token, *b = s->b + t * s->b_token;
    row_zero(k->part, (N + 3) / 4 * 4);
    row_scale(x, k->dxd, P, s->dt[t]);
    size_t p = 0;
    for (; p + 4 <= P; p += 4) sweep_rows(4, k->S + p * N, N, s->a[t], k->dxd + p, dy + p, b, k->part);
    for (; p < P; p++) sweep_rows(1, k->S + p * N, N, s->a[t], k->dxd + p, dy + p, b, k->part);
    k->agree[t] = row_dot(k->part, s->c + t * s->b_token, N);  // dy·(y − D·x)
    row_axpy(k->part, k->dc + t * s->b_token, N, 1.0f);
  }
}

// q = a·dL/da obeys q_t = q_{t+1} + dy_t·(S_t C_t) − dt_t·x_t·(G_t B_t), because ⟨G_t, S_t⟩ can be written either way;
// where a state was stored q is taken from it instead, so that roundings do not pile up.
NOINLINE void reverse(Head *k, double q) {
  const Scan *s = &k->s;
  size_t P = s->P, N = s->N;
  float decay = 1.0f;  // a of the token after
  for (size_t t = k->L; t-- > 0;) {
    const float *x = s->x + t * s->x_token, *dy = k->dy + t * s->x_token;
    const float *b = s->b + t * s->b_token, *c = s->c + t * s->b_token;
    row_zero(k->part, (N + 3) / 4 * 4);
    size_t p = 0;
    for (; p + 4 <= P; p += 4) st(k->dxd + p, reverse_rows(4, k->G + p * N, N, decay, x + p, dy + p, b, c, k->part));
    for (; p < P; p++)
      k->dxd[p] = wasm_f32x4_extract_lane(reverse_rows(1, k->G + p * N, N, decay, x + p, dy + p, b, c, k->part), 0);
    decay = s->a[t];
    float dt = s->dt[t], ux = row_dot(x, k->dxd, P);
    q += (double)k->agree[t] - (double)dt * ux;
    if (t % CHUNK == 0) q = (double)decay * row_dot(k->G, k->starts + t / CHUNK * P * N, P * N);
    row_axpy(k->part, k->db + t * s->b_token, N, dt);
    float *dx = k->dx + t * s->x_token;
    row_scale(k->dxd, dx, P, dt);
    row_axpy(dy, dx, P, k->D);
    float gate = wasm_f32x4_extract_lane(sigmoid4(splat(k->raw[t * k->H] + k->bias)), 0);
    float ddt = (ux + k->A * (float)q) * gate;
    k->ddt[t * k->H] = ddt;
    k->dA += dt * q;
    k->dD += row_dot(dy, x, P);
    k->dbias += ddt;
  }
  row_scale(k->G, k->G, P * N, decay);
}

INLINE size_t padded(size_t n) {
  return (n + 3) / 4 * 4;
}

// Bytes of scratch for `ssd_scan_backward`.
size_t EXPORT(ssd_scan_backward_scratch)(size_t L, size_t P, size_t N) {
  return 4 * (3 * L + ((L + CHUNK - 1) / CHUNK + 2) * P * N + padded(N) + padded(P));
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

// dstate, initial, D, dt_bias and the gradients dA_log, dD, ddt_bias, dinitial may be null. All are overwritten.
void EXPORT(ssd_scan_backward)(const float *x, const float *dt_raw, const float *A_log, const float *B, const float *C,
                               const float *D, const float *dt_bias, const float *initial, const float *dy,
                               const float *dstate, float *dx, float *ddt, float *dA_log, float *dB, float *dC,
                               float *dD, float *ddt_bias, float *dinitial, size_t batches, size_t L, size_t H,
                               size_t P, size_t G, size_t N, float *scratch) {
  Grads to = {dx, ddt, dA_log, dB, dC, dD, ddt_bias, dinitial};
  size_t PN = P * N;
  float *dt = scratch, *a = dt + L, *agree = a + L, *S = agree + L, *Gs = S + PN, *starts = Gs + PN;
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
              dB + group, dC + group, L, H, -exp1(A_log[h]), D ? D[h] : 0.0f, dt_bias ? dt_bias[h] : 0.0f, S, Gs,
              starts, agree, part, dxd, 0, 0, 0};
    discretise(k.raw, H, k.bias, k.A, L, dt, a);
    if (initial) row_copy(initial + i * PN, S, PN);
    else row_zero(S, PN);
    sweep(&k);
    if (dstate) row_copy(dstate + i * PN, Gs, PN);
    else row_zero(Gs, PN);
    reverse(&k, row_dot(Gs, S, PN));
    if (dinitial) row_copy(Gs, dinitial + i * PN, PN);
    add_sums(&to, &k, h);
  }
}
