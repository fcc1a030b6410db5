import type { DType } from '../../engine/dtype.ts';
import { ArgumentError, DTypeError, ShapeError } from '../../engine/errors.ts';
import { noGrad } from '../../engine/tape.ts';
import { scalar, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { binary, unary, unaryNames, type UnaryName } from '../support/elementwise.ts';
import { finite, NUMBER, type Room, ROOM, type Row, type Run, whole } from './case.ts';

const pair = { M: 3, N: 7 };
/** To eighths, so that some are equal, and all formats hold them. */
const onGrid = (v: number) => Math.round(8 * v) / 8;
const wide = (v: number) => 4 * v;
const away = (v: number) => v + Math.sign(v);
const positive = (v: number) => Math.abs(v) + 0.1;

const POSITIVE: readonly UnaryName[] = ['log', 'sqrt', 'rsqrt', 'reciprocal'];

const unaries = Object.fromEntries(
  unaryNames.map((name): [string, Row] => {
    const of = POSITIVE.includes(name) ? positive : wide;
    const rounds = name === 'sigmoid' || name === 'tanh' ? 8 : 1;
    const run: Run = (t, { M, N }) => unary[name](t.of(of, M, N));
    return [name, { golden: ([x]) => unary[name](x), cases: [[pair, run, { rounds }]] }];
  }),
);

const binaries = Object.fromEntries(
  Object.entries(binary).map(([name, f]): [string, Row] => {
    const run: Run = (t, { M, N }) => f(t.of(name === 'pow' ? positive : (v) => v, M, N), t.of(away, 1, N));
    const column: Run = (t, { M, N }) => f(t.of(positive, M, 1), t.of(away, M, N));
    const outer: Run = (t, { M, N }) => f(t.of(positive, M, 1), t.of(away, 1, N));
    return [name, { golden: ([a, b]) => f(a, b), cases: [[pair, run], [pair, column], [pair, outer]] }];
  }),
);

const COMPARISONS = { eq: ops.eq, ne: ops.ne, lt: ops.lt, le: ops.le, gt: ops.gt, ge: ops.ge };
const LOGIC = { logical_and: ops.logicalAnd, logical_or: ops.logicalOr };

const ofTwo = Object.fromEntries(
  Object.entries({ ...COMPARISONS, ...LOGIC }).map(([name, op]): [string, Row] => {
    const run: Run = (t, { M, N }) => op(t.of(onGrid, M, N), t.of(onGrid, M, N));
    return [name, { golden: ([a, b]) => op(a, b), cases: [[pair, run]] }];
  }),
);

/** A copy of a tensor, off the tape, after `change` wrote to it. */
function written(x: Tensor, change: (copy: Tensor) => void): Tensor {
  const copy = noGrad(() => ops.clone(x));
  change(copy);
  return copy;
}

export const elementwise: Room = {
  ...unaries,
  ...binaries,
  ...ofTwo,
  gelu_tanh: {
    ...unaries.gelu_tanh,
    timed: [['gelu_tanh {M}×{N}', (t, { M, N }) => ops.geluTanh(t(M, N)), [1536, 512]]],
  },
  add: {
    ...binaries.add,
    cases: [
      ...binaries.add.cases!,
      [{ A: 3, B: 2 }, (t, { A, B }) => ops.mul(t(B, 1, B, 1, B, 1, B), t(1, A, 1, A, 1, A, 1))],
    ],
    refuses: [
      ['a number for a tensor', (t) => ops.add(t(3), 2 as never), ArgumentError, /add: 2 was given, expected a tensor/],
    ],
    timed: [['add {M}×{N}', (t, { M, N }) => ops.add(t(M, N), t(M, N)), [1536, 128], [8192, 2560]]],
  },
  logical_not: { cases: [[pair, (t, { M, N }) => ops.logicalNot(t.of(onGrid, M, N))]] },
  isnan: { cases: [[pair, (t, { M, N }) => [ops.isnan(t(M, N)), ops.isinf(t(M, N))]]] },
  add_scalar: {
    cases: [[pair, (t, { M, N }) => ops.addScalar(t(M, N), 0.75)]],
    takes: {
      c: [NUMBER, (t, c) => ops.addScalar(t(3), c)],
      'c, to u32': [whole(0, 2 ** 32 - 1), (t, n) => ops.addScalar(t.values([1, 1], [2], 'u32'), n)],
    },
  },
  mul_scalar: {
    cases: [[pair, (t, { M, N }) => ops.mulScalar(t(M, N), -1.5)]],
    takes: {
      c: [NUMBER, (t, c) => ops.mulScalar(t(3), c)],
      'c, of i32': [whole(), (t, n) => ops.mulScalar(t.values([1, 1], [2], 'i32'), n)],
    },
  },
  leaky_relu: {
    cases: [[pair, (t, { M, N }) => ops.leakyRelu(t.of(wide, M, N), 0.1)]],
    takes: { slope: [NUMBER, (t, slope) => ops.leakyRelu(t(3), slope)] },
  },
  elu: {
    cases: [[pair, (t, { M, N }) => ops.elu(t.of(wide, M, N), 1.5)]],
    takes: { alpha: [NUMBER, (t, alpha) => ops.elu(t(3), alpha)] },
  },
  clamp: {
    golden: ([x], { min, max }) => ops.clamp(x, { min, max }),
    cases: [
      [pair, (t, { M, N }) => ops.clamp(t(M, N), { min: 0 })],
      [pair, (t, { M, N }) => [ops.clamp(t(M, N), { max: 0.2 }), ops.clamp(t(M, N), { min: -0.3, max: 0.2 })]],
    ],
    takes: {
      min: [NUMBER, (t, min) => ops.clamp(t(3), { min })],
      max: [NUMBER, (t, max) => ops.clamp(t(3), { max })],
    },
  },
  where: {
    golden: ([cond, a, b]) => ops.where(cond, a, b),
    cases: [[pair, (t, { M, N }) => ops.where(t.ids(2, M, N), t(M, N), t(1, N))]],
  },
  masked_fill: { cases: [[pair, (t, { M, N }) => ops.maskedFill(t(M, N), t.ids(2, M, N), -1)]] },
  dropout: {
    cases: [[pair, (t, { M, N }) => ops.dropout(t(M, N), 0.3, 2 ** 40 + 5)]],
    takes: {
      seed: [whole(0, 2 ** 53 - 1), (t, n) => ops.dropout(t(3), 0.5, n)],
      p: [finite(0, 1), (t, p) => ops.dropout(t(3), p, 1)],
    },
  },
  rand: {
    cases: [[pair, (t, { M, N }) => ops.rand(t.backend, [M, N], 5)]],
    takes: { seed: [whole(0, 2 ** 53 - 1), (t, n) => ops.rand(t.backend, [2], n)] },
  },
  randn: {
    cases: [[pair, (t, { M, N }) => ops.randn(t.backend, [M, N], 6)]],
    takes: { seed: [whole(0, 2 ** 53 - 1), (t, n) => ops.randn(t.backend, [2], n)] },
  },
  cast: {
    cases: [
      ...(['f16', 'bf16'] as const).map(
        (dtype) => [pair, (t, { M, N }) => ops.cast(ops.cast(t.of(onGrid, M, N), dtype), 'f32'), { grid: 1 / 8 }] as const,
      ) satisfies Row['cases'],
      [
        pair,
        (t, { M, N }) => {
          const x = t.of(wide, M, N);
          return [ops.cast(x, 'i32'), ops.cast(ops.cast(x, 'i32'), 'u32'), ops.cast(x, 'bool')];
        },
      ],
    ],
    refuses: [
      ['a dtype that is none', (t) => ops.zeros(t.backend, [1], 'f64' as DType), DTypeError, /f64/],
      ['a dtype that objects have', (t) => ops.cast(t(3), 'toString' as DType), DTypeError, /toString/],
    ],
  },
  fill: {
    cases: [[pair, (t, { M, N }) => [ops.fill(t.backend, [M, N], 2.5), ops.fill(t.backend, [M], 1, 'i32')]]],
    takes: {
      value: [NUMBER, (t, value) => ops.fill(t.backend, [1], value)],
      'value, i32': [whole(), (t, n) => ops.fill(t.backend, [2], n, 'i32')],
      'value, u32': [whole(0, 2 ** 32 - 1), (t, n) => ops.fill(t.backend, [2], n, 'u32')],
      'value of a scalar, i32': [whole(), (t, n) => scalar(t.backend, n, 'i32')],
      size: [whole(0, ROOM), (t, n) => ops.zeros(t.backend, [n])],
    },
    refuses: [['half an element', (t) => ops.zeros(t.backend, [1.5]), ShapeError, /1\.5/]],
  },
  arange: {
    cases: [
      [{ N: 9 }, (t, { N }) => ops.arange(t.backend, N, { step: 3 })],
      [{}, (t) => [ops.arange(t.backend, 9, { start: 2, step: 3 }), ops.arange(t.backend, 1, { step: 0.25, dtype: 'f32' })]],
    ],
    takes: {
      end: [finite(), (t, end) => ops.arange(t.backend, end, { dtype: 'f32' })],
      start: [finite(), (t, start) => ops.arange(t.backend, 1, { start, dtype: 'f32' })],
    },
    refuses: [
      ['integers by halves', (t) => ops.arange(t.backend, 2, { step: 0.5 }), ArgumentError, /arange: .*0\.5/],
      [
        'past the end of i32',
        (t) => ops.arange(t.backend, 2 ** 31 + 1, { start: 2 ** 31 - 2 }),
        ArgumentError,
        /arange: .*2147483648/,
      ],
    ],
  },
  clone: { cases: [[pair, (t, { M, N }) => ops.clone(t(M, N))]] },
  copy_: { cases: [[pair, (t, { M, N }) => written(t.fixed(M, N), (x) => ops.copy_(x, t.fixed(M, N)))]] },
  increment: {
    cases: [
      [
        {},
        (t) => {
          const before = ops.fill(t.backend, [1], 0, 'i32');
          return [before, written(t.values([2], [1], 'i32'), (x) => ops.increment_(x, 3, before))];
        },
      ],
    ],
  },
};
