// Losses over rows of logits [rows, n] and the optimiser's step.
#include "rows.h"

INLINE float row_lse(const float *x, size_t n, float scale) {
  float max = row_max(x, n) * scale;
  return max + log1(row_exp_sum(x, 0, n, scale, max));
}

// loss[r] = lse − logit of the target, 0 where the target is `ignore`; lse [rows] is for the backward.
void EXPORT(cross_entropy)(const float *logits, const int32_t *targets, float *loss, float *lse, size_t rows, size_t n,
                           int32_t ignore) {
  for (size_t r = 0; r < rows; r++, logits += n) {
    int32_t target = targets[r];
    if (target == ignore) {
      loss[r] = lse[r] = 0.0f;
      continue;
    }
    lse[r] = row_lse(logits, n, 1.0f);
    loss[r] = lse[r] - logits[target];
  }
}

// dlogits = scale·(softmax − one_hot), rows of zeros where ignored. May work in place.
void EXPORT(cross_entropy_backward)(const float *logits, const int32_t *targets, const float *lse, float *dlogits,
                                    size_t rows, size_t n, int32_t ignore, float scale) {
  for (size_t r = 0; r < rows; r++, logits += n, dlogits += n) {
    if (targets[r] == ignore) {
      row_zero(dlogits, n);
      continue;
    }
    row_exp_sum(logits, dlogits, n, 1.0f, lse[r]);
    row_scale(dlogits, dlogits, n, scale);
    dlogits[targets[r]] -= scale;
  }
}

// Terms of Σ p_t·(ln p_t − ln p_s), p = softmax(logits·k), for four columns; both logits' logsumexp are known.
INLINE f4 kl_terms(f4 s, f4 t, f4 k, f4 ls, f4 lt) {
  f4 log_t = sub4(mul4(t, k), lt), log_s = sub4(mul4(s, k), ls);
  return mul4(exp_neg4(log_t), sub4(log_t, log_s));
}

// KL(teacher ‖ student) a row at temperature 1/k. lse_s, lse_t [rows] are for the backward.
void EXPORT(kl_div)(const float *student, const float *teacher, float *loss, float *lse_s, float *lse_t, size_t rows,
                    size_t n, float k) {
  for (size_t r = 0; r < rows; r++, student += n, teacher += n) {
    lse_s[r] = row_lse(student, n, k);
    lse_t[r] = row_lse(teacher, n, k);
    f4 sum = zero4(), ls = splat(lse_s[r]), lt = splat(lse_t[r]);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) sum = add4(sum, kl_terms(ld(student + i), ld(teacher + i), splat(k), ls, lt));
    float total = sum4(sum);
    for (; i < n; i++)
      total += wasm_f32x4_extract_lane(kl_terms(splat(student[i]), splat(teacher[i]), splat(k), ls, lt), 0);
    loss[r] = total;
  }
}

// dstudent = scale·k·(p_s − p_t).
void EXPORT(kl_div_backward)(const float *student, const float *teacher, const float *lse_s, const float *lse_t,
                             float *dstudent, size_t rows, size_t n, float k, float scale) {
  f4 kv = splat(k), factor = splat(scale * k);
  for (size_t r = 0; r < rows; r++, student += n, teacher += n, dstudent += n) {
    f4 ls = splat(lse_s[r]), lt = splat(lse_t[r]);
    for (size_t i = 0; i < n; i += 4) {
      f4 s = exp_neg4(sub4(mul4(ld_upto(student + i, n - i), kv), ls));
      f4 t = exp_neg4(sub4(mul4(ld_upto(teacher + i, n - i), kv), lt));
      st_upto(dstudent + i, n - i, mul4(factor, sub4(s, t)));
    }
  }
}

// AdamW (Loshchilov & Hutter 2019) as torch has it: p ← p·(1 − lr·decay) − lr/c1·m/(√(v/c2) + eps).
// hyper: lr, beta1, beta2, eps, c1 = 1 − beta1^step, c2 = 1 − beta2^step. stats: the gradient's norm, the factor that
// clips it, and 0 where it is not finite: then nothing changes.
void EXPORT(adamw)(float *p, const float *g, float *m, float *v, const float *hyper, const float *stats, size_t n,
                   float decay) {
  float lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2], c1 = hyper[4], c2 = hyper[5];
  if (stats[2] == 0.0f) return;
  f4 factor = splat(stats[1]), b1 = splat(beta1), b2 = splat(beta2), keep = splat(1.0f - lr * decay);
  f4 rest1 = splat(1.0f - beta1), rest2 = splat(1.0f - beta2), rate = splat(lr / c1), epsilon = splat(hyper[3]);
  f4 root = splat(1.0f / __builtin_sqrtf(c2));
  for (size_t i = 0; i < n; i += 4) {
    size_t left = n - i;
    f4 grad = mul4(ld_upto(g + i, left), factor);
    f4 first = fma4(b1, ld_upto(m + i, left), mul4(rest1, grad));
    f4 second = fma4(b2, ld_upto(v + i, left), mul4(rest2, mul4(grad, grad)));
    f4 step = div4(mul4(rate, first), fma4(wasm_f32x4_sqrt(second), root, epsilon));
    st_upto(m + i, left, first);
    st_upto(v + i, left, second);
    st_upto(p + i, left, sub4(mul4(ld_upto(p + i, left), keep), step));
  }
}
