/**
 * What the kernel library exports. Pointers are byte offsets into the memory; tensors are contiguous, row-major f32
 * unless said otherwise; sizes are counts of elements; flags are 0 or 1; a pointer of 0 leaves an optional operand out.
 * `scratch` is room of at least as many bytes as the function's `…_scratch` says. Nothing is allocated or kept.
 */
export interface KernelExports {
  /** Where the heap may start, in bytes. */
  readonly __heap_base: WebAssembly.Global;

  /** Bytes of scratch for `gemm` and `gemm_batched`: at most about 700 KiB, whatever the sizes. */
  gemm_scratch(M: number, N: number, K: number, transA: number): number;
  /**
   * C[M,N] = op(A)·op(B) + (accumulate ? C : bias ? bias[N] : 0). A is [M,K], or [K,M] when transA; B is [K,N], or
   * [N,K] when transB. Linear: y = gemm(x, W, NT), dx = gemm(dy, W, NN), dW = gemm(dy, x, TN).
   */
  gemm(
    A: number,
    B: number,
    C: number,
    bias: number,
    M: number,
    N: number,
    K: number,
    transA: number,
    transB: number,
    accumulate: number,
    scratch: number,
  ): void;
  /** `batch` products; strides in floats from one to the next, 0 repeats that operand. No bias. */
  gemm_batched(
    A: number,
    B: number,
    C: number,
    batch: number,
    strideA: number,
    strideB: number,
    strideC: number,
    M: number,
    N: number,
    K: number,
    transA: number,
    transB: number,
    accumulate: number,
    scratch: number,
  ): void;
}
