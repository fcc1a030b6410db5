// Storage formats: f16 and bf16 in 16 bits, and whole numbers in blocks of 64 that share two f16 scales, as
// engine/dtype.ts has them. Kernels compute on f32.
#pragma once
#include "simd.h"

enum { F32 = 0, F16 = 1, BF16 = 2, WORDS = 3, INT8 = 4, INT4 = 5 };

// Bytes of a block of 64: a word with its scales and so many bits an element.
#define BLOCK_BYTES(bits) (4 + 8 * (bits))

// Where what is stored so many elements on begins: in block formats a multiple of 64.
INLINE const void *behind(const void *stored, size_t elements, size_t format) {
  size_t bytes = 4 * elements;
  if (format == F16 || format == BF16) bytes = 2 * elements;
  if (format == INT8) bytes = elements / 64 * BLOCK_BYTES(8);
  if (format == INT4) bytes = elements / 64 * BLOCK_BYTES(4);
  return (const uint8_t *)stored + bytes;
}

// Parts of a row that are read apart begin at multiples of so many elements.
INLINE size_t least_part(size_t format) {
  return format == INT8 || format == INT4 ? 64 : 4;
}

// `widen_some`, compiled once.
void widen(const void *stored, float *to, size_t n, size_t format);

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

// Eight f16 as two vectors. By the bits: the product makes subnormal numbers right.
INLINE void from_halves(i4 raw, f4 to[2]) {
  i4 exponent = wasm_i16x8_const_splat(0x7c00), scale = wasm_f32x4_const_splat(0x1p112f);
  i4 special = wasm_i16x8_eq(wasm_v128_and(raw, exponent), exponent);
  i4 upper = wasm_v128_and(wasm_i16x8_shr(raw, 3), wasm_i16x8_const_splat((short)0x8fff));
  upper = wasm_v128_or(upper, wasm_v128_and(special, wasm_i16x8_const_splat(0x7f80)));
  i4 lower = wasm_i16x8_shl(raw, 13);
  to[0] = mul4(wasm_i16x8_shuffle(lower, upper, 0, 8, 1, 9, 2, 10, 3, 11), scale);
  to[1] = mul4(wasm_i16x8_shuffle(lower, upper, 4, 12, 5, 13, 6, 14, 7, 15), scale);
}

INLINE float half_at(const uint16_t *p) {
  f4 both[2];
  from_halves(wasm_i16x8_splat((short)*p), both);
  return wasm_f32x4_extract_lane(both[0], 0);
}

// 32 whole numbers of a block, eight a vector of 16 bits, times their scale.
INLINE void from_wholes(const i4 wholes[4], float scale, float *to) {
  // 3·2^22 + n has n in its low bits. (Told to convert, LLVM 14 does it lane by lane.)
  i4 bits = wasm_i32x4_const_splat(0x4b400000);
  UNROLL for (int i = 0; i < 4; i++) {
    i4 low = wasm_i32x4_extend_low_i16x8(wholes[i]), high = wasm_i32x4_extend_high_i16x8(wholes[i]);
    st(to + 8 * i, mul4(sub4(wasm_i32x4_add(low, bits), bits), splat(scale)));
    st(to + 8 * i + 4, mul4(sub4(wasm_i32x4_add(high, bits), bits), splat(scale)));
  }
}

// Half a block, whose numbers are bytes.
INLINE void from_bytes(const uint8_t *bytes, float scale, float *to) {
  i4 wholes[4];
  UNROLL for (int i = 0; i < 4; i++) wholes[i] = wasm_i16x8_load8x8(bytes + 8 * i);
  from_wholes(wholes, scale, to);
}

// The same of half bytes, the first in the low half, each of them 8 more than it is worth.
INLINE void from_nibbles(const uint8_t *bytes, float scale, float *to) {
  i4 pairs = ld(bytes), eight = wasm_i8x16_const_splat(8);
  i4 even = wasm_i8x16_sub(wasm_v128_and(pairs, wasm_i8x16_const_splat(15)), eight);
  i4 odd = wasm_i8x16_sub(wasm_u8x16_shr(pairs, 4), eight);
  i4 low = wasm_i8x16_shuffle(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  i4 high = wasm_i8x16_shuffle(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  i4 wholes[4] = {wasm_i16x8_extend_low_i8x16(low), wasm_i16x8_extend_high_i8x16(low),
                  wasm_i16x8_extend_low_i8x16(high), wasm_i16x8_extend_high_i8x16(high)};
  from_wholes(wholes, scale, to);
}

// n stored elements as f32; in block formats a multiple of 64.
INLINE void widen_some(const void *stored, float *to, size_t n, size_t format) {
  const uint16_t *from = stored;
  if (format == F16) {
    for (f4 both[2]; n >= 8; n -= 8, from += 8, to += 8) {
      from_halves(ld(from), both);
      st(to, both[0]);
      st(to + 4, both[1]);
    }
    for (; n > 0; n--) *to++ = half_at(from++);
  } else if (format == BF16) {
    for (; n >= 4; n -= 4, from += 4, to += 4) st(to, from_bfloat4(wasm_u32x4_load16x4(from)));
    for (; n > 0; n--) *to++ = wasm_f32x4_extract_lane(from_bfloat4(wasm_i32x4_splat(*from++)), 0);
  } else if (format == INT8 || format == INT4) {
    // A block is a word with the scales of its halves, and these.
    size_t bytes = format == INT8 ? 32 : 16;
    const uint8_t *block = stored;
    for (; n > 0; n -= 64, block += 4 + 2 * bytes)
      UNROLL for (size_t half = 0; half < 2; half++, to += 32) {
        float scale = half_at((const uint16_t *)block + half);
        if (format == INT8) from_bytes(block + 4 + half * bytes, scale, to);
        else from_nibbles(block + 4 + half * bytes, scale, to);
      }
  } else {
    const float *plain = stored;
    for (size_t i = 0; i < n; i++) to[i] = plain[i];
  }
}
