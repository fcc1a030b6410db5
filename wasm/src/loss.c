// Losses over rows of logits [rows, n] and the optimiser's step.
#include "rows.h"

// A row's maximum and ln Σ e^((x − maximum)·scale).
INLINE void row_stats(const float *x, size_t n, float scale, float *stats) {
  stats[0] = row_max(x, n);
  stats[1] = log1(row_exp_sum(x, 0, n, stats[0], scale, 0.0f));
}

// Mean of −log softmax(logits)[label] over the rows [rows, n] whose label (i32) is not `ignore`; NaN where a label is
// no column. loss and factor (1/rows that count) are one float each; stats [rows, 2] holds each row's maximum and ln Σ
// e^(x − maximum). factor and stats are for the backward.
void EXPORT(cross_entropy)(const float *logits, const int32_t *labels, float *loss, float *stats, float *factor,
                           size_t rows, size_t n, int32_t ignore) {
  double total = 0;
  size_t counted = 0;
  for (size_t r = 0; r < rows; r++, logits += n, stats += 2) {
    row_stats(logits, n, 1.0f, stats);
    if (labels[r] == ignore) continue;
    counted++;
    total += (uint32_t)labels[r] < n ? stats[1] - (logits[labels[r]] - stats[0]) : __builtin_nanf("");
  }
  *factor = counted ? 1.0f / counted : 0.0f;
  *loss = counted ? (float)(total / counted) : 0.0f;
}

// dlogits = dy·factor·(softmax − one_hot), zeros where ignored. May work in place.
void EXPORT(cross_entropy_backward)(const float *logits, const int32_t *labels, const float *stats, const float *factor,
                                    const float *dy, float *dlogits, size_t rows, size_t n, int32_t ignore) {
  float scale = *factor * *dy;
  for (size_t r = 0; r < rows; r++, logits += n, dlogits += n, stats += 2) {
    if (labels[r] == ignore) {
      row_zero(dlogits, n);
      continue;
    }
    row_exp_sum(logits, dlogits, n, stats[0], 1.0f, stats[1]);
    row_scale(dlogits, dlogits, n, scale);
    if ((uint32_t)labels[r] < n) dlogits[labels[r]] -= scale;
  }
}

// Terms of Σ p_t·(ln p_t − ln p_s) + p_s − p_t, p = softmax(k·logits): the difference sums to 0, makes every term at
// least 0 and cancels what rounding did to the two logarithms. 0·∞ is 0.
INLINE f4 kl_terms(f4 log_s, f4 log_t) {
  f4 q = exp_neg4(log_t);
  f4 product = wasm_v128_andnot(mul4(q, sub4(log_t, log_s)), wasm_f32x4_eq(q, zero4()));
  return add4(product, sub4(exp_neg4(log_s), q));
}

// ln softmax(k·x), by the row's statistics.
INLINE f4 log_softmax4(f4 x, f4 k, const float *stats) {
  return sub4(mul4(sub4(x, splat(stats[0])), k), splat(stats[1]));
}

INLINE double row_kl(const float *s, const float *t, size_t n, float k, const float *stats) {
  f4 kv = splat(k);
  double total = 0;
  size_t i = 0;
  while (i + 4 <= n) {
    f4 sum = zero4();
    for (size_t end = least(n, i + BLOCK); i + 4 <= end; i += 4)
      sum = add4(sum, kl_terms(log_softmax4(ld(s + i), kv, stats), log_softmax4(ld(t + i), kv, stats + 2)));
    total += sum4(sum);
  }
  for (; i < n; i++) {
    f4 log_s = log_softmax4(splat(s[i]), kv, stats), log_t = log_softmax4(splat(t[i]), kv, stats + 2);
    total += wasm_f32x4_extract_lane(kl_terms(log_s, log_t), 0);
  }
  return total;
}

// Σ weights·KL(teacher ‖ student)·factor at temperature 1/k, where factor = scale, or scale / Σ weights. weights [rows]
// or null: 1. stats [rows, 5] (those of the student's row and of the teacher's, and 0) and factor [1] are for the
// backward.
void EXPORT(kl_div)(const float *student, const float *teacher, const float *_Nullable weights, float *loss,
                    float *factor, float *stats, size_t rows, size_t n, float k, float scale, int by_weight) {
  double total = 0, weight = 0;
  for (size_t r = 0; r < rows; r++, student += n, teacher += n, stats += 5) {
    float w = weights ? weights[r] : 1.0f;
    row_stats(student, n, k, stats);
    row_stats(teacher, n, k, stats + 2);
    stats[4] = 0.0f;
    if (w != 0.0f) total += w * row_kl(student, teacher, n, k, stats);
    weight += w;
  }
  double f = !by_weight ? scale : weight == 0 ? 0 : scale / weight;
  *factor = (float)f;
  *loss = (float)(total * f);
}

// dstudent = dy·factor·weight·k·(softmax(k·student) − softmax(k·teacher)).
void EXPORT(kl_div_backward)(const float *student, const float *teacher, const float *stats, const float *factor,
                             const float *dy, const float *_Nullable weights, float *dstudent, size_t rows, size_t n,
                             float k) {
  for (size_t r = 0; r < rows; r++, student += n, teacher += n, dstudent += n, stats += 5) {
    float w = *factor * *dy * (weights ? weights[r] : 1.0f);
    if (w == 0.0f) {
      row_zero(dstudent, n);
      continue;
    }
    f4 kv = splat(k), scale = splat(w * k);
    for (size_t i = 0; i < n; i += 4) {
      f4 s = exp_neg4(log_softmax4(ld_upto(student + i, n - i), kv, stats));
      f4 t = exp_neg4(log_softmax4(ld_upto(teacher + i, n - i), kv, stats + 2));
      st_upto(dstudent + i, n - i, mul4(scale, sub4(s, t)));
    }
  }
}

// x^n for whole n ≥ 0.
INLINE double whole_power(double x, size_t n) {
  double y = 1.0;
  for (; n; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

// Of the norms of n gradients: [their norm, what clips it to max_norm (0 does not clip), 1 if it and the loss (or null)
// are finite else 0].
void EXPORT(clip_scale)(const float *norms, const float *_Nullable loss, float *stats, size_t n, double max_norm) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)norms[i] * norms[i];
  float norm = (float)__builtin_sqrt(sum);
  double scale = max_norm > 0 ? max_norm / (norm + 1e-6) : 1;
  stats[0] = norm;
  stats[1] = (float)(scale > 1 ? 1 : scale);
  stats[2] = norm - norm == 0 && (!loss || *loss - *loss == 0);
}

// AdamW (Loshchilov & Hutter 2019) as torch has it: p ← p·(1 − lr·decay) − lr/c1·m/(√(v/c2) + eps), c = 1 − beta^t, for
// the parameter's t-th update; step becomes t, and before is what it was. stats: the gradient's norm, the factor that
// clips it, and 0 where it is not finite: then nothing changes. rate: lr.
void EXPORT(adamw)(float *p, const float *g, float *m, float *v, float *step, const float *before, const float *stats,
                   const float *rate, size_t n, double beta1, double beta2, float eps, float decay) {
  *step = *before + stats[2];
  if (stats[2] == 0.0f) return;
  // 1 − βᵗ in f64, where 1 − β of a β near 1 keeps its digits.
  double c1 = 1.0 - whole_power(beta1, *step), c2 = 1.0 - whole_power(beta2, *step);
  float lr = *rate;
  f4 factor = splat(stats[1]), b1 = splat((float)beta1), b2 = splat((float)beta2), keep = splat(1.0f - lr * decay);
  f4 rest1 = splat((float)(1.0 - beta1)), rest2 = splat((float)(1.0 - beta2));
  f4 first_rate = splat((float)(lr / c1)), root = splat((float)(1.0 / __builtin_sqrt(c2))), epsilon = splat(eps);
  for (size_t i = 0; i < n; i += 4) {
    size_t left = n - i;
    f4 grad = mul4(ld_upto(g + i, left), factor);
    f4 first = fma4(b1, ld_upto(m + i, left), mul4(rest1, grad));
    f4 second = fma4(b2, ld_upto(v + i, left), mul4(rest2, mul4(grad, grad)));
    f4 change = div4(mul4(first_rate, first), fma4(wasm_f32x4_sqrt(second), root, epsilon));
    st_upto(m + i, left, first);
    st_upto(v + i, left, second);
    st_upto(p + i, left, sub4(mul4(ld_upto(p + i, left), keep), change));
  }
}
