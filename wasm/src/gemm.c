// Matrix product in f32, of a B in any format. A block of K at a time, B is packed into panels of 8 columns, and a
// register tile of 6×8 walks over them. Rows of A are read in place; a transposed A is turned into rows first, 96 at a
// time, because its columns lie a power of two apart all too often and would fall into the same few cache sets.
#include "formats.h"
#include "gemm.h"

#define MR 6    // 12 accumulators, 2 of B, 1 of A: the 15 registers that V8 leaves on x86-64
#define NR 8
#define KC 256  // a panel of 8 KiB and a strip of 6 KiB share the L1 cache
#define NC 512  // 512 KiB of packed B stay in L2
#define MC 96

static const float ZEROS[NR] = {0};

// A matrix that is stored in a format. Of others than f32 at most ROOM elements are widened at once, in `room`.
typedef struct {
  const void *data;
  size_t format;
  float *room;
} Stored;

#define COLUMNS 64  // columns of B that are widened, and then packed, at once
#define ROOM (COLUMNS * KC)

// The part of B that begins so many elements on.
INLINE Stored from(Stored b, size_t elements) {
  return (Stored){behind(b.data, elements, b.format), b.format, b.room};
}

// The first `length` elements of so many rows of B, as f32, one behind the other.
INLINE const float *widened(Stored b, size_t ldb, size_t rows, size_t length) {
  for (size_t r = 0; r < rows; r++) widen(from(b, r * ldb).data, b.room + r * length, length, b.format);
  return b.room;
}

// acc[i][j] += a[i][k]·b[k][4j…], one step of the tile.
INLINE void step(const int mr, const int nv, const float *const row[MR], const float *b, const int k, f4 acc[MR][2]) {
  f4 bv[2];
  UNROLL for (int j = 0; j < nv; j++) bv[j] = ld(b + (k * nv + j) * 4);
  UNROLL for (int i = 0; i < mr; i++) {
    f4 av = ld_splat(row[i] + k);
    UNROLL for (int j = 0; j < nv; j++) acc[i][j] = fma4(av, bv[j], acc[i][j]);
  }
}

// One tile: c[mr, 4·nv] = init + a·b over kc steps. init has ldi floats a row: 0 repeats one row (bias, zeros). It is
// added last: products of this block are summed apart from those before.
INLINE void tile(const int mr, const int nv, const float *a, size_t lda, const float *b, const float *init, size_t ldi,
                 float *c, size_t ldc, size_t kc) {
  f4 acc[MR][2];
  const float *row[MR];
  UNROLL for (int i = 0; i < mr; i++) {
    row[i] = a + i * lda;
    UNROLL for (int j = 0; j < nv; j++) acc[i][j] = zero4();
  }
  for (; kc >= 4; kc -= 4) {
    UNROLL for (int k = 0; k < 4; k++) step(mr, nv, row, b, k, acc);
    b += 16 * nv;
    // Left to itself, LLVM 19 rewrites the row pointers as one base and offsets, one addition a load (19 instead of
    // 38 GFLOP/s at 512³).
    UNROLL for (int i = 0; i < mr; i++) {
      row[i] += 4;
      KEEP(row[i]);
    }
  }
  for (; kc > 0; kc--) {
    step(mr, nv, row, b, 0, acc);
    b += 4 * nv;
    UNROLL for (int i = 0; i < mr; i++) row[i]++;
  }
  UNROLL for (int i = 0; i < mr; i++)
    UNROLL for (int j = 0; j < nv; j++) st(c + i * ldc + 4 * j, add4(ld(init + i * ldi + 4 * j), acc[i][j]));
}

typedef void Tile(const float *a, size_t lda, const float *b, const float *init, size_t ldi, float *c, size_t ldc,
                  size_t kc);

// Functions of their own, so that the engine's optimising compiler is done with them after a few calls.
#define TILE(mr, nv)                                                                                              \
  NOINLINE void tile_##mr##x##nv(const float *a, size_t lda, const float *b, const float *init, size_t ldi,       \
                                 float *c, size_t ldc, size_t kc) {                                               \
    tile(mr, nv, a, lda, b, init, ldi, c, ldc, kc);                                                               \
  }
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
static Tile *const NARROW[MR] = {tile_1x1, tile_2x1, tile_3x1, tile_4x1, tile_5x1, tile_6x1};
static Tile *const WIDE[MR] = {tile_1x2, tile_2x2, tile_3x2, tile_4x2, tile_5x2, tile_6x2};

// A tile whose last columns lie outside of C, through a full tile on the stack. n columns are real.
NOINLINE void edge_tile(size_t mr, size_t n, const float *a, size_t lda, const float *b, const float *init, size_t ldi,
                        float *c, size_t ldc, size_t kc) {
  float full[MR * NR];
  for (size_t i = 0; i < mr; i++)
    for (size_t j = 0; j < NR; j++) full[i * NR + j] = j < n ? init[i * ldi + j] : 0.0f;
  (n > 4 ? WIDE : NARROW)[mr - 1](a, lda, b, full, NR, full, NR, kc);
  for (size_t i = 0; i < mr; i++)
    for (size_t j = 0; j < n; j++) c[i * ldc + j] = full[i * NR + j];
}

// Up to four stored rows of B (or none: zeros) become columns of a panel: out[k·width + 0…3].
INLINE void pack_four_rows(const float *B, size_t ldb, size_t rows, size_t kc, float *out, size_t width) {
  const float *r0 = B, *r1 = B + (rows > 1 ? ldb : 0), *r2 = B + (rows > 2 ? 2 * ldb : 0),
              *r3 = B + (rows > 3 ? 3 * ldb : 0);
  size_t k = 0;
  for (; k + 4 <= kc; k += 4) {
    f4 in[4] = {ld(r0 + k), ld(r1 + k), ld(r2 + k), ld(r3 + k)}, t[4];
    transpose4(in, t);
    st(out + k * width, t[0]);
    st(out + (k + 1) * width, t[1]);
    st(out + (k + 2) * width, t[2]);
    st(out + (k + 3) * width, t[3]);
  }
  for (; k < kc; k++) st(out + k * width, wasm_f32x4_make(r0[k], r1[k], r2[k], r3[k]));
}

// B[k0…k0+kc, n0…n0+nc] → panels of 8 columns (the last of 4 when 4 or fewer remain). Columns past the end hold
// copies of real ones: their products are computed and thrown away.
NOINLINE void pack_floats(const float *B, size_t ldb, int transB, size_t nc, size_t kc, float *out) {
  for (size_t n = 0; n < nc; n += NR) {
    size_t left = nc - n, width = left > 4 ? NR : 4;
    if (transB) {
      pack_four_rows(B + n * ldb, ldb, left, kc, out, width);
      if (width == NR) pack_four_rows(B + (n + 4) * ldb, ldb, left - 4, kc, out + 4, width);
    } else if (left >= NR) {
      for (size_t k = 0; k < kc; k++) {
        st(out + k * NR, ld(B + k * ldb + n));
        st(out + k * NR + 4, ld(B + k * ldb + n + 4));
      }
    } else {
      for (size_t k = 0; k < kc; k++)
        for (size_t j = 0; j < width; j++) out[k * width + j] = j < left ? B[k * ldb + n + j] : 0.0f;
    }
    out += width * kc;
  }
}

NOINLINE void pack_b(Stored b, size_t ldb, int transB, size_t nc, size_t kc, float *out) {
  if (b.format == F32) {
    pack_floats(b.data, ldb, transB, nc, kc, out);
    return;
  }
  for (size_t n = 0; n < nc; n += COLUMNS) {
    size_t columns = least(nc - n, COLUMNS), rows = transB ? columns : kc, length = transB ? kc : columns;
    const float *part = widened(from(b, transB ? n * ldb : n), ldb, rows, length);
    pack_floats(part, length, transB, columns, kc, out + n * kc);
  }
}

// Stored A is [K, M]: A[k0…k0+kc, m0…m0+mc] → mc rows of `width` floats, the first kc of each in use.
NOINLINE void pack_a(const float *A, size_t lda, size_t mc, size_t kc, size_t width, float *out) {
  for (size_t k = 0; k < kc; k += 4) pack_four_rows(A + k * lda, lda, kc - k, mc, out + k, width);
}

// Sizes of equal blocks of at most `most`, multiples of `unit` unless there is but one.
INLINE size_t block(size_t size, size_t most, size_t unit) {
  size_t blocks = (size + most - 1) / most;
  return blocks <= 1 ? size : ((size + blocks - 1) / blocks + unit - 1) / unit * unit;
}

// Floats in a row of packed A: whole vectors, and four more so that rows do not fall into the same cache sets.
INLINE size_t packed_width(size_t kc) {
  return (kc + 3) / 4 * 4 + 4;
}

typedef struct {
  const float *b, *bias;
  size_t lda, ldc, n, kc;
  int accumulate;
} Panels;

// One strip of rows of A against all panels of packed B.
NOINLINE void strip_times_panels(const Panels *s, const float *a, size_t rows, float *c) {
  const float *b = s->b;
  size_t ldi = s->accumulate ? s->ldc : 0;
  for (size_t j = 0; j < s->n; j += NR) {
    const float *init = s->accumulate ? c + j : s->bias ? s->bias + j : ZEROS;
    if (s->n - j >= NR) WIDE[rows - 1](a, s->lda, b, init, ldi, c + j, s->ldc, s->kc);
    else edge_tile(rows, s->n - j, a, s->lda, b, init, ldi, c + j, s->ldc, s->kc);
    b += NR * s->kc;
  }
}

// Strips of MR rows; the last two share what is left, so that none has one or two rows alone.
NOINLINE void rows_times_panels(const Panels *s, const float *a, size_t M, float *c) {
  for (size_t m = 0, rows; m < M; m += rows) {
    size_t left = M - m;
    rows = left == MR + 1 || left == MR + 2 ? 4 : left < MR ? left : MR;
    strip_times_panels(s, a + m * s->lda, rows, c + m * s->ldc);
  }
}

NOINLINE void columns_times_panels(Panels s, const float *a, size_t M, float *c, float *packed) {
  size_t width = packed_width(s.kc), lda = s.lda;
  s.lda = width;
  for (size_t m = 0; m < M; m += MC) {
    size_t mc = M - m < MC ? M - m : MC;
    pack_a(a + m, lda, mc, s.kc, width, packed);
    rows_times_panels(&s, packed, mc, c + m * s.ldc);
  }
}

#define FEW 3      // so few rows of A go over B as it lies: packing it would cost more than it saves
#define STRIP 512  // elements of a row of B that are widened at once on this way

// C[i, n] = init[i, n] + A[i, :] · B[n, :] for m ≤ FEW rows of A. One row of B after the other reads memory in order,
// which beats four at once here: 31 against 23 GB/s at 2560×2560, on Node 20. `chains` sums a row keep the adders busy.
INLINE void few_rows(const int m, const int chains, const int widens, const float *A, size_t lda, Stored B, size_t ldb,
                     float *C, size_t row, size_t column, const float *init, size_t init_row, size_t init_column,
                     size_t N, size_t K) {
  if (!widens) B.format = F32;
  for (size_t n = 0; n < N; n++) {
    Stored b = from(B, n * ldb);
    const float *r = b.data, *x[FEW];
    f4 s[FEW][4];
    UNROLL for (int i = 0; i < m; i++) {
      x[i] = A + i * lda;
      UNROLL for (int j = 0; j < chains; j++) s[i][j] = zero4();
    }
    size_t k, left = K;
    do {
      k = widens ? least(left, STRIP) : left;
      left -= k;
      if (widens) r = widened(b, 0, 1, k), b = from(b, STRIP);
      for (; k >= 16; k -= 16) {
        UNROLL for (int j = 0; j < 4; j++)
          UNROLL for (int i = 0; i < m; i++)
            s[i][j % chains] = fma4(ld(r + 4 * j), ld(x[i] + 4 * j), s[i][j % chains]);
        r += 16;
        KEEP(r);
        UNROLL for (int i = 0; i < m; i++) {
          x[i] += 16;
          KEEP(x[i]);
        }
      }
    } while (left > 0);
    for (; k >= 4; k -= 4, r += 4)
      UNROLL for (int i = 0; i < m; i++) {
        s[i][0] = fma4(ld(r), ld(x[i]), s[i][0]);
        x[i] += 4;
      }
    UNROLL for (int i = 0; i < m; i++) {
      UNROLL for (int j = 1; j < chains; j++) s[i][0] = add4(s[i][0], s[i][j]);
      float sum = sum4(s[i][0]);
      for (size_t j = 0; j < k; j++) sum += r[j] * x[i][j];
      C[i * row + n * column] = sum + init[i * init_row + n * init_column];
    }
  }
}

typedef void Few(const float *A, size_t lda, Stored B, size_t ldb, float *C, size_t row, size_t column,
                 const float *init, size_t init_row, size_t init_column, size_t N, size_t K);

#define FEW_ROWS(name, m, chains, widens)                                                                         \
  NOINLINE void name(const float *A, size_t lda, Stored B, size_t ldb, float *C, size_t row, size_t column,       \
                     const float *init, size_t init_row, size_t init_column, size_t N, size_t K) {                \
    few_rows(m, chains, widens, A, lda, B, ldb, C, row, column, init, init_row, init_column, N, K);               \
  }
FEW_ROWS(rows_1, 1, 4, 0) FEW_ROWS(rows_2, 2, 2, 0) FEW_ROWS(rows_3, 3, 2, 0)
FEW_ROWS(widened_1, 1, 4, 1) FEW_ROWS(widened_2, 2, 2, 1) FEW_ROWS(widened_3, 3, 2, 1)
static Few *const ROWS_OF[FEW] = {rows_1, rows_2, rows_3}, *const WIDENED[FEW] = {widened_1, widened_2, widened_3};

// y[n] += Σ_k x[k·incx]·B[k, n]: four rows of B at once, y in cache. y holds its start value.
NOINLINE void vector_times_rows(const float *x, size_t incx, const float *B, size_t ldb, float *y, size_t N,
                                size_t K) {
  for (size_t k = 0; k < K;) {
    size_t rows = K - k < 4 ? 1 : 4;
    const float *r0 = B + k * ldb, *r1 = r0 + ldb, *r2 = r1 + ldb, *r3 = r2 + ldb;
    float w0 = x[k * incx], w1 = 0, w2 = 0, w3 = 0;
    if (rows == 4) w1 = x[(k + 1) * incx], w2 = x[(k + 2) * incx], w3 = x[(k + 3) * incx];
    else r1 = r2 = r3 = r0;
    f4 v0 = splat(w0), v1 = splat(w1), v2 = splat(w2), v3 = splat(w3);
    size_t n = 0;
    if (rows == 4) {
      for (; n + 4 <= N; n += 4) {
        f4 s = fma4(ld(r1 + n), v1, fma4(ld(r0 + n), v0, ld(y + n)));
        st(y + n, fma4(ld(r3 + n), v3, fma4(ld(r2 + n), v2, s)));
      }
      for (; n < N; n++) y[n] += w0 * r0[n] + w1 * r1[n] + (w2 * r2[n] + w3 * r3[n]);
    } else {
      for (; n + 4 <= N; n += 4) st(y + n, fma4(ld(r0 + n), v0, ld(y + n)));
      for (; n < N; n++) y[n] += w0 * r0[n];
    }
    k += rows;
  }
}

// A few rows, or columns, of output. False when the operands do not lie so that they can be read in order.
INLINE int thin_product(const float *A, size_t lda, int transA, Stored B, size_t ldb, int transB, float *C,
                        size_t ldc, const float *bias, size_t M, size_t N, size_t K, int accumulate) {
  const float *init = accumulate ? C : bias ? bias : ZEROS;
  int plain = B.format == F32;
  if (M <= FEW && M > 0 && transB && (!transA || (M == 1 && lda == 1))) {
    Few *rows = (plain ? ROWS_OF : WIDENED)[M - 1];
    rows(A, lda, B, ldb, C, ldc, 1, init, accumulate ? ldc : 0, accumulate || bias ? 1 : 0, N, K);
    return 1;
  }
  if (M == 1 && !transB) {
    if (!accumulate)
      for (size_t n = 0; n < N; n++) C[n] = bias ? bias[n] : 0.0f;
    size_t incx = transA ? lda : 1;
    if (plain) vector_times_rows(A, incx, B.data, ldb, C, N, K);
    else
      for (size_t n = 0; n < N; n += STRIP)
        for (size_t k = 0; k < K; k += 8) {
          size_t columns = least(N - n, STRIP), rows = least(K - k, 8);
          const float *part = widened(from(B, k * ldb + n), ldb, rows, columns);
          vector_times_rows(A + k * incx, incx, part, columns, C + n, columns, rows);
        }
    return 1;
  }
  if (N <= FEW && N > 0 && plain && !transA && (transB || (N == 1 && ldb == 1))) {
    Stored rows = {A, F32, 0};
    ROWS_OF[N - 1](B.data, ldb, rows, lda, C, 1, ldc, init, accumulate || bias ? 1 : 0, accumulate ? ldc : 0, M, K);
    return 1;
  }
  return 0;
}

// C = A·B (+ C, or bias), sums over all of K in f32.
static void product(const float *A, size_t lda, int transA, Stored B, size_t ldb, int transB, float *C, size_t ldc,
                    const float *bias, size_t M, size_t N, size_t K, int accumulate, float *scratch) {
  if (thin_product(A, lda, transA, B, ldb, transB, C, ldc, bias, M, N, K, accumulate)) return;
  size_t unit = least_part(B.format);
  size_t kblock = block(K, KC, unit), nblock = (block(N, NC, unit) + NR - 1) / NR * NR;
  for (size_t n = 0; n < N; n += nblock) {
    size_t nc = N - n < nblock ? N - n : nblock, k = 0;
    do {  // once even for K = 0, which leaves the bias or zeros
      size_t kc = K - k < kblock ? K - k : kblock;
      pack_b(from(B, transB ? n * ldb + k : k * ldb + n), ldb, transB, nc, kc, scratch);
      Panels s = {scratch, bias ? bias + n : 0, lda, ldc, nc, kc, accumulate || k > 0};
      if (transA) columns_times_panels(s, A + k * lda, M, C + n, scratch + nblock * kblock);
      else rows_times_panels(&s, A + k, M, C + n);
      k += kblock;
    } while (k < K);
  }
}

#define LONG_K 4096  // from here on products over parts of K are summed in f64
#define LONG_M 384   // in blocks of C of so many rows and columns at most
#define LONG_N 512

// Elements of K that `product` may sum at once. A vector times rows of B adds them one after the other.
INLINE size_t part_of_k(size_t M, int transB) {
  return M == 1 && !transB ? 512 : LONG_K;
}

// Columns of a block; for a vector all, so that rows of B are read whole.
INLINE size_t long_columns(size_t M, size_t N) {
  return M == 1 ? N : least(N, LONG_N);
}

size_t matmul_scratch_floats(size_t M, size_t N, size_t K, int transA) {
  size_t kc = block(K, KC, COLUMNS), nc = (block(N, NC, COLUMNS) + NR - 1) / NR * NR;
  size_t packed = nc * kc + (transA ? least(M, MC) * packed_width(kc) : 0);
  if (K <= part_of_k(M, 0)) return packed;
  return (packed + 1) / 2 * 2 + 3 * least(M, LONG_M) * long_columns(M, N);
}

// One block of C over a long K; `sums` has room for M·N doubles, `part` for as many floats.
static void long_product(const float *A, size_t lda, int transA, Stored B, size_t ldb, int transB, float *C,
                         size_t ldc, const float *bias, size_t M, size_t N, size_t K, int accumulate, double *sums,
                         float *part, float *scratch) {
  for (size_t m = 0; m < M; m++)
    for (size_t n = 0; n < N; n++) sums[m * N + n] = accumulate ? C[m * ldc + n] : bias ? bias[n] : 0.0f;
  size_t step = part_of_k(M, transB);
  for (size_t k = 0; k < K; k += step) {
    Stored b = from(B, transB ? k : k * ldb);
    product(A + (transA ? k * lda : k), lda, transA, b, ldb, transB, part, N, 0, M, N, least(K - k, step), 0, scratch);
    for (size_t i = 0; i < M * N; i++) sums[i] += part[i];
  }
  for (size_t m = 0; m < M; m++)
    for (size_t n = 0; n < N; n++) C[m * ldc + n] = (float)sums[m * N + n];
}

NOINLINE void any_product(const float *A, size_t lda, int transA, Stored B, size_t ldb, int transB, float *C,
                          size_t ldc, const float *bias, size_t M, size_t N, size_t K, int accumulate,
                          float *scratch) {
  if (K <= part_of_k(M, transB)) {
    product(A, lda, transA, B, ldb, transB, C, ldc, bias, M, N, K, accumulate, scratch);
    return;
  }
  size_t rows = least(M, LONG_M), columns = long_columns(M, N);
  size_t room = matmul_scratch_floats(M, N, K, transA) - 3 * rows * columns;
  if (M <= FEW && transB) columns = 1;  // a row of B after the other, as `few_rows` reads them
  double *sums = (double *)(scratch + room);
  float *part = scratch + room + 2 * rows * columns;
  for (size_t m = 0; m < M; m += rows)
    for (size_t n = 0; n < N; n += columns)
      long_product(A + (transA ? m : m * lda), lda, transA, from(B, transB ? n * ldb : n), ldb, transB,
                   C + m * ldc + n, ldc, bias ? bias + n : 0, least(M - m, rows), least(N - n, columns), K, accumulate,
                   sums, part, scratch);
}

void matmul(const float *A, size_t lda, int transA, const float *B, size_t ldb, int transB, float *C, size_t ldc,
            const float *bias, size_t M, size_t N, size_t K, int accumulate, float *scratch) {
  Stored b = {B, F32, 0};
  any_product(A, lda, transA, b, ldb, transB, C, ldc, bias, M, N, K, accumulate, scratch);
}

// Bytes of scratch for `gemm` and `gemm_batched`: at most about 3 MiB, or 12 bytes a column for a vector.
size_t EXPORT(gemm_scratch)(size_t M, size_t N, size_t K, int transA) {
  return 4 * (ROOM + matmul_scratch_floats(M, N, K, transA));
}

// C[M,N] = op(A)·op(B) + (accumulate ? C : bias ? bias[N] : 0). A is [M,K], or [K,M] when transA; B is [K,N], or [N,K]
// when transB, stored in `format`. Linear: y = gemm(x, W, NT), dx = gemm(dy, W, NN), dW = gemm(dy, x, TN).
void EXPORT(gemm)(const float *A, const void *B, size_t format, float *C, const float *_Nullable bias, size_t M,
                  size_t N, size_t K, int transA, int transB, int accumulate, float *scratch) {
  Stored b = {B, format, scratch};
  any_product(A, transA ? M : K, transA, b, transB ? K : N, transB, C, N, bias, M, N, K, accumulate, scratch + ROOM);
}

// `batch` products; strides in elements from one to the next, 0 repeats that operand. No bias.
void EXPORT(gemm_batched)(const float *A, const void *B, size_t format, float *C, size_t batch, size_t strideA,
                          size_t strideB, size_t strideC, size_t M, size_t N, size_t K, int transA, int transB,
                          int accumulate, float *scratch) {
  Stored b = {B, format, scratch};
  for (size_t i = 0; i < batch; i++)
    any_product(A + i * strideA, transA ? M : K, transA, from(b, i * strideB), transB ? K : N, transB, C + i * strideC,
                N, 0, M, N, K, accumulate, scratch + ROOM);
}
