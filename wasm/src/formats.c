#include "formats.h"

// n elements stored in a format, to f32; in block formats a multiple of 64.
void EXPORT(widen)(const void *stored, float *to, size_t n, size_t format) {
  widen_some(stored, to, n, format);
}

// n f32 rounded to f16 or bf16.
void EXPORT(narrow)(const float *from, void *stored, size_t n, size_t format) {
  uint16_t *to = stored;
  for (size_t i = 0; i < n; i++) {
    i4 bits = format == F16 ? to_half4(splat(from[i])) : to_bfloat4(splat(from[i]));
    to[i] = (uint16_t)wasm_i32x4_extract_lane(bits, 0);
  }
}
