// Matrix product with leading dimensions, for the kernels that are made of products (attention, scans).
#pragma once
#include "simd.h"

// Floats of scratch that `matmul` needs at most, whatever the sizes.
size_t matmul_scratch_floats(size_t M, size_t N, size_t K, int transA);

// C[M,N] = op(A)·op(B) + (accumulate ? C : bias ? bias[N] : 0). op(A) is M×K: A is [M,K], or [K,M] when transA;
// op(B) is K×N: B is [K,N], or [N,K] when transB. lda, ldb, ldc: floats from a row to the next as stored.
void matmul(const float *A, size_t lda, int transA, const float *B, size_t ldb, int transB, float *C, size_t ldc,
            const float *bias, size_t M, size_t N, size_t K, int accumulate, float *scratch);
