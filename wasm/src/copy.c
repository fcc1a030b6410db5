// Copies between strided views: what permute, slice, cat, expand and flip are made of.
#include "simd.h"

typedef struct {
  size_t size;
  ptrdiff_t from, to;
} Dim;

// A plane whose rows run along x and whose columns run along y is transposed four by four.
INLINE void transpose_plane(const uint32_t *x, uint32_t *y, Dim outer, Dim inner) {
  size_t i = 0;
  for (; i + 4 <= outer.size; i += 4, x += 4 * outer.from, y += 4) {
    size_t j = 0;
    for (; j + 4 <= inner.size; j += 4) {
      const uint32_t *r = x + j;
      v128_t rows[4] = {ld(r), ld(r + outer.from), ld(r + 2 * outer.from), ld(r + 3 * outer.from)}, columns[4];
      transpose4(rows, columns);
      for (size_t k = 0; k < 4; k++) st(y + (ptrdiff_t)(j + k) * inner.to, columns[k]);
    }
    for (; j < inner.size; j++)
      for (size_t k = 0; k < 4; k++) y[j * inner.to + k] = x[k * outer.from + j];
  }
  for (; i < outer.size; i++, x += outer.from, y++)
    for (size_t j = 0; j < inner.size; j++) y[j * inner.to] = x[j];
}

INLINE void copy_plane(const uint32_t *x, uint32_t *y, Dim outer, Dim inner) {
  if (inner.from == 1 && outer.to == 1 && outer.size >= 4) {
    transpose_plane(x, y, outer, inner);
    return;
  }
  for (size_t i = 0; i < outer.size; i++, x += outer.from, y += outer.to) {
    if (inner.from == 1 && inner.to == 1) {
      size_t j = 0;
      for (; j + 4 <= inner.size; j += 4) st(y + j, ld(x + j));
      for (; j < inner.size; j++) y[j] = x[j];
    } else {
      for (size_t j = 0; j < inner.size; j++) y[j * inner.to] = x[j * inner.from];
    }
  }
}

// Four dimensions of 32-bit words, sizes s and strides f and t in words; x and y point at the first element.
void EXPORT(strided_copy)(const uint32_t *x, uint32_t *y, size_t s0, size_t s1, size_t s2, size_t s3, ptrdiff_t f0,
                          ptrdiff_t f1, ptrdiff_t f2, ptrdiff_t f3, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t t2,
                          ptrdiff_t t3) {
  Dim outer = {s2, f2, t2}, inner = {s3, f3, t3};
  for (size_t i = 0; i < s0; i++)
    for (size_t j = 0; j < s1; j++)
      copy_plane(x + (ptrdiff_t)i * f0 + (ptrdiff_t)j * f1, y + (ptrdiff_t)i * t0 + (ptrdiff_t)j * t1, outer, inner);
}

// y[r] = table[indices[r]], f32 rows of n; NaN where the index is not one of the table's `count` rows.
void EXPORT(gather_rows)(const float *table, const int32_t *indices, float *y, size_t rows, size_t n, size_t count) {
  for (size_t r = 0; r < rows; r++, y += n) {
    int known = (uint32_t)indices[r] < count;
    const float *x = table + (known ? (size_t)indices[r] * n : 0);
    size_t j = 0;
    for (; known && j + 4 <= n; j += 4) st(y + j, ld(x + j));
    for (; j < n; j++) y[j] = known ? x[j] : __builtin_nanf("");
  }
}

// table[indices[r]] += x[r], f32 rows of n; rows whose index is not one of the table's `count` rows are left out.
void EXPORT(scatter_add_rows)(const float *x, const int32_t *indices, float *table, size_t rows, size_t n,
                              size_t count) {
  for (size_t r = 0; r < rows; r++, x += n) {
    if ((uint32_t)indices[r] >= count) continue;
    float *y = table + (size_t)indices[r] * n;
    size_t j = 0;
    for (; j + 4 <= n; j += 4) st(y + j, add4(ld(y + j), ld(x + j)));
    for (; j < n; j++) y[j] += x[j];
  }
}
