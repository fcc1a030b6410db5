import { applyFlat } from '../../engine/apply.ts';
import type { Backend } from '../../engine/backend.ts';
import { definedOps } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import {
  adamwStep,
  addInto,
  addScalar,
  all,
  any,
  arange,
  argmin,
  attentionStep_,
  cast,
  causalConv1dStep_,
  chooseToken_,
  clone,
  copy_,
  dropout,
  elu,
  eq,
  fill,
  ge,
  gradNorm,
  gt,
  increment_,
  isinf,
  isnan,
  l2Distance,
  le,
  leakyRelu,
  linears,
  linearSum,
  logicalAnd,
  logicalNot,
  logicalOr,
  lt,
  maskedFill,
  mulScalar,
  ne,
  prod,
  rand,
  randn,
  remainder,
  scatterAdd,
  silu,
  sort,
  std,
  ssdStep_,
  topk,
  unary,
  variance,
} from '../../ops/index.ts';
import { random } from './agree.ts';
import type { HostTensor } from './golden-types.ts';

/** A call of an op that the golden vectors, which torch wrote, do not reach. */
export interface MoreCase {
  readonly id: string;
  readonly inputs: readonly HostTensor[];
  /** Whether its gradient is to be held against differences. */
  readonly differentiable: boolean;
  /** By how much inputs, and in what steps the gradient of an output, move: where the op rounds to a grid. */
  readonly grid?: number;
  run(inputs: Tensor[], backend: Backend): Tensor[];
}

function f32(shape: number[], seed: number, map: (v: number) => number = (v) => v): HostTensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return { shape, data: random(size, seed).map(map), dtype: 'f32' };
}

const SHAPE = [5, 7];
const EIGHTH = 1 / 8;
const onGrid = (v: number) => Math.round(v / EIGHTH) * EIGHTH;

/** A copy of the first input after `change` wrote to it. */
function inPlace(change: (dst: Tensor, others: Tensor[]) => void): MoreCase['run'] {
  return ([x, ...others]) => {
    const dst = noGrad(() => clone(x));
    change(dst, others);
    return [dst];
  };
}

/** An op that no module exports, and what it is told. */
const fold = () => definedOps().find(({ name }) => name === 'fold')!;
const windows = {
  ...{ kernel: [2, 2], stride: [2, 2], padding: [1, 1], dilation: [1, 1] },
  ...{ image: [2, 3, 2, 3], outside: 0 },
};

const inputs = [f32(SHAPE, 1), f32(SHAPE, 2)];

export const moreCases: readonly MoreCase[] = [
  { id: 'add_scalar', inputs: [inputs[0]], differentiable: true, run: ([x]) => [addScalar(x, 0.75)] },
  { id: 'mul_scalar', inputs: [inputs[0]], differentiable: true, run: ([x]) => [mulScalar(x, -1.5)] },
  {
    id: 'fold, which only unfold calls',
    inputs: [f32([2, 4, 12], 8)],
    differentiable: true,
    run: ([y]) => [applyFlat(fold(), [y], windows)[0]!],
  },
  { id: 'clone', inputs: [inputs[0]], differentiable: true, run: ([x]) => [clone(x)] },
  ...(['floor', 'ceil', 'round', 'sign', 'softsign', 'mish', 'hardswish'] as const).map((name): MoreCase => ({
    id: name,
    inputs: [f32(SHAPE, 9, (v) => 4 * v)],
    differentiable: true,
    run: ([x]) => [unary(name, x)],
  })),
  {
    id: 'leaky_relu, elu',
    inputs: [f32(SHAPE, 9, (v) => 4 * v)],
    differentiable: true,
    run: ([x]) => [leakyRelu(x, 0.1), elu(x, 1.5)],
  },
  {
    id: 'remainder',
    inputs: [f32(SHAPE, 9, (v) => 4 * v), f32([7], 10, (v) => v + Math.sign(v))],
    differentiable: true,
    run: ([a, b]) => [remainder(a, b)],
  },
  {
    id: 'masked_fill',
    inputs: [inputs[0]],
    differentiable: true,
    run: ([x]) => [maskedFill(x, lt(x, mulScalar(x, 0.5)), -1)],
  },
  {
    id: 'scatter_add',
    inputs: [inputs[0], f32([4, 6], 2)],
    differentiable: true,
    run: ([x, src], b) => [scatterAdd(x, 1, fromData(b, [3, 0, 3, 9, 1, 0, 3, 5, 2], [3, 3], 'i32'), src)],
  },
  {
    id: 'comparisons and logic',
    inputs: [f32(SHAPE, 1, onGrid), f32(SHAPE, 2, onGrid)],
    differentiable: false,
    run: ([a, b]) => [
      ...[eq, ne, lt, le, gt, ge, logicalAnd, logicalOr].map((op) => op(a, b)),
      ...[logicalNot, isnan, isinf].map((op) => op(a)),
    ],
  },
  { id: 'rand, randn', inputs: [], differentiable: false, run: (_, b) => [rand(b, SHAPE, 5), randn(b, SHAPE, 6)] },
  { id: 'dropout', inputs: [inputs[0]], differentiable: true, run: ([x]) => [dropout(x, 0.3, 2 ** 40 + 5)] },
  { id: 'l2_distance', inputs, differentiable: true, run: ([a, b]) => [l2Distance(a, b)] },
  { id: 'topk', inputs: [f32(SHAPE, 3)], differentiable: true, run: ([x]) => topk(x, 3, 1) },
  { id: 'sort', inputs: [f32(SHAPE, 3)], differentiable: true, run: ([x]) => [...sort(x, 0), ...sort(x, 1, true)] },
  {
    id: 'std and var',
    inputs: [f32([4, 3, 5], 9)],
    differentiable: true,
    run: ([x]) => [std(x, { dim: [0, 2] }), variance(x), variance(x, { dim: 1, correction: 0.5, keepdim: true })],
  },
  { id: 'prod', inputs: [f32(SHAPE, 10)], differentiable: true, run: ([x]) => [prod(x, { dim: 1 }), prod(x, { dim: 0 })] },
  {
    id: 'any, all, argmin',
    inputs: [f32(SHAPE, 11, onGrid)],
    differentiable: false,
    run: ([x]) => [any(x, { dim: 1 }), all(x, { dim: [0] }), argmin(x, 1), argmin(x)],
  },
  ...(['f16', 'bf16'] as const).map((dtype): MoreCase => ({
    id: `cast to ${dtype} and back`,
    inputs: [f32(SHAPE, 4, onGrid)],
    differentiable: true,
    grid: EIGHTH,
    run: ([x]) => [cast(cast(x, dtype), 'f32')],
  })),
  {
    id: 'cast to integers',
    inputs: [f32(SHAPE, 5, (v) => 4 * v)],
    differentiable: false,
    run: ([x]) => [cast(x, 'i32'), cast(cast(x, 'i32'), 'u32'), cast(x, 'bool')],
  },
  { id: 'fill', inputs: [], differentiable: false, run: (_, b) => [fill(b, SHAPE, 2.5), fill(b, [3], 1, 'i32')] },
  {
    id: 'arange',
    inputs: [],
    differentiable: false,
    run: (_, b) => [arange(b, 9, { start: 2, step: 3 }), arange(b, 1, { step: 0.25, dtype: 'f32' })],
  },
  { id: 'copy_', inputs, differentiable: false, run: inPlace((dst, [src]) => copy_(dst, src)) },
  {
    id: 'causal_conv1d_step',
    inputs: [f32([2, 3, 5], 1), f32([2, 1, 5], 2), f32([5, 4], 3), f32([5], 4)],
    differentiable: false,
    run: ([before, x, w, bias]) => {
      const columns = clone(before);
      return [causalConv1dStep_(columns, x, w, bias, { activation: 'silu' }), columns];
    },
  },
  {
    id: 'ssd_step',
    inputs: [[2, 4, 3, 6], [2, 1, 2, 3], [2, 1, 4], [2, 1, 1, 6], [2, 1, 4, 6], [4], [4], [4]].map((s, i) => f32(s, i)),
    differentiable: false,
    run: ([before, x, dt, B, C, A_log, D, dt_bias]) => {
      const state = clone(before);
      return [ssdStep_(state, { x, dt, A_log, B, C, D, dt_bias }), state];
    },
  },
  {
    id: 'choose_token, increment',
    inputs: [f32(SHAPE, 8), f32([5, 2], 9, Math.abs)],
    differentiable: false,
    run: ([logits, draws], backend) => {
      const [token, position] = [fill(backend, [5, 1], 0, 'i32'), fill(backend, [1], 2, 'i32')];
      const seen = fill(backend, SHAPE, 0, 'u32');
      const before = fill(backend, [1], 0, 'i32');
      increment_(position, 3, before);
      chooseToken_(token, { logits, seen, draws, position }, { temperature: 1, topK: 4, topP: 0.9, repetitionPenalty: 2 });
      return [token, position, before, seen];
    },
  },
  {
    id: 'attention_step',
    inputs: [[2, 1, 4, 10], [2, 1, 2, 10], [2, 1, 2, 10], [2, 7, 2, 10], [2, 7, 2, 10]].map((s, i) => f32(s, i)),
    differentiable: false,
    run: ([q, k, v, ...caches], backend) => {
      const [keys, values] = caches.map((t) => clone(t));
      const [first, end] = [3, 4].map((n) => fromData(backend, [n], [1], 'i32'));
      return [attentionStep_({ q, k, v, keys, values, first, end }, { rotaryDim: 4, theta: 100 }), keys, values];
    },
  },
  {
    id: 'linears',
    inputs: [f32([2, 7], 1), f32([3, 7], 2), f32([3], 3), f32([6, 7], 4)],
    differentiable: false,
    run: ([x, w0, b0, w1]) =>
      noGrad(() => linears(x, [{ weight: w0, bias: b0, activation: silu }, { weight: w1, bias: null }])),
  },
  {
    id: 'linear_sum',
    inputs: [[2, 7], [2, 3], [7, 3], [7], [2, 6], [7, 6]].map((s, i) => f32(s, i)),
    differentiable: false,
    run: ([x, a, w0, b0, b, w1]) =>
      noGrad(() => [linearSum(x, [[a, { weight: w0, bias: b0 }], [b, { weight: w1, bias: null }]])]),
  },
  { id: 'add_into', inputs, differentiable: false, run: inPlace((dst, [src]) => addInto(dst, src, 0.5)) },
  { id: 'grad norm', inputs, differentiable: false, run: (grads) => [gradNorm(grads, 0.5)] },
  {
    id: 'adamw',
    inputs: [...inputs, f32(SHAPE, 6), f32(SHAPE, 7, (v) => v * v)],
    differentiable: false,
    run: ([x, grad, m, v], backend) => {
      const [param, first, second] = [x, m, v].map((t) => noGrad(() => clone(t)));
      const [step, before] = [scalar(backend, 0), fromData(backend, [5, 1], [2])];
      const given = { stats: fromData(backend, [2, 0.5, 1], [3]), lr: scalar(backend, 1e-2) };
      const rates = { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 } as const;
      adamwStep({ param, grad, m: first, v: second, step, before, index: 1, ...given, ...rates });
      return [param, first, second, step];
    },
  },
];
