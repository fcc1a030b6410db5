import type { Backend } from '../engine/backend.ts';
import { elements } from '../engine/backend.ts';
import type { DType } from '../engine/dtype.ts';
import { keep } from '../engine/scope.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import {
  adamwStep,
  add,
  attention,
  backwardFrom,
  cat,
  causalConv1d,
  crossEntropy,
  distillLoss,
  geluTanh,
  layerNorm,
  linear,
  matmul2d,
  permute,
  reshape,
  rmsNormGated,
  rope,
  softmax,
  ssdScan,
  sum,
} from '../ops/index.ts';
import { Random } from '../models/nn/random.ts';

/** What one call does at the least, in floating-point operations or in bytes read and written. */
export interface Work {
  readonly amount: number;
  readonly unit: 'flop' | 'byte';
}

/** One op at one shape. `make` uploads its inputs and gives what is timed. */
export interface OpCase {
  readonly name: string;
  readonly work: Work;
  readonly make: (data: Inputs) => () => void;
}

const NOISE = 2 ** 18;

/** Seeded inputs of a case; freed together when it has been timed. */
export class Inputs {
  private readonly made: Tensor[] = [];
  private readonly random = new Random(1);

  constructor(readonly backend: Backend) {}

  f32(...shape: number[]): Tensor {
    return this.floats('f32', shape);
  }

  /** Uniform in ±1; repeats after NOISE elements. */
  floats(dtype: DType, shape: readonly number[]): Tensor {
    const data = new Float32Array(elements(shape));
    const noise = Float32Array.from({ length: Math.min(NOISE, data.length) }, () => this.random.uniform(-1, 1));
    for (let at = 0; at < data.length; at += NOISE) data.set(noise.subarray(0, data.length - at), at);
    return this.own(fromData(this.backend, data, shape, dtype));
  }

  /** Whole numbers from 0 to `below`. */
  i32(below: number, ...shape: number[]): Tensor {
    const data = Int32Array.from({ length: elements(shape) }, () => Math.floor(this.random.uniform(0, below)));
    return this.own(fromData(this.backend, data, shape, 'i32'));
  }

  values(...data: number[]): Tensor {
    return this.own(fromData(this.backend, data, [data.length]));
  }

  dispose(): void {
    for (const tensor of this.made) tensor.dispose();
  }

  private own(tensor: Tensor): Tensor {
    this.made.push(keep(tensor));
    return tensor;
  }
}

const flops = (amount: number): Work => ({ amount, unit: 'flop' });
/** Bytes of that many 32-bit words. */
const words = (amount: number): Work => ({ amount: 4 * amount, unit: 'byte' });

/** A forward pass and the gradients of `leaves`. */
function withBackward(data: Inputs, leaves: readonly Tensor[], forward: () => Tensor, shape: number[]): () => void {
  for (const leaf of leaves) leaf.requiresGrad = true;
  const grad = data.f32(...shape);
  return () => {
    backwardFrom([forward()], [grad]);
    for (const leaf of leaves) {
      leaf.grad!.dispose();
      leaf.grad = null;
    }
  };
}

function gemmCase(n: number): OpCase {
  return {
    name: `gemm ${n}×${n}×${n}`,
    work: flops(2 * n ** 3),
    make: (data) => {
      const [a, b] = [data.f32(n, n), data.f32(n, n)];
      return () => void matmul2d(a, b);
    },
  };
}

function linearCase(rows: number, from: number, to: number): OpCase {
  return {
    name: `linear ${rows}×${from}→${to}`,
    work: flops(2 * rows * from * to),
    make: (data) => {
      const [x, w, b] = [data.f32(rows, from), data.f32(to, from), data.f32(to)];
      return () => void linear(x, w, b);
    },
  };
}

function linearBackwardCase(rows: number, from: number, to: number): OpCase {
  return {
    name: `linear fwd+bwd ${rows}×${from}→${to}`,
    work: flops(6 * rows * from * to),
    make: (data) => {
      const [x, w, b] = [data.f32(rows, from), data.f32(to, from), data.f32(to)];
      return withBackward(data, [x, w, b], () => linear(x, w, b), [rows, to]);
    },
  };
}

/** Decoding by a weight that is read once: bound by memory. */
function oneRowCase(from: number, to: number): OpCase {
  return { ...linearCase(1, from, to), work: words(from * to) };
}

interface AttentionShape {
  readonly what: string;
  readonly batch: number;
  readonly heads: number;
  readonly width: number;
  readonly queries: number;
  readonly keys: number;
  readonly backward?: boolean;
}

/** Causal; counts only the pairs that are seen. */
function attentionCase({ what, batch, heads, width, queries, keys, backward = false }: AttentionShape): OpCase {
  const pairs = queries * keys - (queries * (queries - 1)) / 2;
  const decoding = queries === 1;
  return {
    name: `attention ${what}${backward ? ' fwd+bwd' : ''} ${batch}×${heads}×${queries}/${keys}×${width}`,
    work: decoding
      ? words(2 * batch * heads * keys * width)
      : flops((backward ? 14 : 4) * batch * heads * width * pairs),
    make: (data) => {
      const q = data.f32(batch, queries, heads, width);
      const [k, v] = [data.f32(batch, keys, heads, width), data.f32(batch, keys, heads, width)];
      const run = () => attention(q, k, v, { causal: true, layout: 'blhd' });
      return backward ? withBackward(data, [q, k, v], run, [...q.shape]) : () => void run();
    },
  };
}

interface ScanShape {
  readonly what: string;
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly width: number;
  readonly backward?: boolean;
}

/** As many groups as heads, a state of the heads' width: the mixers of MaTVLM. Work is counted by the recurrence. */
function scanCase({ what, batch, length, heads, width, backward = false }: ScanShape): OpCase {
  return {
    name: `ssd_scan ${what}${backward ? ' fwd+bwd' : ''} ${batch}×${length}×${heads}×${width}`,
    work: flops((backward ? 15 : 5) * batch * length * heads * width * width),
    make: (data) => {
      const tokens = [batch, length, heads, width];
      const [x, B, C] = [data.f32(...tokens), data.f32(...tokens), data.f32(...tokens)];
      const [dt, A_log] = [data.f32(batch, length, heads), data.f32(heads)];
      const [D, dt_bias] = [data.f32(heads), data.f32(heads)];
      const run = () => ssdScan({ x, dt, A_log, B, C, D, dt_bias })[0];
      return backward ? withBackward(data, [x, dt, B, C], run, tokens) : () => void run();
    },
  };
}

function convCase(batch: number, length: number, channels: number): OpCase {
  return {
    name: `causal_conv1d+silu ${batch}×${length}×${channels}`,
    work: words(2 * batch * length * channels),
    make: (data) => {
      const [x, w, b] = [data.f32(batch, length, channels), data.f32(channels, 4), data.f32(channels)];
      return () => void causalConv1d(x, w, b, { activation: 'silu', layout: 'blc' });
    },
  };
}

/** An op that reads and writes whole tensors of `rows` × `columns`. */
function rowsCase(
  name: string,
  [rows, columns]: readonly [number, number],
  traffic: number,
  run: (x: Tensor, data: Inputs) => () => void,
): OpCase {
  const make = (data: Inputs) => run(data.f32(rows, columns), data);
  return { name: `${name} ${rows}×${columns}`, work: words(traffic * rows * columns), make };
}

const softmaxCase = (rows: number, columns: number) =>
  rowsCase('softmax', [rows, columns], 2, (x) => () => void softmax(x));

const layerNormCase = (rows: number, columns: number) =>
  rowsCase('layer_norm', [rows, columns], 2, (x, data) => {
    const [w, b] = [data.f32(columns), data.f32(columns)];
    return () => void layerNorm(x, w, b);
  });

const gatedNormCase = (rows: number, columns: number) =>
  rowsCase('rms_norm_gated', [rows, columns], 3, (x, data) => {
    const [z, w] = [data.f32(rows, columns), data.f32(columns)];
    return () => void rmsNormGated(x, z, w, { groupSize: 32 });
  });

const crossEntropyCase = (rows: number, columns: number) =>
  rowsCase('cross_entropy', [rows, columns], 1, (x, data) => {
    const labels = data.i32(columns, rows);
    return () => void crossEntropy(x, labels);
  });

const distillCase = (rows: number, columns: number) =>
  rowsCase('distill_loss kl', [rows, columns], 2, (x, data) => {
    const target = data.f32(rows, columns);
    return () => void distillLoss(x, target, { kind: 'kl', temperature: 1, reduction: 'batchmean' });
  });

const adamwCase = (rows: number, columns: number) =>
  rowsCase('adamw', [rows, columns], 7, (param, data) => {
    const [grad, m, v] = [data.f32(rows, columns), data.f32(rows, columns), data.f32(rows, columns)];
    const [step, lr] = [0, 1e-6].map((value) => reshape(data.values(value), []));
    const [before, stats] = [data.values(0), data.values(1, 1, 1)];
    const rates = { index: 0, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01 } as const;
    return () => adamwStep({ param, grad, m, v, step, before, stats, lr, ...rates });
  });

const addCase = (rows: number, columns: number) =>
  rowsCase('add', [rows, columns], 3, (x, data) => {
    const y = data.f32(rows, columns);
    return () => void add(x, y);
  });

const geluCase = (rows: number, columns: number) =>
  rowsCase('gelu_tanh', [rows, columns], 2, (x) => () => void geluTanh(x));

const sumCase = (rows: number, columns: number) => rowsCase('sum', [rows, columns], 1, (x) => () => void sum(x));
const columnSumCase = (rows: number, columns: number) =>
  rowsCase('sum over rows', [rows, columns], 1, (x) => () => void sum(x, { dim: 0 }));
const catCase = (rows: number, columns: number) =>
  rowsCase('cat of two', [rows, columns], 4, (x, data) => {
    const y = data.f32(rows, columns);
    return () => void cat([x, y], 1);
  });

function permuteCase(batch: number, length: number, heads: number, width: number): OpCase {
  return {
    name: `permute 0,2,1,3 ${batch}×${length}×${heads}×${width}`,
    work: words(2 * batch * length * heads * width),
    make: (data) => {
      const x = data.f32(batch, length, heads, width);
      return () => void permute(x, [0, 2, 1, 3]);
    },
  };
}

function ropeCase(batch: number, length: number, heads: number, width: number): OpCase {
  return {
    name: `rope ${batch}×${length}×${heads}×${width}`,
    work: words(2 * batch * length * heads * width),
    make: (data) => {
      const x = data.f32(batch, length, heads, width);
      return () => void rope(x, { rotaryDim: width / 2, theta: 10_000, offset: 0, layout: 'blhd' });
    },
  };
}

/** The tiny teacher and student at the batch of `npm start` (4 images of 66 positions, 80 questions of 14). */
const TINY: readonly OpCase[] = [
  linearCase(1536, 128, 512),
  linearBackwardCase(1536, 128, 512),
  linearCase(1536, 512, 128),
  oneRowCase(128, 512),
  attentionCase({ what: 'prefix', batch: 4, heads: 4, width: 32, queries: 66, keys: 66 }),
  attentionCase({ what: 'prefix', batch: 4, heads: 4, width: 32, queries: 66, keys: 66, backward: true }),
  attentionCase({ what: 'questions', batch: 80, heads: 4, width: 32, queries: 14, keys: 80 }),
  attentionCase({ what: 'decode', batch: 1, heads: 4, width: 32, queries: 1, keys: 80 }),
  scanCase({ what: 'prefix', batch: 4, length: 66, heads: 4, width: 32 }),
  scanCase({ what: 'prefix', batch: 4, length: 66, heads: 4, width: 32, backward: true }),
  scanCase({ what: 'questions', batch: 80, length: 14, heads: 4, width: 32 }),
  scanCase({ what: 'decode', batch: 1, length: 1, heads: 4, width: 32 }),
  convCase(80, 14, 384),
  softmaxCase(1120, 70),
  layerNormCase(1536, 128),
  gatedNormCase(1536, 128),
  ropeCase(80, 14, 4, 32),
  geluCase(1536, 512),
  addCase(1536, 128),
  permuteCase(80, 14, 4, 32),
  catCase(1120, 128),
  sumCase(1536, 512),
  columnSumCase(1536, 512),
  crossEntropyCase(1120, 70),
  distillCase(1120, 70),
  adamwCase(128, 512),
];

/** The usual yardsticks, and the widths of Phi-2 with 1,024 positions. */
const LARGE: readonly OpCase[] = [
  gemmCase(512),
  gemmCase(2048),
  gemmCase(4096),
  oneRowCase(2560, 10240),
  linearCase(1024, 2560, 10240),
  attentionCase({ what: 'prefix', batch: 1, heads: 32, width: 80, queries: 1024, keys: 1024 }),
  attentionCase({ what: 'decode', batch: 1, heads: 32, width: 80, queries: 1, keys: 1024 }),
  scanCase({ what: 'prefix', batch: 1, length: 1024, heads: 32, width: 80 }),
  convCase(1, 1024, 7680),
  softmaxCase(4096, 4096),
  layerNormCase(8192, 2560),
  addCase(8192, 2560),
  permuteCase(8, 1024, 32, 80),
  sumCase(8192, 2560),
  columnSumCase(8192, 2560),
  crossEntropyCase(256, 51200),
  adamwCase(2560, 10240),
];

export const OP_CASES: readonly OpCase[] = [...LARGE.slice(0, 3), ...TINY, ...LARGE.slice(3)];
