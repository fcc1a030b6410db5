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

// n stored elements as f32; in block formats a multiple of 64.
void widen(const void *stored, float *to, size_t n, size_t format);
