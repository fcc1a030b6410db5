/** Functions of one argument: `name` is y = f(x), `name_backward` is dx = dy·f′(x). May work in place. */
export type UnaryName =
  | 'neg'
  | 'abs'
  | 'exp'
  | 'log'
  | 'sin'
  | 'cos'
  | 'tanh'
  | 'sigmoid'
  | 'relu'
  | 'silu'
  | 'softplus'
  | 'gelu'
  | 'gelu_tanh'
  | 'erf'
  | 'square'
  | 'sqrt'
  | 'rsqrt'
  | 'reciprocal';

/**
 * Functions of two arguments of one shape; `_rows`: b is one row; `_cols`: b is one column (rows = 1: a scalar). rsub is
 * b − a, rdiv is b/a.
 */
export type BinaryName = 'add' | 'sub' | 'mul' | 'div' | 'maximum' | 'minimum' | 'rsub' | 'rdiv';

type ElementwiseExports = { readonly [K in UnaryName]: (x: number, y: number, n: number) => void } & {
  readonly [K in `${UnaryName}_backward`]: (x: number, y: number, dy: number, dx: number, n: number) => void;
} & { readonly [K in BinaryName]: (a: number, b: number, y: number, n: number) => void } & {
  readonly [K in `${BinaryName}_rows` | `${BinaryName}_cols`]: (
    a: number,
    b: number,
    y: number,
    rows: number,
    n: number,
  ) => void;
};

/**
 * What the kernel library exports. Pointers are byte offsets into the memory; tensors are contiguous, row-major f32
 * unless said otherwise; sizes are counts of elements; flags are 0 or 1; a pointer of 0 leaves an optional operand out.
 * `scratch` is room of at least as many bytes as the function's `…_scratch` says. Nothing is allocated or kept.
 */
export interface KernelExports extends ElementwiseExports {
  /** Where the heap may start, in bytes. */
  readonly __heap_base: WebAssembly.Global;

  /** Bytes of scratch for `gemm` and `gemm_batched`: at most about 3 MiB, or 12 bytes a column for a vector. */
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

  /** y = alpha·x + beta·y; with beta 0, y is not read. */
  scale_add(x: number, y: number, n: number, alpha: number, beta: number): void;
  /** y = value. */
  fill(y: number, n: number, value: number): void;

  /** y[rows] = sums of the rows of x [rows, n], divided by `count`. */
  sum_last(x: number, y: number, rows: number, n: number, count: number): void;
  sum_first_scratch(rows: number, n: number): number;
  /** y[n] = sum over the rows of x [rows, n], divided by `count`. */
  sum_first(x: number, y: number, rows: number, n: number, count: number, scratch: number): void;
  /** Sum of x², added up in f64. */
  sum_squares(x: number, n: number): number;
  /** y[1] = ‖a − b‖, added up in f64. */
  l2_distance(a: number, b: number, y: number, n: number): void;
  /** da = dy·(a − b)/y, and 0 where y is; y and dy are one float each. */
  l2_distance_backward(a: number, b: number, y: number, dy: number, da: number, n: number): void;

  /** Softmax over the last dimension of [rows, n]. May work in place. */
  softmax(x: number, y: number, rows: number, n: number): void;
  softmax_backward(y: number, dy: number, dx: number, rows: number, n: number): void;
  /** ln softmax over the last dimension. */
  log_softmax(x: number, y: number, rows: number, n: number): void;
  log_softmax_backward(y: number, dy: number, dx: number, rows: number, n: number): void;
  /** y[rows] = ln Σ e^x over the last dimension. */
  logsumexp(x: number, y: number, rows: number, n: number): void;

  /**
   * Layer norm (mean ≠ 0), RMS norm (mean = 0) and gated RMS norm of `rows` runs of `group` channels; weights have
   * `channels`, a multiple of group. gate 0: none; 1: u = x·silu(z) is normalised; 2: the result is multiplied by
   * silu(z). y = (u − mean)·rstd·w + b. Writes mean and rstd [rows]. z and b may be 0.
   */
  norm(
    x: number,
    z: number,
    w: number,
    b: number,
    y: number,
    mean: number,
    rstd: number,
    rows: number,
    group: number,
    channels: number,
    eps: number,
    gate: number,
  ): void;
  /** Gradients of `norm` for x and z; dz may be 0. */
  norm_backward(
    x: number,
    z: number,
    w: number,
    mean: number,
    rstd: number,
    dy: number,
    dx: number,
    dz: number,
    rows: number,
    group: number,
    channels: number,
    gate: number,
  ): void;
  norm_weights_scratch(channels: number): number;
  /** Gradients of `norm` for w and b; db may be 0. */
  norm_weights_backward(
    x: number,
    z: number,
    mean: number,
    rstd: number,
    dy: number,
    dw: number,
    db: number,
    rows: number,
    group: number,
    channels: number,
    gate: number,
    scratch: number,
  ): void;

  rope_scratch(length: number, rotary: number): number;
  /**
   * Rotary embedding of x [rows, dim]: dimension i < rotary/2 turns with i + rotary/2 by position·ratio^i, where ratio
   * is theta^(−2/rotary). Row r is at (r / inner) mod length + offset (+ the i32 at `start`, unless 0).
   * inverse = 1 is the backward. May work in place.
   */
  rope(
    x: number,
    start: number,
    y: number,
    rows: number,
    dim: number,
    length: number,
    inner: number,
    rotary: number,
    ratio: number,
    offset: number,
    inverse: number,
    scratch: number,
  ): void;

  causal_conv1d_scratch(C: number, L: number, K: number, tokenMajor: number): number;
  /**
   * Depthwise causal convolution y[l] = act(bias + Σ_k w[k]·x[l−K+1+k]), w (C, K), K ≤ 8. x and y (B, C, L) with
   * initial (B, C, K−1); tokenMajor: (B, L, C) with initial (B, K−1, C). bias and initial may be 0. silu: act.
   */
  causal_conv1d(
    x: number,
    w: number,
    bias: number,
    initial: number,
    y: number,
    B: number,
    C: number,
    L: number,
    K: number,
    tokenMajor: number,
    silu: number,
    scratch: number,
  ): void;
  /** Gradients of `causal_conv1d`; each of dx, dw, db, dinitial may be 0. All are overwritten. */
  causal_conv1d_backward(
    x: number,
    w: number,
    bias: number,
    initial: number,
    dy: number,
    dx: number,
    dw: number,
    db: number,
    dinitial: number,
    B: number,
    C: number,
    L: number,
    K: number,
    tokenMajor: number,
    silu: number,
    scratch: number,
  ): void;

  attention_scratch(L: number, D: number): number;
  /**
   * o = softmax(scale·q·kᵀ)·v. q, o (B, H, L, D), k, v (B, KV, S, D), heads and tokens laid out as the strides (in
   * floats) say; query head h reads key head h/(H/KV). mask: i32 (B, S), 0 hides a key; or 0. count: an i32, only that
   * many of the first keys exist; or 0. causal is aligned to the end. scale > 0. stats (B, H, L, 2) is for the
   * backward; a query that sees no key gets o = 0.
   */
  attention(
    q: number,
    k: number,
    v: number,
    mask: number,
    count: number,
    o: number,
    stats: number,
    B: number,
    H: number,
    KV: number,
    L: number,
    S: number,
    D: number,
    qHead: number,
    qToken: number,
    kHead: number,
    kToken: number,
    scale: number,
    causal: number,
    scratch: number,
  ): void;
  /** Gradients of `attention`; dout has the layout of o. Each of dq, dk, dv may be 0. All are overwritten. */
  attention_backward(
    q: number,
    k: number,
    v: number,
    mask: number,
    o: number,
    stats: number,
    dout: number,
    dq: number,
    dk: number,
    dv: number,
    B: number,
    H: number,
    KV: number,
    L: number,
    S: number,
    D: number,
    qHead: number,
    qToken: number,
    kHead: number,
    kToken: number,
    scale: number,
    causal: number,
    scratch: number,
  ): void;

  ssd_scan_scratch(L: number): number;
  /**
   * The state space scan of Mamba-2: dt = softplus(dtRaw + dtBias), S ← exp(−dt·e^ALog)·S + dt·x ⊗ B, y = S·C + D·x.
   * x, y (B, L, H, P); dtRaw (B, L, H); ALog, D, dtBias (H); Bs, Cs (B, L, G, N); initial, state (B, H, P, N).
   * D, dtBias and initial may be 0.
   */
  ssd_scan(
    x: number,
    dtRaw: number,
    ALog: number,
    Bs: number,
    Cs: number,
    D: number,
    dtBias: number,
    initial: number,
    y: number,
    state: number,
    B: number,
    L: number,
    H: number,
    P: number,
    G: number,
    N: number,
    scratch: number,
  ): void;
  ssd_scan_backward_scratch(L: number, P: number, N: number): number;
  /**
   * Gradients of `ssd_scan`; all are overwritten. D, dtBias, initial, dstate and dALog, dD, ddtBias, dinitial may
   * be 0.
   */
  ssd_scan_backward(
    x: number,
    dtRaw: number,
    ALog: number,
    Bs: number,
    Cs: number,
    D: number,
    dtBias: number,
    initial: number,
    dy: number,
    dstate: number,
    dx: number,
    ddtRaw: number,
    dALog: number,
    dBs: number,
    dCs: number,
    dD: number,
    ddtBias: number,
    dinitial: number,
    B: number,
    L: number,
    H: number,
    P: number,
    G: number,
    N: number,
    scratch: number,
  ): void;

  /**
   * Mean of −log softmax(logits)[label] over the rows [rows, n] whose label (i32) is not `ignore`; NaN where a label is
   * no column. loss and factor (1/rows that count) are one float each; stats [rows, 2] holds each row's maximum and
   * ln Σ e^(x − maximum). factor and stats are for the backward.
   */
  cross_entropy(
    logits: number,
    labels: number,
    loss: number,
    stats: number,
    factor: number,
    rows: number,
    n: number,
    ignore: number,
  ): void;
  /** dlogits = dy·factor·(softmax − one_hot), zeros where ignored. May work in place. */
  cross_entropy_backward(
    logits: number,
    labels: number,
    stats: number,
    factor: number,
    dy: number,
    dlogits: number,
    rows: number,
    n: number,
    ignore: number,
  ): void;
  /**
   * loss = factor·Σ weights·KL(teacher ‖ student) of softmax(k·logits), k = 1/temperature; factor = scale, or by weight
   * scale/Σ weights. weights [rows], or 0: ones. factor [1] and stats [rows, 5] are for the backward.
   */
  kl_div(
    student: number,
    teacher: number,
    weights: number,
    loss: number,
    factor: number,
    stats: number,
    rows: number,
    n: number,
    k: number,
    scale: number,
    byWeight: number,
  ): void;
  /** dstudent = dy·factor·weight·k·(softmax(k·student) − softmax(k·teacher)). */
  kl_div_backward(
    student: number,
    teacher: number,
    stats: number,
    factor: number,
    dy: number,
    weights: number,
    dstudent: number,
    rows: number,
    n: number,
    k: number,
  ): void;
  /**
   * AdamW as torch has it: p ← p·(1 − lr·decay) − lr/c1·m/(√(v/c2) + eps), c = 1 − beta^t where t is step + 1,
   * which goes to next. stats: f32 [norm, factor on the gradient, 0 to leave everything as it is].
   */
  adamw(
    p: number,
    g: number,
    m: number,
    v: number,
    step: number,
    next: number,
    stats: number,
    n: number,
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    decay: number,
  ): void;

  /**
   * Copies 32-bit words between views of four dimensions: sizes s, strides f of x and t of y in words, which may be 0
   * or negative. x and y point at the first element.
   */
  strided_copy(
    x: number,
    y: number,
    s0: number,
    s1: number,
    s2: number,
    s3: number,
    f0: number,
    f1: number,
    f2: number,
    f3: number,
    t0: number,
    t1: number,
    t2: number,
    t3: number,
  ): void;
  /** y[r] = table[indices[r]], f32 rows of n; NaN where the index (i32) is not one of the table's `count` rows. */
  gather_rows(table: number, indices: number, y: number, rows: number, n: number, count: number): void;
  scatter_rows_scratch(rows: number, n: number, count: number): number;
  /**
   * table[k] = sum of the x[r] with indices[r] = k, f32 rows of n; `count` rows in the table. Indices that name none of
   * them are left out.
   */
  scatter_rows(
    x: number,
    indices: number,
    table: number,
    rows: number,
    n: number,
    count: number,
    scratch: number,
  ): void;
}
