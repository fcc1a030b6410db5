// Elementwise functions of two arguments, of the same shape or with the second broadcast over rows or columns.
#include "simd.h"

#define TAIL(i, n, vector, part) \
  for (; (i) + 4 <= (n); (i) += 4) vector; \
  if ((i) < (n)) part;

// name: both [n]; name_rows: b is [n], a is [rows, n]; name_cols: b is [rows] (rows = 1: a scalar).
#define BINARY(name, op)                                                                                        \
  void __attribute__((export_name(#name))) binary_##name(const float *a, const float *b, float *y, size_t n) {  \
    size_t i = 0;                                                                                               \
    TAIL(i, n, st(y + i, op(ld(a + i), ld(b + i))),                                                             \
         st_part(y + i, n - i, op(ld_part(a + i, n - i, 1.0f), ld_part(b + i, n - i, 1.0f))))                   \
  }                                                                                                             \
  void __attribute__((export_name(#name "_rows")))                                                              \
  rows_##name(const float *a, const float *b, float *y, size_t rows, size_t n) {                                \
    for (size_t r = 0; r < rows; r++, a += n, y += n) binary_##name(a, b, y, n);                                \
  }                                                                                                             \
  void __attribute__((export_name(#name "_cols")))                                                              \
  cols_##name(const float *a, const float *b, float *y, size_t rows, size_t n) {                                \
    for (size_t r = 0; r < rows; r++, a += n, y += n) {                                                         \
      f4 v = ld_splat(b + r);                                                                                   \
      size_t i = 0;                                                                                             \
      TAIL(i, n, st(y + i, op(ld(a + i), v)), st_part(y + i, n - i, op(ld_part(a + i, n - i, 1.0f), v)))        \
    }                                                                                                           \
  }

BINARY(add, add4)
BINARY(sub, sub4)
BINARY(mul, mul4)
BINARY(div, div4)
#define rsub4(a, b) sub4(b, a)
#define rdiv4(a, b) div4(b, a)
BINARY(rsub, rsub4)  // b − a and b/a: for a first operand that is broadcast
BINARY(rdiv, rdiv4)
BINARY(maximum, wasm_f32x4_max)
BINARY(minimum, wasm_f32x4_min)

// y = alpha·x + beta·y. With beta 0, y is not read: it may hold anything.
void EXPORT(scale_add)(const float *x, float *y, size_t n, float alpha, float beta) {
  f4 a = splat(alpha), b = splat(beta);
  size_t i = 0;
  if (beta == 0.0f) {
    TAIL(i, n, st(y + i, mul4(ld(x + i), a)), st_part(y + i, n - i, mul4(ld_part(x + i, n - i, 0.0f), a)))
  } else {
    TAIL(i, n, st(y + i, fma4(ld(x + i), a, mul4(ld(y + i), b))),
         st_part(y + i, n - i, fma4(ld_part(x + i, n - i, 0.0f), a, mul4(ld_part(y + i, n - i, 0.0f), b))))
  }
}

// y = value.
void EXPORT(fill)(float *y, size_t n, float value) {
  f4 v = splat(value);
  size_t i = 0;
  TAIL(i, n, st(y + i, v), st_part(y + i, n - i, v))
}
