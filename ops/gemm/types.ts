/** Element type of a GEMM operand in storage; sums are always f32. */
export type GemmDType = 'f32' | 'f16';

/** What is applied to alpha·A·B + bias before it is stored; see `EPILOGUES` in gemm-parts.ts. */
export type GemmEpilogue = 'none' | 'relu' | 'silu' | 'gelu_tanh';

/** Where an operand lies inside its buffer; everything in elements. */
export interface GemmOperand {
  /** Default f32. */
  dtype?: GemmDType;
  /** First element. Default 0. */
  offset?: number;
  /** Distance between stored rows. Default: rows are contiguous. */
  ld?: number;
  /** Distances between matrices along the outer and the inner batch dimension; 0 broadcasts. Default: contiguous. */
  strides?: readonly [number, number];
}

/**
 * C[M,N] = epilogue(alpha · A·B + bias[N]), or C += that with `accumulate`.
 * A is stored [M,K], or [K,M] with `transA`; B is stored [K,N], or [N,K] with `transB` (a linear layer's weight).
 */
export interface GemmSpec {
  M: number;
  N: number;
  K: number;
  /** Outer and inner batch counts. Default [1, 1]. */
  batch?: readonly [number, number];
  transA?: boolean;
  transB?: boolean;
  a?: GemmOperand;
  b?: GemmOperand;
  c?: GemmOperand;
  /** Adds bias[N] (shared by all batches); give its dtype. */
  bias?: GemmDType;
  /** Default 1. */
  alpha?: number;
  accumulate?: boolean;
  epilogue?: GemmEpilogue;
}

/** What the device allows; read off the adapter's limits and features. */
export interface GemmCaps {
  /** `maxComputeWorkgroupStorageSize`, bytes. */
  maxWorkgroupMemory: number;
  /** `maxComputeInvocationsPerWorkgroup`. */
  maxInvocations: number;
  /** Feature `shader-f16`. */
  f16?: boolean;
  /** Streaming multiprocessors or cores to fill. WebGPU does not tell; default 132 (H200). */
  computeUnits?: number;
  /** A software adapter (lavapipe, SwiftShader): takes a kernel that compiles fast there. */
  cpu?: boolean;
}

/** A buffer of the call; `scratch` holds `GemmVariant.scratch` f32 elements and lives between the launches. */
export type GemmArg = 'a' | 'b' | 'bias' | 'c' | 'scratch';

/** One entry of bind group 0, in binding order: inputs, then the output. */
export interface GemmBinding {
  arg: GemmArg;
  access: 'read' | 'read_write';
}

/** One scalar of the uniform block (`@group(1) @binding(0)`), in struct order, four bytes each. */
export interface GemmParam {
  name: string;
  type: 'u32' | 'f32';
  value: number;
}

/** One dispatch. Equal keys mean equal code: cache the pipeline under `key`. */
export interface GemmLaunch {
  key: string;
  code: string;
  grid: [number, number, number];
  bindings: readonly GemmBinding[];
  params: readonly GemmParam[];
}

/** One dispatch, or two where K is split. */
export interface GemmVariant {
  launches: readonly GemmLaunch[];
  /** f32 elements of scratch that the launches share; 0 when none. */
  scratch: number;
  /** Chosen tile or kernel, for tables and profiles. */
  name: string;
  splits: number;
}

/** Shape of a register-tiled kernel: a workgroup makes bm×bn of C in steps of bk, a thread tm×tn of it. */
export interface Tile {
  name: string;
  bm: number;
  bn: number;
  bk: number;
  tm: number;
  tn: number;
  /** 2: the next tile is stored while the current one is read, one barrier a step. 1: half the memory, two barriers. */
  buffers: 1 | 2;
  /** Throughput on a GPU filled with it, TFLOP/s on an H200 (bench/gemm-webgpu.bench.ts); only ratios matter. */
  rate: number;
}
