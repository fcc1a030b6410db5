// Made by wasm/build.mjs from the prototypes in wasm/src. Change those, not this.

/** Where an operand of a call begins, or is `offset` bytes in: which of the call's buffers it lies in. */
export interface Address {
  readonly slot: number;
  readonly offset?: number;
}

/**
 * The C kernels. Pointers are `P`: what stands for an address while a call is planned, a number where it is made.
 * Tensors are contiguous and row-major, f32 unless said otherwise; sizes are counts of elements; flags are 0 or 1; a
 * pointer that may be undefined leaves an optional operand out. `scratch` is room of at least as many bytes as the
 * function's `…_scratch` says. Nothing is allocated or kept.
 */
export interface KernelCalls<P = Address> {
  /** o = softmax(scale·q·kᵀ)·v. q, o (B, H, L, D), k, v (B, KV, S, D), heads and tokens laid out as the strides (in floats) say; query head h reads key head h/(H/KV). mask, or null, lies at b·mask_batch + h·mask_head + query·mask_token + key: i32, where 0 hides a key, or with `additive` f32, added to scaled scores. counts, or null: how many of the first keys exist, for each b an i32 at b·count_step. causal is aligned to the end of those. scale > 0. stats (B, H, L, 2) is for the backward; a query that sees no key gets o = 0. */
  attention(q: P, k: P, v: P, mask: P | undefined, counts: P | undefined, count_step: number, o: P, stats: P, B: number, H: number, KV: number, L: number, S: number, D: number, q_head: number, q_token: number, k_head: number, k_token: number, mask_batch: number, mask_head: number, mask_token: number, additive: number, scale: number, causal: number, scratch: P): void;

  /** Gradients of `attention`; dout has the layout of o. Each of dq, dk, dv may be 0. All are overwritten. */
  attention_backward(q: P, k: P, v: P, mask: P | undefined, o: P, stats: P, dout: P, dq: P | undefined, dk: P | undefined, dv: P | undefined, B: number, H: number, KV: number, L: number, S: number, D: number, q_head: number, q_token: number, k_head: number, k_token: number, mask_batch: number, mask_head: number, mask_token: number, additive: number, scale: number, causal: number, scratch: P): void;

  /** name: both [n]; name_rows: b is [n], a is [rows, n]; name_cols: b is [rows] (rows = 1: a scalar). */
  add(a: P, b: P, y: P, n: number): void;

  add_rows(a: P, b: P, y: P, rows: number, n: number): void;

  add_cols(a: P, b: P, y: P, rows: number, n: number): void;

  sub(a: P, b: P, y: P, n: number): void;

  sub_rows(a: P, b: P, y: P, rows: number, n: number): void;

  sub_cols(a: P, b: P, y: P, rows: number, n: number): void;

  mul(a: P, b: P, y: P, n: number): void;

  mul_rows(a: P, b: P, y: P, rows: number, n: number): void;

  mul_cols(a: P, b: P, y: P, rows: number, n: number): void;

  div(a: P, b: P, y: P, n: number): void;

  div_rows(a: P, b: P, y: P, rows: number, n: number): void;

  div_cols(a: P, b: P, y: P, rows: number, n: number): void;

  rsub(a: P, b: P, y: P, n: number): void;

  rsub_rows(a: P, b: P, y: P, rows: number, n: number): void;

  rsub_cols(a: P, b: P, y: P, rows: number, n: number): void;

  /** b − a and b/a: for a first operand that is broadcast */
  rdiv(a: P, b: P, y: P, n: number): void;

  rdiv_rows(a: P, b: P, y: P, rows: number, n: number): void;

  rdiv_cols(a: P, b: P, y: P, rows: number, n: number): void;

  maximum(a: P, b: P, y: P, n: number): void;

  maximum_rows(a: P, b: P, y: P, rows: number, n: number): void;

  maximum_cols(a: P, b: P, y: P, rows: number, n: number): void;

  minimum(a: P, b: P, y: P, n: number): void;

  minimum_rows(a: P, b: P, y: P, rows: number, n: number): void;

  minimum_cols(a: P, b: P, y: P, rows: number, n: number): void;

  /** y = alpha·x + beta·y. With beta 0, y is not read: it may hold anything. */
  scale_add(x: P, y: P, n: number, alpha: number, beta: number): void;

  /** y = value. */
  fill(y: P, n: number, value: number): void;

  /** Depthwise causal convolution y[l] = act(bias + Σ_k w[k]·x[l−K+1+k]), w (C, K), K ≤ 8. x and y (B, C, L) with initial (B, C, K−1); tokenMajor: (B, L, C) with initial (B, K−1, C). bias and initial may be 0. silu: act. */
  causal_conv1d(x: P, w: P, bias: P | undefined, initial: P | undefined, y: P, B: number, C: number, L: number, K: number, token_major: number, silu: number, scratch: P): void;

  /** One token of `causal_conv1d`, token-major: columns (B, K−1, C) take it up where they lie. x: of sequence b behind b·x_row floats. y (B, C). */
  causal_conv1d_step(x: P, w: P, bias: P | undefined, columns: P, y: P, B: number, C: number, K: number, x_row: number, silu: number, scratch: P): void;

  /** Gradients of `causal_conv1d`; each of dx, dw, db, dinitial may be 0. All are overwritten. */
  causal_conv1d_backward(x: P, w: P, bias: P | undefined, initial: P | undefined, dy: P, dx: P | undefined, dw: P | undefined, db: P | undefined, dinitial: P | undefined, B: number, C: number, L: number, K: number, token_major: number, silu: number, scratch: P): void;

  /** Copies elements of 4 or 2 bytes between views of four dimensions: sizes s, strides f of x and t of y in elements, which may be 0 or negative. x and y point at the first element. start, unless null, is an i32: y moves on by as many times `step` elements, at least 0 and at most `most` times. */
  strided_copy(x: P, y: P, bytes: number, s0: number, s1: number, s2: number, s3: number, f0: number, f1: number, f2: number, f3: number, t0: number, t1: number, t2: number, t3: number, start: P | undefined, step: number, most: number): void;

  /** y[r] = table[indices[r]], rows of n stored in a format, which come out as f32; NaN where the index (i32) is not one of the table's `count` rows. */
  gather_rows(table: P, indices: P, y: P, rows: number, n: number, count: number, format: number): void;

  /** table[k] = Σ x[r] over the r with indices[r] = k, in their order, in f32 rows of n. Only indices that come often have sums in f64. */
  scatter_rows(x: P, indices: P, table: P, rows: number, n: number, count: number, sums: P): void;

  /** n elements stored in a format, to f32; in block formats a multiple of 64. */
  widen(stored: P, to: P, n: number, format: number): void;

  /** n f32 rounded to f16 or bf16. */
  narrow(from: P, stored: P, n: number, format: number): void;

  /** C[M,N] = op(A)·op(B) + (accumulate ? C : bias ? bias[N] : 0). A is [M,K], or [K,M] when transA; B is [K,N], or [N,K] when transB, stored in `format`. Linear: y = gemm(x, W, NT), dx = gemm(dy, W, NN), dW = gemm(dy, x, TN). */
  gemm(A: P, B: P, format: number, C: P, bias: P | undefined, M: number, N: number, K: number, transA: number, transB: number, accumulate: number, scratch: P): void;

  /** `batch` products; strides in elements from one to the next, 0 repeats that operand. No bias. */
  gemm_batched(A: P, B: P, format: number, C: P, batch: number, strideA: number, strideB: number, strideC: number, M: number, N: number, K: number, transA: number, transB: number, accumulate: number, scratch: P): void;

  /** Mean of −log softmax(logits)[label] over the rows [rows, n] whose label (i32) is not `ignore`; NaN where a label is no column. loss and factor (1/rows that count) are one float each; stats [rows, 2] holds each row's maximum and ln Σ e^(x − maximum). factor and stats are for the backward. */
  cross_entropy(logits: P, labels: P, loss: P, stats: P, factor: P, rows: number, n: number, ignore: number): void;

  /** dlogits = dy·factor·(softmax − one_hot), zeros where ignored. May work in place. */
  cross_entropy_backward(logits: P, labels: P, stats: P, factor: P, dy: P, dlogits: P, rows: number, n: number, ignore: number): void;

  /** Σ weights·KL(teacher ‖ student)·factor at temperature 1/k, where factor = scale, or scale / Σ weights. weights [rows] or null: 1. stats [rows, 5] (those of the student's row and of the teacher's, and 0) and factor [1] are for the backward. */
  kl_div(student: P, teacher: P, weights: P | undefined, loss: P, factor: P, stats: P, rows: number, n: number, k: number, scale: number, by_weight: number): void;

  /** dstudent = dy·factor·weight·k·(softmax(k·student) − softmax(k·teacher)). */
  kl_div_backward(student: P, teacher: P, stats: P, factor: P, dy: P, weights: P | undefined, dstudent: P, rows: number, n: number, k: number): void;

  /** Of the norms of n gradients: [their norm, what clips it to max_norm (0 does not clip), 1 if it and the loss (or null) are finite else 0]. */
  clip_scale(norms: P, loss: P | undefined, stats: P, n: number, max_norm: number): void;

  /** AdamW (Loshchilov & Hutter 2019) as torch has it: p ← p·(1 − lr·decay) − lr/c1·m/(√(v/c2) + eps), c = 1 − beta^t, for the parameter's t-th update; step becomes t, and before is what it was. stats: the gradient's norm, the factor that clips it, and 0 where it is not finite: then nothing changes. rate: lr. */
  adamw(p: P, g: P, m: P, v: P, step: P, before: P, stats: P, rate: P, n: number, beta1: number, beta2: number, eps: number, decay: number): void;

  /** Layer norm (mean ≠ 0), RMS norm (mean = 0) and gated RMS norm of `rows` runs of `group` channels; weights have `channels`, a multiple of group. gate 0: none; 1: u = x·silu(z) is normalised; 2: the result is multiplied by silu(z). y = (u − mean)·rstd·w + b. Writes mean and rstd [rows]. z and b may be 0. */
  norm(x: P, z: P | undefined, w: P, b: P | undefined, y: P, mean: P | undefined, rstd: P, rows: number, group: number, channels: number, eps: number, gate: number): void;

  /** Gradients of `norm` for x and z; dz may be 0. */
  norm_backward(x: P, z: P | undefined, w: P, mean: P | undefined, rstd: P, dy: P, dx: P | undefined, dz: P | undefined, rows: number, group: number, channels: number, gate: number): void;

  /** db may be null. dw and db take the sums of BLOCK_ROWS rows before these go to the sums in f64. */
  norm_weights_backward(x: P, z: P | undefined, mean: P | undefined, rstd: P, dy: P, dw: P, db: P | undefined, rows: number, group: number, channels: number, gate: number, sums: P): void;

  /** y[rows] = sums of the rows of x [rows, n], divided by `count`. */
  sum_last(x: P, y: P, rows: number, n: number, count: number): void;

  /** y[n] = sum over the rows of x [rows, n], divided by `count`. */
  sum_first(x: P, y: P, rows: number, n: number, count: number, sums: P): void;

  /** y[1] = ‖a − b‖, added up in f64. */
  l2_distance(a: P, b: P | undefined, y: P, n: number): void;

  /** da = dy·(a − b)/y, and 0 where y is; y and dy are one float each. */
  l2_distance_backward(a: P, b: P, y: P, dy: P, da: P, n: number): void;

  /** Softmax over the last dimension of [rows, n]. May work in place. */
  softmax(x: P, y: P, rows: number, n: number): void;

  /** dx = y·(dy − Σ y·dy) */
  softmax_backward(y: P, dy: P, dx: P, rows: number, n: number): void;

  /** y[rows] = ln Σ e^x over the last dimension. */
  logsumexp(x: P, y: P, rows: number, n: number): void;

  /** ln softmax over the last dimension. */
  log_softmax(x: P, y: P, rows: number, n: number): void;

  /** dx = dy − e^y·Σ dy */
  log_softmax_backward(y: P, dy: P, dx: P, rows: number, n: number): void;

  /** Rotary embedding of x [rows, dim]: dimension i < rotary/2 turns with i + rotary/2 by position·ratio^i, where ratio is theta^(−2/rotary). Row r is at (r / inner) mod length + offset (+ the i32 at `start`, unless 0). inverse = 1 is the backward. May work in place. */
  rope(x: P, start: P | undefined, y: P, rows: number, dim: number, length: number, inner: number, rotary: number, ratio: number, offset: number, inverse: number, table: P): void;

  /** The state space scan of Mamba-2: dt = softplus(dtRaw + dtBias), S ← exp(−dt·e^ALog)·S + dt·x ⊗ B, y = S·C + D·x. x, y (B, L, H, P); dtRaw (B, L, H); ALog, D, dtBias (H); Bs, Cs (B, L, G, N); initial, state (B, H, P, N). D, dtBias and initial may be 0. */
  ssd_scan(x: P, dt_raw: P, A_log: P, B: P, C: P, D: P | undefined, dt_bias: P | undefined, initial: P | undefined, y: P, state: P, batches: number, L: number, H: number, P: number, G: number, N: number, scratch: P): void;

  /** One token of `ssd_scan`: the states (B, H, P, N) are updated where they lie. Sequence b reads its values behind b·x_row, b·dt_row, … floats; head h reads x, B and C of head h/x_share, h/B_share, h/C_share. y (B, H, P). */
  ssd_step(x: P, dt_raw: P, B: P, C: P, A_log: P, D: P, dt_bias: P, state: P, y: P, batches: number, H: number, P: number, N: number, x_row: number, dt_row: number, B_row: number, C_row: number, x_share: number, B_share: number, C_share: number): void;

  /** Gradients of `ssd_scan`; all are overwritten. D, dtBias, initial, dstate and dALog, dD, ddtBias, dinitial may be 0. */
  ssd_scan_backward(x: P, dt_raw: P, A_log: P, B: P, C: P, D: P | undefined, dt_bias: P | undefined, initial: P | undefined, dy: P, dstate: P | undefined, dx: P, ddt: P, dA_log: P | undefined, dB: P, dC: P, dD: P | undefined, ddt_bias: P | undefined, dinitial: P | undefined, batches: number, L: number, H: number, P: number, G: number, N: number, scratch: P): void;

  neg(xs: P, ys: P, n: number): void;

  neg_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  abs(xs: P, ys: P, n: number): void;

  abs_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  exp(xs: P, ys: P, n: number): void;

  exp_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  log(xs: P, ys: P, n: number): void;

  log_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  sin(xs: P, ys: P, n: number): void;

  sin_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  cos(xs: P, ys: P, n: number): void;

  cos_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  tanh(xs: P, ys: P, n: number): void;

  tanh_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  sigmoid(xs: P, ys: P, n: number): void;

  sigmoid_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  relu(xs: P, ys: P, n: number): void;

  relu_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  silu(xs: P, ys: P, n: number): void;

  silu_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  softplus(xs: P, ys: P, n: number): void;

  softplus_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  gelu(xs: P, ys: P, n: number): void;

  gelu_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  gelu_tanh(xs: P, ys: P, n: number): void;

  gelu_tanh_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  erf(xs: P, ys: P, n: number): void;

  erf_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  square(xs: P, ys: P, n: number): void;

  square_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  sqrt(xs: P, ys: P, n: number): void;

  sqrt_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  rsqrt(xs: P, ys: P, n: number): void;

  rsqrt_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;

  reciprocal(xs: P, ys: P, n: number): void;

  reciprocal_backward(xs: P, ys: P, dys: P, dxs: P, n: number): void;
}

/** Bytes of scratch that kernels want. */
export interface Sizes {
  /** Bytes of scratch for both directions. */
  attention_scratch(length: number, dim: number): number;

  /** Bytes of scratch for both directions. */
  causal_conv1d_scratch(C: number, L: number, K: number, token_major: number): number;

  /** Bytes of scratch for scatter_rows. */
  scatter_rows_scratch(rows: number, n: number, count: number): number;

  /** Bytes of scratch for `gemm` and `gemm_batched`: at most about 3 MiB, or 12 bytes a column for a vector. */
  gemm_scratch(M: number, N: number, K: number, transA: number): number;

  /** Bytes of scratch for norm_weights_backward. */
  norm_weights_scratch(channels: number): number;

  /** Bytes of scratch for sum_first. */
  sum_first_scratch(rows: number, n: number): number;

  /** Bytes of scratch for `rope`. */
  rope_scratch(length: number, rotary: number): number;

  /** Bytes of scratch for `ssd_scan`. */
  ssd_scan_scratch(L: number): number;

  /** Bytes of scratch for `ssd_scan_backward`. */
  ssd_scan_backward_scratch(L: number, P: number, N: number): number;
}

/** What the library exports. */
export interface Kernels extends KernelCalls<number>, Sizes {
  /** Where the heap may start, in bytes. */
  readonly __heap_base: WebAssembly.Global;
}
