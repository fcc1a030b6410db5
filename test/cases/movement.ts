import { ArgumentError, DTypeError, ShapeError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { type Case, dim, type Room, ROOM, sized, whole } from './case.ts';

const pair = { M: 3, N: 7 };
const cube = { A: 2, B: 3, C: 4 };
/** On a matrix. */
const on = (op: (x: Tensor) => Tensor | readonly Tensor[]): Case => [pair, (t, { M, N }) => op(t(M, N))];
/** On a tensor of odd sizes and of even ones. */
const onCube = (op: (x: Tensor) => Tensor | readonly Tensor[]): Case => [
  cube,
  (t, { A, B, C }) => op(t(A, B, C)),
  { at: [{ A: 2, B: 3, C: 5 }, { A: 3, B: 2, C: 1 }, { A: 2, B: 4, C: 8 }, { A: 5, B: 3, C: 2 }] },
];

/** Every order of four dimensions. */
const ORDERS = Array.from({ length: 256 }, (_, n) => [n >> 6, (n >> 4) & 3, (n >> 2) & 3, n & 3]).filter(
  (order) => new Set(order).size === 4,
);

export const movement: Room = {
  reshape: {
    golden: ([x], { shape }) => ops.reshape(x, shape),
    takes: { size: [whole(-1, 3), (t, n) => ops.reshape(t(3), [n, 1])] },
  },
  permute: {
    golden: ([x], { dims }) => ops.permute(x, dims),
    cases: [
      onCube((x) => [[1, 2, 0], [2, 1, 0], [1, 0, 2]].map((dims) => ops.permute(x, dims))),
      [{ A: 2, B: 3, C: 5, D: 9 }, (t, { A, B, C, D }) => ORDERS.map((dims) => ops.permute(t(A, B, C, D), dims))],
    ],
    takes: { dim: [dim(1), (t, n) => ops.permute(t(3), [n])] },
    timed: [
      [
        'permute 0,2,1,3 {B}×{L}×{H}×{D}',
        (t, { B, L, H, D }) => ops.permute(t(B, L, H, D), [0, 2, 1, 3]),
        ...[[80, 14, 4, 32], [8, 1024, 32, 80]],
      ],
    ],
  },
  expand: {
    golden: ([x], { shape }) => ops.expand(x, shape),
    cases: [
      [pair, (t, { M, N }) => ops.expand(t(1, N), [M, N])],
      [{ N: 3 }, (t, { N }) => ops.expand(ops.flip(t(N), [0]), [4, N])],
      onCube((x) => [ops.expand(x, [2, ...x.shape]), ops.expand(ops.slice(x, 2, 0, 1), [3, -1, x.shape[1], 2])]),
    ],
    takes: { size: [whole(-1, ROOM), (t, n) => ops.expand(t(1), [n])] },
    refuses: [
      ['a negative size', (t) => ops.expand(t(1), [-5]), ShapeError, /expand: .*-5/],
      ['a new dimension of −1', (t) => ops.expand(t(3), [-1, 3]), ShapeError, /expand: .*-1/],
    ],
  },
  flip: {
    golden: ([x], { dims }) => ops.flip(x, dims),
    cases: [onCube((x) => [[0], [2], [0, 1, 2]].map((dims) => ops.flip(x, dims)))],
    takes: { dim: [dim(1), (t, n) => ops.flip(t(3), [n])] },
    refuses: [
      ['a dimension twice', (t) => ops.flip(t(2, 3), [0, -2]), ShapeError, /flip: .*twice/],
      ['a scalar', (t) => ops.flip(t(), [0]), ShapeError, /flip: .*scalar/],
    ],
  },
  slice: {
    golden: ([x], { dim, start, end, step }) => ops.slice(x, dim, start, end, step),
    cases: [onCube((x) => [ops.slice(x, 2, 1), ops.slice(x, 2, 0, null, 2), ops.slice(x, 1, 1, 2), ops.slice(x, 0, 1)])],
    takes: {
      dim: [dim(2), (t, n) => ops.slice(t(2, 3), n, 0)],
      start: [whole(-Infinity, Infinity), (t, n) => ops.slice(t(3), 0, n)],
      end: [whole(-Infinity, Infinity), (t, n) => ops.slice(t(3), 0, 0, n)],
      step: [whole(1, Infinity), (t, n) => ops.slice(t(3), 0, 0, null, n)],
    },
    refuses: [
      ['from NaN', (t) => ops.slice(t(3), 0, NaN), ArgumentError, /slice: .*whole/],
      ['to a half', (t) => ops.slice(t(3), 0, 0, 1.5), ArgumentError, /slice: .*whole/],
      ['a scalar', (t) => ops.slice(t(), 0, 0), ShapeError, /slice: .*scalar/],
    ],
  },
  cat: {
    golden: (xs, { dim }) => ops.cat(xs, dim),
    cases: [
      [{ M: 2, N: 3, L: 2 }, (t, { M, N, L }) => ops.cat([t(M, N), t(L, N)], 0)],
      onCube((x) => [0, 1, 2].map((dim) => ops.cat([x, ops.flip(x, [dim]), ops.slice(x, dim, 1)], dim))),
    ],
    takes: { dim: [dim(1), (t, n) => ops.cat([t(3)], n)] },
    refuses: [['scalars', (t) => ops.cat([t(), t()]), ShapeError, /cat: .*scalar/]],
    timed: [['cat of two {M}×{N}', (t, { M, N }) => ops.cat([t(M, N), t(M, N)], 1), [1120, 128]]],
  },
  stack: {
    golden: (xs, { dim }) => ops.stack(xs, dim),
    cases: [onCube((x) => [ops.stack([x, x], 0), ops.stack([x, x], -1)])],
    takes: { dim: [dim(2), (t, n) => ops.stack([t(3)], n)] },
  },
  split: {
    golden: ([x], { sizes, dim }) => ops.split(x, sizes, dim),
    cases: [
      [{ M: 2, N: 3, L: 2 }, (t, { M, N, L }) => ops.split(t(M, N + L), [N, L], 1)],
      onCube((x) => [0, 1, 2].flatMap((dim) => ops.split(x, [1, x.shape[dim] - 1], dim))),
    ],
    takes: {
      size: [whole(0, 0), (t, n) => ops.split(t(3), [3, n])],
      dim: [dim(1), (t, n) => ops.split(t(3), [3], n)],
    },
    refuses: [
      ['a scalar', (t) => ops.split(t(), [1]), ShapeError, /split: .*scalar/],
      ['a negative size', (t) => ops.split(t(3), [-1, 4]), ShapeError, /-1/],
    ],
  },
  pad: {
    golden: ([x], attrs) => ops.pad(x, attrs.pad, attrs.value),
    cases: [onCube((x) => [ops.pad(x, [1, 1], 1), ops.pad(x, [0, 0, 1, 0], -2.5), ops.pad(x, [-1, 1, 0, 0, 2, -1])])],
    takes: {
      amount: [whole(-3, ROOM), (t, n) => ops.pad(t(3), [0, n])],
      'value, i32': [whole(), (t, n) => ops.pad(t.values([1, 1], [2], 'i32'), [1, 1], n)],
    },
  },
  repeat_interleave: {
    golden: ([x], { repeats, dim }) => ops.repeatInterleave(x, repeats, dim),
    cases: [
      [{ M: 2, N: 3, R: 2 }, (t, { M, N, R }) => ops.repeatInterleave(t(M, N), R, 1)],
      onCube((x) => [0, 1, 2].map((dim) => ops.repeatInterleave(x, 3, dim))),
    ],
    takes: {
      repeats: [whole(1, ROOM), (t, n) => ops.repeatInterleave(t(3), n, 0)],
      dim: [dim(1), (t, n) => ops.repeatInterleave(t(3), 2, n)],
    },
    refuses: [['a scalar', (t) => ops.repeatInterleave(t(), 2, 0), ShapeError, /repeat_interleave: .*scalar/]],
  },
  tril: {
    golden: ([x], { diagonal = 0 }) => ops.tril(x, diagonal),
    cases: [on((x) => ops.tril(x))],
    takes: { diagonal: [whole(), (t, n) => ops.tril(t(2, 3), n)] },
  },
  embedding: {
    golden: ([weight, ids]) => ops.embedding(weight, ids),
    // With a gradient in one stage and in two.
    cases: [
      [
        { V: 3, D: 2, M: 4 },
        (t, { V, D, M }) => ops.embedding(t(V, D), t.ids(V, M, 1)),
        { at: sized('V D M', [50, 7, 111], [50, 20, 37], [17, 130, 3000], [1000, 260, 2000]) },
      ],
      // Half of the ids are one, as padding is, and so often that its gradient is summed in blocks.
      [
        { V: 4, D: 5, M: 270 },
        (t, { V, D, M }) => {
          const ids = Int32Array.from({ length: M }, (_, i) => (i % 2 ? V - 1 : (7 * i) % V));
          return ops.embedding(t(V, D), t.values(ids, [M], 'i32'));
        },
        { at: sized('V D M', [4, 1, 270], [4, 8, 270], [40, 64, 5000]) },
      ],
    ],
    refuses: [['ids that are floats', (t) => ops.embedding(t(2, 3), t(2, 3)), DTypeError, /embedding: index has dtype f32, expected i32/]],
  },
  index_select: {
    golden: ([x, index], { dim }) => ops.indexSelect(x, dim, index),
    cases: [
      [
        { A: 2, V: 3, D: 2, M: 4 },
        (t, { A, V, D, M }) => ops.indexSelect(t(A, V, D), 1, t.ids(V, M)),
        { at: sized('A V D M', [1, 50, 60, 37], [5, 20, 3, 7], [100, 8, 1, 70], [1, 6, 1, 9]) },
      ],
    ],
    refuses: [['an index of two dimensions', (t) => ops.indexSelect(t(2, 3), 1, t.ids(3, 3, 1)), ShapeError, /index_select: index/]],
    takes: { dim: [dim(1), (t, n) => ops.indexSelect(t(3), n, t.ids(1, 1))] },
  },
  gather: {
    golden: ([x, index], { dim }) => ops.gather(x, dim, index),
    cases: [
      [{ A: 2, V: 3, M: 2 }, (t, { A, V, M }) => ops.gather(t(A, V), 1, t.ids(V, A, M)), { at: [{ A: 40, V: 900, M: 1 }] }],
      [{}, (t) => [ops.gather(t(5, 20, 8), -1, t.ids(8, 3, 20, 11)), ops.gather(t(5, 20), 0, t.ids(5, 13, 2))]],
      [{}, (t) => ops.gather(t(3, 2, 4, 5), 1, t.ids(2, 3, 7, 4, 2))],
    ],
    refuses: [['a longer index', (t) => ops.gather(t(2, 3), 1, t.ids(3, 3, 1)), ShapeError, /gather: index has shape \[3, 1\]/]],
    takes: { dim: [dim(1), (t, n) => ops.gather(t(3), n, t.ids(1, 1))] },
  },
  scatter_add: {
    cases: [
      [{}, (t) => ops.scatterAdd(t(5, 7), 1, t.values([3, 0, 3, 9, 1, 0, 3, 5, 2], [3, 3], 'i32'), t(4, 6))],
      [{ A: 2, V: 3, M: 2 }, (t, { A, V, M }) => ops.scatterAdd(t(A, V), 1, t.ids(V, A, M), t(A, M))],
    ],
  },
  one_hot: {
    golden: ([ids], { num_classes }) => ops.oneHot(ids, num_classes),
    cases: [[{ M: 2, V: 3 }, (t, { M, V }) => ops.oneHot(t.ids(V, M), V)]],
    takes: { classes: [whole(1, ROOM), (t, n) => ops.oneHot(t.ids(1, 2), n)] },
    refuses: [['no classes', (t) => ops.oneHot(t.ids(1, 2), -1), ArgumentError, /one_hot: classes is -1/]],
  },
  from_data: {
    refuses: [['a negative shape', (t) => fromData(t.backend, [1, 2], [-1, -2]), ShapeError, /-1, -2/]],
  },
};
