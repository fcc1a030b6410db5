// Elementwise functions of one argument: y = f(x) and dx = dy·f′(x). One row of the table at the end is one function.
#include "math.h"

#define SQRT_2_OVER_PI 0.79788456080286535588f

INLINE f4 sign4(f4 x) {  // 0 at 0 and of NaN, as torch has it
  f4 one = c4(1.0f);
  return sub4(wasm_v128_and(one, wasm_f32x4_gt(x, zero4())), wasm_v128_and(one, wasm_f32x4_lt(x, zero4())));
}

// tanh-GELU is x·σ(2u), u = √(2/π)·(x + 0.044715·x³). Beyond ±100 the sigmoid is 0 or 1, and x³ must not overflow.
INLINE f4 gelu_sigmoid4(f4 x, f4 *du) {
  f4 c = most4(least4(x, c4(100.0f)), c4(-100.0f)), z = mul4(c, c);
  *du = fma4(z, c4(2 * SQRT_2_OVER_PI * 0.134145f), c4(2 * SQRT_2_OVER_PI));
  return sigmoid4(mul4(c, fma4(z, c4(2 * SQRT_2_OVER_PI * 0.044715f), c4(2 * SQRT_2_OVER_PI))));
}

INLINE f4 gelu_tanh4(f4 x) {
  f4 du;
  return mul4(x, gelu_sigmoid4(x, &du));
}

INLINE f4 dgelu_tanh4(f4 x) {
  f4 du, s = gelu_sigmoid4(x, &du);
  f4 c = most4(least4(x, c4(100.0f)), c4(-100.0f));
  return fma4(mul4(c, du), mul4(s, sub4(c4(1.0f), s)), s);
}

INLINE f4 dgelu4(f4 x) {
  f4 density = mul4(exp_neg4(mul4(mul4(x, x), c4(-0.5f))), c4(0.39894228040143267794f));
  return fma4(x, density, normal_cdf4(x));
}

#define UNARY(name, f, df)                                                                                         \
  void __attribute__((export_name(#name))) unary_##name(const float *xs, float *ys, size_t n) {                    \
    size_t i = 0;                                                                                                  \
    for (; i + 4 <= n; i += 4) {                                                                                   \
      f4 x = ld(xs + i);                                                                                           \
      st(ys + i, f);                                                                                               \
    }                                                                                                              \
    if (i < n) {                                                                                                   \
      f4 x = ld_part(xs + i, n - i, 1.0f);                                                                         \
      st_part(ys + i, n - i, f);                                                                                   \
    }                                                                                                              \
  }                                                                                                                \
  void __attribute__((export_name(#name "_backward")))                                                            \
  unary_##name##_backward(const float *xs, const float *ys, const float *dys, float *dxs, size_t n) {              \
    (void)xs, (void)ys;                                                                                            \
    size_t i = 0;                                                                                                  \
    for (; i + 4 <= n; i += 4) {                                                                                   \
      f4 x = ld(xs + i), y = ld(ys + i);                                                                           \
      (void)x, (void)y;                                                                                            \
      st(dxs + i, mul4(ld(dys + i), df));                                                                          \
    }                                                                                                              \
    if (i < n) {                                                                                                   \
      f4 x = ld_part(xs + i, n - i, 1.0f), y = ld_part(ys + i, n - i, 1.0f);                                       \
      (void)x, (void)y;                                                                                            \
      st_part(dxs + i, n - i, mul4(ld_part(dys + i, n - i, 0.0f), df));                                            \
    }                                                                                                              \
  }

UNARY(neg, wasm_f32x4_neg(x), c4(-1.0f))
UNARY(abs, wasm_f32x4_abs(x), sign4(x))
UNARY(exp, exp4(x), y)
UNARY(log, log4(x), div4(c4(1.0f), x))
UNARY(sin, sine4(x, 0), sine4(x, 1))
UNARY(cos, sine4(x, 1), wasm_f32x4_neg(sine4(x, 0)))
UNARY(tanh, tanh4(x), sub4(c4(1.0f), mul4(y, y)))
UNARY(sigmoid, sigmoid4(x), mul4(y, sub4(c4(1.0f), y)))
UNARY(relu, most4(x, zero4()), wasm_v128_andnot(c4(1.0f), wasm_f32x4_le(x, zero4())))
UNARY(silu, silu4(x), dsilu4(x))
UNARY(softplus, softplus4(x), sigmoid4(x))
UNARY(gelu, mul4(x, normal_cdf4(x)), dgelu4(x))
UNARY(gelu_tanh, gelu_tanh4(x), dgelu_tanh4(x))
UNARY(erf, erf4(x), mul4(c4(1.1283791670955126f), exp_neg4(wasm_f32x4_neg(mul4(x, x)))))
UNARY(square, mul4(x, x), add4(x, x))
UNARY(sqrt, wasm_f32x4_sqrt(x), div4(c4(0.5f), y))
UNARY(rsqrt, div4(c4(1.0f), wasm_f32x4_sqrt(x)), div4(mul4(c4(-0.5f), y), x))
UNARY(reciprocal, div4(c4(1.0f), x), wasm_f32x4_neg(mul4(y, y)))
