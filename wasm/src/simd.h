// What every kernel source shares: short names over wasm_simd128.h and the one macro in which the two binaries differ.
// Freestanding: no libc, no allocation, no mutable globals (so that instances may share a memory across threads).
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) name
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

typedef v128_t f4;  // four f32
typedef v128_t i4;  // four i32

#define UNROLL _Pragma("clang loop unroll(full)")
// Keeps a number or pointer in a register of its own.
#define KEEP(value) __asm__("" : "+r"(value))

#define ld(p) wasm_v128_load(p)
#define st(p, v) wasm_v128_store(p, v)
#define splat(x) wasm_f32x4_splat(x)
#define ld_splat(p) wasm_v128_load32_splat(p)
#define add4 wasm_f32x4_add
#define sub4 wasm_f32x4_sub
#define mul4 wasm_f32x4_mul
#define div4 wasm_f32x4_div

// a·b + c: fused in the relaxed binary, two roundings in the other.
#ifdef __wasm_relaxed_simd__
#define fma4(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#else
#define fma4(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#endif

#define zero4() wasm_f32x4_const_splat(0.0f)

INLINE size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

INLINE float sum4(f4 v) {
  f4 pairs = add4(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(pairs, 0) + wasm_f32x4_extract_lane(pairs, 1);
}

INLINE float max4_across(f4 v) {
  f4 pairs = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(wasm_f32x4_pmax(pairs, wasm_i32x4_shuffle(pairs, pairs, 1, 0, 3, 2)), 0);
}

// Four rows of four, transposed.
INLINE void transpose4(const f4 r[4], f4 t[4]) {
  f4 a = wasm_i32x4_shuffle(r[0], r[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(r[2], r[3], 0, 4, 1, 5);
  f4 c = wasm_i32x4_shuffle(r[0], r[1], 2, 6, 3, 7), d = wasm_i32x4_shuffle(r[2], r[3], 2, 6, 3, 7);
  t[0] = wasm_i64x2_shuffle(a, b, 0, 2);
  t[1] = wasm_i64x2_shuffle(a, b, 1, 3);
  t[2] = wasm_i64x2_shuffle(c, d, 0, 2);
  t[3] = wasm_i64x2_shuffle(c, d, 1, 3);
}

// The first n (1 to 3) floats at p; the other lanes are `fill`. Never reads past p + n.
INLINE f4 ld_part(const float *p, size_t n, float fill) {
  f4 v = splat(fill);
  v = wasm_v128_load32_lane(p, v, 0);
  if (n > 1) v = wasm_v128_load32_lane(p + 1, v, 1);
  if (n > 2) v = wasm_v128_load32_lane(p + 2, v, 2);
  return v;
}

INLINE void st_part(float *p, size_t n, f4 v) {
  wasm_v128_store32_lane(p, v, 0);
  if (n > 1) wasm_v128_store32_lane(p + 1, v, 1);
  if (n > 2) wasm_v128_store32_lane(p + 2, v, 2);
}

// All four floats at p, or the first n where fewer are left (zeros in the other lanes).
INLINE f4 ld_upto(const float *p, size_t n) {
  return n >= 4 ? ld(p) : ld_part(p, n, 0.0f);
}

INLINE void st_upto(float *p, size_t n, f4 v) {
  if (n >= 4) st(p, v);
  else st_part(p, n, v);
}
