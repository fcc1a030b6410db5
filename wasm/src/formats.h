// Storage formats: f16 and bf16 in 16 bits, and whole numbers in blocks of 64 that share two f16 scales, as
// engine/dtype.ts has them. Kernels compute on f32.
#pragma once
#include "simd.h"

enum { F32 = 0, F16 = 1, BF16 = 2, WORDS = 3, INT8 = 4, INT4 = 5 };

// Four f16, each in the low half of a word. By the bits: the product makes subnormal numbers right.
INLINE f4 from_half4(i4 h) {
  i4 sign = wasm_i32x4_shl(wasm_v128_and(h, wasm_i32x4_const_splat(0x8000)), 16);
  i4 magnitude = wasm_i32x4_shl(wasm_v128_and(h, wasm_i32x4_const_splat(0x7fff)), 13);
  i4 special = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x0f7fffff));
  f4 value = mul4(magnitude, wasm_f32x4_const_splat(0x1p112f));
  value = wasm_v128_or(value, wasm_v128_and(special, wasm_i32x4_const_splat(0x7f800000)));
  return wasm_v128_or(value, sign);
}

INLINE f4 from_bfloat4(i4 b) {
  return wasm_i32x4_shl(b, 16);
}

// To nearest even, as bits in the low half of each word.
INLINE i4 to_half4(f4 v) {
  i4 sign = wasm_v128_and(wasm_u32x4_shr(v, 16), wasm_i32x4_const_splat(0x8000));
  i4 magnitude = wasm_v128_and(v, wasm_i32x4_const_splat(0x7fffffff));
  i4 odd = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_const_splat(1));
  i4 normal = wasm_i32x4_add(wasm_i32x4_add(magnitude, wasm_i32x4_const_splat((int)0xc8000fff)), odd);
  normal = wasm_u32x4_shr(normal, 13);
  // Adding a half leaves the rounded subnormal in the low bits.
  i4 small = wasm_i32x4_sub(add4(magnitude, wasm_f32x4_const_splat(0.5f)), wasm_f32x4_const_splat(0.5f));
  i4 nan = wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7f800000));
  i4 large = wasm_v128_or(wasm_i32x4_const_splat(0x7c00), wasm_v128_and(nan, wasm_i32x4_const_splat(0x0200)));
  i4 bits = wasm_v128_bitselect(small, normal, wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x38800000)));
  bits = wasm_v128_bitselect(large, bits, wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x477fffff)));
  return wasm_v128_or(bits, sign);
}

INLINE i4 to_bfloat4(f4 v) {
  i4 nan = wasm_i32x4_gt(wasm_v128_and(v, wasm_i32x4_const_splat(0x7fffffff)), wasm_i32x4_const_splat(0x7f800000));
  i4 odd = wasm_v128_and(wasm_u32x4_shr(v, 16), wasm_i32x4_const_splat(1));
  i4 rounded = wasm_i32x4_add(wasm_i32x4_add(v, wasm_i32x4_const_splat(0x7fff)), odd);
  i4 quiet = wasm_v128_or(v, wasm_i32x4_const_splat(0x400000));
  return wasm_u32x4_shr(wasm_v128_bitselect(quiet, rounded, nan), 16);
}

INLINE float half_at(const uint16_t *p) {
  return wasm_f32x4_extract_lane(from_half4(wasm_i32x4_splat(*p)), 0);
}

// Elements first (a multiple of 64) to first + n (likewise) of a block format with so many bits an element.
INLINE void widen_blocks(const uint32_t *stored, size_t first, size_t n, float *to, size_t bits) {
  size_t words = 1 + 2 * bits;
  for (size_t i = 0; i < n; i += 64) {
    const uint32_t *block = stored + (first + i) / 64 * words;
    const uint8_t *bytes = (const uint8_t *)(block + 1);
    for (size_t j = 0; j < 64; j++) {
      float scale = half_at((const uint16_t *)block + j / 32);
      int whole = bits == 8 ? (int8_t)bytes[j] : (int)(bytes[j / 2] >> (4 * (j & 1)) & 15) - 8;
      to[i + j] = scale * (float)whole;
    }
  }
}

// Elements first to first + n of a stored tensor as f32; in block formats both are multiples of 64.
INLINE void widen_some(const void *stored, size_t first, size_t n, float *to, size_t format) {
  if (format == F16 || format == BF16) {
    const uint16_t *from = (const uint16_t *)stored + first;
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      i4 raw = wasm_u32x4_load16x4(from + i);
      st(to + i, format == F16 ? from_half4(raw) : from_bfloat4(raw));
    }
    for (; i < n; i++) {
      i4 raw = wasm_i32x4_splat(from[i]);
      to[i] = wasm_f32x4_extract_lane(format == F16 ? from_half4(raw) : from_bfloat4(raw), 0);
    }
  } else if (format == INT8) {
    widen_blocks(stored, first, n, to, 8);
  } else if (format == INT4) {
    widen_blocks(stored, first, n, to, 4);
  } else {
    const float *from = (const float *)stored + first;
    for (size_t i = 0; i < n; i++) to[i] = from[i];
  }
}
