// Copies between strided views: what permute, slice, cat, expand and flip are made of.
#include "formats.h"
#include "rows.h"

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

INLINE void copy_halves(const uint16_t *x, uint16_t *y, Dim outer, Dim inner) {
  for (size_t i = 0; i < outer.size; i++, x += outer.from, y += outer.to)
    for (size_t j = 0; j < inner.size; j++) y[j * inner.to] = x[j * inner.from];
}

// Copies elements of 4 or 2 bytes between views of four dimensions: sizes s, strides f of x and t of y in elements, which
// may be 0 or negative. x and y point at the first element. start, unless null, is an i32: y moves on by as many times
// `step` elements, at least 0 and at most `most` times.
void EXPORT(strided_copy)(const uint8_t *x, uint8_t *y, size_t bytes, size_t s0, size_t s1, size_t s2, size_t s3,
                          ptrdiff_t f0, ptrdiff_t f1, ptrdiff_t f2, ptrdiff_t f3, ptrdiff_t t0, ptrdiff_t t1,
                          ptrdiff_t t2, ptrdiff_t t3, const int32_t *_Nullable start, size_t step, size_t most) {
  Dim outer = {s2, f2, t2}, inner = {s3, f3, t3};
  if (start && *start > 0) y += bytes * step * least((size_t)*start, most);
  for (size_t i = 0; i < s0; i++)
    for (size_t j = 0; j < s1; j++) {
      const uint8_t *from = x + (ptrdiff_t)bytes * ((ptrdiff_t)i * f0 + (ptrdiff_t)j * f1);
      uint8_t *to = y + (ptrdiff_t)bytes * ((ptrdiff_t)i * t0 + (ptrdiff_t)j * t1);
      if (bytes == 4) copy_plane((const uint32_t *)from, (uint32_t *)to, outer, inner);
      else copy_halves((const uint16_t *)from, (uint16_t *)to, outer, inner);
    }
}

// y[r] = table[indices[r]], rows of n stored in a format, which come out as f32; NaN where the index (i32) is not one of
// the table's `count` rows.
void EXPORT(gather_rows)(const void *table, const int32_t *indices, float *y, size_t rows, size_t n, size_t count,
                         size_t format) {
  for (size_t r = 0; r < rows; r++, y += n) {
    if ((uint32_t)indices[r] < count) widen(behind(table, (size_t)indices[r] * n, format), y, n, format);
    else for (size_t j = 0; j < n; j++) y[j] = __builtin_nanf("");
  }
}

// Bytes of scratch for scatter_rows.
size_t EXPORT(scatter_rows_scratch)(size_t rows, size_t n, size_t count) {
  return rows / BLOCK_ROWS * n * sizeof(double) + 2 * count * sizeof(uint32_t);
}

// table[k] = Σ x[r] over the r with indices[r] = k, in their order, in f32 rows of n. Only indices that come often have
// sums in f64.
void EXPORT(scatter_rows)(const float *x, const int32_t *indices, float *table, size_t rows, size_t n, size_t count,
                          double *sums) {
  uint32_t *times = (uint32_t *)(sums + rows / BLOCK_ROWS * n), *place = times + count, places = 0;
  for (size_t k = 0; k < count; k++) times[k] = 0;
  row_zero(table, count * n);
  for (size_t r = 0; r < rows; r++, x += n) {
    size_t k = (uint32_t)indices[r];
    if (k >= count) continue;
    row_add(x, table + k * n, n);
    if (++times[k] % BLOCK_ROWS > 0) continue;
    if (times[k] == BLOCK_ROWS) {
      place[k] = places++;
      for (size_t i = 0; i < n; i++) sums[place[k] * n + i] = 0;
    }
    row_flush(table + k * n, sums + place[k] * n, n);
  }
  for (size_t k = 0; k < count; k++) {
    if (times[k] < BLOCK_ROWS) continue;
    row_flush(table + k * n, sums + place[k] * n, n);
    row_narrow(sums + place[k] * n, table + k * n, n);
  }
}
