// Rotary position embedding: of the first `rotary` dimensions of a row, i turns with i + rotary/2 by
// position·theta^(−2i/rotary); the others pass.
#include "rows.h"

#define ANCHOR 32  // so many positions are reached by turning the last one on, in f64, before an angle is worked out anew

// cos and ±sin of (offset + l)·frequency for each position l, `step` floats apart.
INLINE void fill_column(float *cosines, float *sines, size_t step, size_t length, double offset, double frequency,
                        int inverse) {
  double ts, tc, s = 0, c = 1;
  sincos_f64(frequency, &ts, &tc);
  for (size_t l = 0; l < length; l++) {
    if (l % ANCHOR == 0) {
      sincos_f64((offset + l) * frequency, &s, &c);
    } else {
      double turned = c * tc - s * ts;
      s = s * tc + c * ts;
      c = turned;
    }
    cosines[l * step] = (float)c;
    sines[l * step] = (float)(inverse ? -s : s);
  }
}

// Bytes of scratch for `rope`.
size_t EXPORT(rope_scratch)(size_t length, size_t rotary) {
  return 4 * length * rotary;
}

// Rotary embedding of x [rows, dim]: dimension i < rotary/2 turns with i + rotary/2 by position·ratio^i, where ratio is
// theta^(−2/rotary). Row r is at (r / inner) mod length + offset (+ the i32 at `start`, unless 0). inverse = 1 is the
// backward. May work in place.
void EXPORT(rope)(const float *x, const int32_t *_Nullable start, float *y, size_t rows, size_t dim, size_t length,
                  size_t inner, size_t rotary, double ratio, double offset, int inverse, float *table) {
  size_t half = rotary / 2;
  if (start) offset += *start;
  double frequency = 1;
  for (size_t i = 0; i < half; i++, frequency *= ratio)
    fill_column(table + i, table + half + i, rotary, length, offset, frequency, inverse);
  for (size_t r = 0; r < rows; r++, x += dim, y += dim) {
    const float *c = table + r / inner % length * rotary, *s = c + half;
    size_t i = 0;
    for (; i + 4 <= half; i += 4) {
      f4 a = ld(x + i), b = ld(x + half + i), cv = ld(c + i), sv = ld(s + i);
      st(y + i, sub4(mul4(a, cv), mul4(b, sv)));
      st(y + half + i, fma4(b, cv, mul4(a, sv)));
    }
    for (; i < half; i++) {
      float a = x[i], b = x[half + i];
      y[i] = a * c[i] - b * s[i];
      y[half + i] = b * c[i] + a * s[i];
    }
    row_copy(x + rotary, y + rotary, dim - rotary);
  }
}
