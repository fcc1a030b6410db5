import type { Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { type Case, dim, type Room, type Row, whole } from './case.ts';

const pair = { M: 5, N: 7 };
const on = (op: (x: Tensor) => Tensor | readonly Tensor[]): Case => [pair, (t, { M, N }) => op(t(M, N))];
const onGrid = (v: number) => Math.round(8 * v) / 8;

/** What reduces over some dimensions or all. */
const folds = { sum: ops.sum, mean: ops.mean, amax: ops.amax, amin: ops.amin, logsumexp: ops.logsumexp };
const reductions = Object.fromEntries(
  Object.entries(folds).map(([name, op]): [string, Row] => [
    name,
    {
      golden: ([x], { dim, keepdim }) => op(x, { dim, keepdim }),
      cases: [
        ...[on((x) => op(x, { dim: 1 })), on((x) => op(x, { dim: 0 })), on((x) => op(x))],
        [{ A: 4, B: 3, C: 5 }, (t, { A, B, C }) => [op(t(A, B, C), { dim: [0, 2], keepdim: true }), op(t(A, B, C), { dim: 1 })]],
      ],
    },
  ]),
);

export const reduce: Room = {
  ...reductions,
  sum: {
    ...reductions.sum,
    takes: { dim: [dim(2), (t, n) => ops.sum(t(2, 3), { dim: n })] },
    timed: [
      ['sum {M}×{N}', (t, { M, N }) => ops.sum(t(M, N)), [1536, 512], [8192, 2560]],
      ['sum over rows {M}×{N}', (t, { M, N }) => ops.sum(t(M, N), { dim: 0 }), [1536, 512], [8192, 2560]],
    ],
  },
  mean: { ...reductions.mean, takes: { dim: [dim(2), (t, n) => ops.mean(t(2, 3), { dim: [n] })] } },
  norm: { golden: ([x]) => ops.norm(x), cases: [on((x) => ops.norm(x))] },
  std: { cases: [[{ A: 4, B: 3, C: 5 }, (t, { A, B, C }) => ops.std(t(A, B, C), { dim: [0, 2] })]] },
  var: { cases: [on((x) => [ops.variance(x), ops.variance(x, { dim: 1, correction: 0.5, keepdim: true })])] },
  prod: { cases: [on((x) => [ops.prod(x, { dim: 1 }), ops.prod(x, { dim: 0 })])] },
  any: { cases: [[pair, (t, { M, N }) => ops.any(t.of(onGrid, M, N), { dim: 1 })]] },
  all: { cases: [[pair, (t, { M, N }) => ops.all(t.of(onGrid, M, N), { dim: [0] })]] },
  argmax: {
    golden: ([x], { dim }) => ops.argmax(x, dim),
    cases: [on((x) => ops.argmax(x, 1)), on((x) => ops.argmax(x))],
    takes: { dim: [dim(2), (t, n) => ops.argmax(t(2, 3), n)] },
  },
  argmin: { cases: [on((x) => ops.argmin(x, 1)), on((x) => ops.argmin(x))] },
  cumsum: {
    golden: ([x], { dim }) => ops.cumsum(x, dim),
    cases: [on((x) => [ops.cumsum(x, 0), ops.cumsum(x, 1)])],
    takes: { dim: [dim(2), (t, n) => ops.cumsum(t(2, 3), n)] },
  },
  topk: {
    golden: ([x], { k, dim }) => ops.topk(x, k, dim),
    cases: [[{ M: 5, N: 7, K: 3 }, (t, { M, N, K }) => ops.topk(t(M, N), K, 1)]],
    takes: {
      k: [whole(0, 3), (t, n) => ops.topk(t(3), n)],
      dim: [dim(2), (t, n) => ops.topk(t(2, 3), 1, n)],
    },
  },
  sort: { cases: [on((x) => [...ops.sort(x, 0), ...ops.sort(x, 1, true)])] },
  softmax: {
    golden: ([x], { dim }) => ops.softmax(x, dim),
    cases: [
      [pair, (t, { M, N }) => ops.softmax(t(M, N)), { rounds: 2 }],
      [pair, (t, { M, N }) => ops.softmax(t(M, N), 0), { rounds: 2 }],
    ],
    takes: { dim: [dim(2), (t, n) => ops.softmax(t(2, 3), n)] },
    timed: [['softmax {M}×{N}', (t, { M, N }) => ops.softmax(t(M, N)), [1120, 70], [4096, 4096]]],
  },
  log_softmax: {
    golden: ([x], { dim }) => ops.logSoftmax(x, dim),
    cases: [
      [pair, (t, { M, N }) => ops.logSoftmax(t(M, N)), { rounds: 2 }],
      [pair, (t, { M, N }) => ops.logSoftmax(t(M, N), 0), { rounds: 2 }],
    ],
    takes: { dim: [dim(2), (t, n) => ops.logSoftmax(t(2, 3), n)] },
  },
  l2_distance: { cases: [[pair, (t, { M, N }) => ops.l2Distance(t(M, N), t(M, N))]] },
};
