import type { Tensor } from '../../engine/tensor.ts';
import { ShapeError } from '../../engine/errors.ts';
import * as ops from '../../ops/index.ts';
import { type Case, dim, type Room, type Row, sized, whole } from './case.ts';

const pair = { M: 5, N: 7 };
const on = (op: (x: Tensor) => Tensor | readonly Tensor[]): Case => [pair, (t, { M, N }) => op(t(M, N))];
const cube = { A: 4, B: 3, C: 5 };
/** Of every layout of lines. */
const LAYOUTS = sized('A B C', [3, 5, 7], [300, 3, 1], [50, 1, 130], [2, 1, 5000], [2, 40, 20], [2, 200, 3]);
const PAIRS = sized('M N', [7, 1], [15, 7], [130, 500], [700, 70]);
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
        // Dims that are not neighbours, and more than one workgroup folds.
        [
          cube,
          (t, { A, B, C }) => [op(t(A, B, C), { dim: [0, 2], keepdim: true }), op(t(A, B, C), { dim: 1 })],
          { at: sized('A B C', [7, 300, 40], [700, 9, 1], [3, 1100, 1]), most: 2e-5 },
        ],
      ],
    },
  ]),
);

export const reduce: Room = {
  ...reductions,
  sum: {
    ...reductions.sum,
    takes: { dim: [dim(2), (t, n) => ops.sum(t(2, 3), { dim: n })] },
    refuses: [
      ['a dimension out of range', (t) => ops.sum(t(2, 3), { dim: 2 }), ShapeError, /sum: dim 2 is out of range for 2 dimensions/],
      ['a dimension twice', (t) => ops.sum(t(2, 3), { dim: [0, -2] }), ShapeError, /twice/],
    ],
    timed: [
      ['sum {M}×{N}', (t, { M, N }) => ops.sum(t(M, N)), [1536, 512], [8192, 2560]],
      ['sum over rows {M}×{N}', (t, { M, N }) => ops.sum(t(M, N), { dim: 0 }), [1536, 512], [8192, 2560]],
    ],
  },
  mean: { ...reductions.mean, takes: { dim: [dim(2), (t, n) => ops.mean(t(2, 3), { dim: [n] })] } },
  amax: { ...reductions.amax, refuses: [['nothing', (t) => ops.amax(t(0, 3), { dim: 0 }), ShapeError, /amax of nothing/]] },
  sum_to: {
    cases: [[cube, (t, { A, B, C }) => [[B, 1], [1, C], [C], [], [A, 1, 1], [A, B, C]].map((to) => ops.sumTo(t(A, B, C), to))]],
  },
  norm: { golden: ([x]) => ops.norm(x), cases: [on((x) => ops.norm(x))] },
  std: { cases: [[cube, (t, { A, B, C }) => ops.std(t(A, B, C), { dim: [0, 2] }), { at: [{ A: 7, B: 300, C: 40 }] }]] },
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
    cases: [
      [
        pair,
        (t, { M, N }) => [ops.cumsum(t(M, N), 0), ops.cumsum(t(M, N), 1)],
        { at: sized('M N', [3, 1000], [700, 5], [40, 5000], [1, 256]), most: 2e-5 },
      ],
    ],
    takes: { dim: [dim(2), (t, n) => ops.cumsum(t(2, 3), n)] },
  },
  topk: {
    golden: ([x], { k, dim }) => ops.topk(x, k, dim),
    cases: [[{ M: 5, N: 7, K: 3 }, (t, { M, N, K }) => ops.topk(t(M, N), K, 1)]],
    takes: {
      k: [whole(0, 3), (t, n) => ops.topk(t(3), n)],
      dim: [dim(2), (t, n) => ops.topk(t(2, 3), 1, n)],
    },
    refuses: [['more than there are', (t) => ops.topk(t(2, 3), 4), ShapeError, /topk: k is 4/]],
  },
  sort: { cases: [on((x) => [...ops.sort(x, 0), ...ops.sort(x, 1, true)])] },
  softmax: {
    golden: ([x], { dim }) => ops.softmax(x, dim),
    cases: [
      [{}, (t) => ops.softmax(t())],
      [cube, (t, { A, B, C }) => [0, -2, 2].map((dim) => ops.softmax(t(A, B, C), dim)), { rounds: 2, at: LAYOUTS, most: 2e-5 }],
    ],
    takes: { dim: [dim(2), (t, n) => ops.softmax(t(2, 3), n)] },
    timed: [['softmax {M}×{N}', (t, { M, N }) => ops.softmax(t(M, N)), [1120, 70], [4096, 4096]]],
  },
  log_softmax: {
    golden: ([x], { dim }) => ops.logSoftmax(x, dim),
    cases: [
      [{}, (t) => ops.logSoftmax(t())],
      [cube, (t, { A, B, C }) => [0, -2, 2].map((dim) => ops.logSoftmax(t(A, B, C), dim)), { rounds: 2, at: LAYOUTS, most: 2e-5 }],
    ],
    takes: { dim: [dim(2), (t, n) => ops.logSoftmax(t(2, 3), n)] },
  },
  l2_distance: {
    cases: [
      [pair, (t, { M, N }) => ops.l2Distance(t(M, N), t(M, N)), { at: PAIRS, most: 2e-5 }],
      [pair, (t, { M, N }) => ops.l2Distance(t.fixed(M, N), t(M, N))],
      [pair, (t, { M, N }) => ops.l2Distance(t(M, N), t.fixed(M, N), ops.abs(t.fixed(M)))],
      [{}, (t) => ops.l2Distance(t(), t())],
    ],
    refuses: [['another shape', (t) => ops.l2Distance(t(2, 3), t(3, 2)), ShapeError, /l2_distance: b has shape/]],
  },
};
