import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import type { DType } from '../engine/dtype.ts';
import { ArgumentError, DTypeError, MatvlmError, ShapeError } from '../engine/errors.ts';
import { fromData, scalar, type Tensor } from '../engine/tensor.ts';
import {
  adamwStep,
  add,
  addScalar,
  arange,
  argmax,
  attention,
  backward,
  backwardFrom,
  beginStep,
  binary,
  cast,
  cat,
  causalConv1d,
  clamp,
  conv2d,
  crossEntropy,
  cumsum,
  distillLoss,
  dropout,
  elu,
  expand,
  fill,
  flip,
  gather,
  gradNorm,
  indexSelect,
  layerNorm,
  leakyRelu,
  linear,
  logSoftmax,
  matmul,
  mean,
  mul,
  mulScalar,
  norm,
  oneHot,
  pad,
  permute,
  rand,
  randn,
  repeatInterleave,
  reshape,
  rmsNorm,
  rmsNormGated,
  rope,
  slice,
  softmax,
  split,
  ssdScan,
  stack,
  sum,
  topk,
  tril,
  unary,
  zeros,
} from '../ops/index.ts';
import { assertNear, evaluate, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const backends = [await openBackend('reference'), await openBackend('wasm'), await openGpu()];
const test = suite('sizes of zero and arguments that do not fit');

test.after(() => backends.forEach(closeBackend));

const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];

test('sums and norms of nothing are 0, the mean of nothing is NaN', async () => {
  for (const backend of backends) {
    const [flat, wide] = [zeros(backend, [0]), zeros(backend, [0, 3])];
    for (const x of [flat, wide]) {
      assert.is(await sum(x).item(), 0, backend.kind);
      assert.is(await norm(x).item(), 0, backend.kind);
      assert.ok(Number.isNaN(await mean(x).item()), backend.kind);
    }
    assert.equal(await list(sum(wide, { dim: 0 })), [0, 0, 0], backend.kind);
    assert.equal((await list(mean(wide, { dim: 0 }))).map(Number.isNaN), [true, true, true], backend.kind);
    assert.equal(sum(wide, { dim: 1 }).shape, [0]);
    wide.requiresGrad = true;
    backward(sum(wide));
    assert.equal(wide.grad!.shape, [0, 3]);
  }
});

test('products over no columns are zeros, or the bias', async () => {
  const bias = [1, -2, 3];
  for (const backend of backends) {
    assert.equal(await list(matmul(zeros(backend, [2, 0]), zeros(backend, [0, 3]))), [0, 0, 0, 0, 0, 0], backend.kind);
    assert.equal(await list(matmul(zeros(backend, [4, 2, 0]), zeros(backend, [4, 0, 1]))), Array(8).fill(0), backend.kind);
    const [x, w] = [zeros(backend, [2, 0]), zeros(backend, [3, 0])];
    assert.equal(await list(linear(x, w)), [0, 0, 0, 0, 0, 0], backend.kind);
    assert.equal(await list(linear(x, w, fromData(backend, bias, [3]))), [...bias, ...bias], backend.kind);
  }
  for (const backend of backends) {
    const inputs = [{ shape: [2, 0] }, { shape: [3, 0] }, { shape: [3] }];
    const [y, dx, dw, db] = await evaluate(backend, inputs, ([x, w, b]) => [linear(x, w, b)]);
    assert.equal([y.length, dx.length, dw.length, db.length], [6, 0, 0, 3]);
  }
});

test('broadcasting along seven dimensions in turn', async () => {
  const inputs = [{ shape: [2, 1, 2, 1, 2, 1, 2] }, { shape: [1, 3, 1, 3, 1, 3, 1] }];
  const want = await evaluate(backends[0], inputs, ([x, y]) => [mul(x, y)]);
  for (const backend of backends.slice(1)) {
    assertNear(await evaluate(backend, inputs, ([x, y]) => [mul(x, y)]), want, backend.kind);
  }
});

test('an index out of range of integers gives 0', async () => {
  for (const backend of backends) {
    const index = fromData(backend, [-1, 1, 2], [3], 'i32');
    for (const dtype of ['i32', 'u32', 'bool'] as const) {
      const x = fromData(backend, [1, 1], [2], dtype);
      assert.equal(await list(gather(x, 0, index)), [0, 1, 0], `${backend.kind} ${dtype}`);
      assert.equal(await list(indexSelect(x, 0, index)), [0, 1, 0], `${backend.kind} ${dtype}`);
    }
  }
});

test('expand takes −1 for a size that stays', async () => {
  for (const backend of backends) {
    const x = fromData(backend, [1, 2], [2, 1]);
    const y = expand(x, [3, -1, 2]);
    assert.equal(y.shape, [3, 2, 2]);
    assert.equal(await list(y), [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2], backend.kind);
  }
});

type Case = [name: string, body: (b: Backend) => unknown, error: new (message: string) => MatvlmError, says: RegExp];

const vector = (b: Backend): Tensor => fill(b, [3], 1);
const matrix = (b: Backend): Tensor => fill(b, [2, 3], 1);
const one = (b: Backend): Tensor => fill(b, [], 1);
const twice = (b: Backend) => ((shared) => ({ param: shared, grad: shared }))(fill(b, [2], 1));

const CASES: Case[] = [
  ['flip names a dimension twice', (b) => flip(matrix(b), [0, -2]), ShapeError, /flip: .*twice/],
  ['slice by NaN', (b) => slice(vector(b), 0, NaN), ArgumentError, /slice: .*whole/],
  ['slice by halves', (b) => slice(vector(b), 0, 0, 1.5), ArgumentError, /slice: .*whole/],
  ['slice of a scalar', (b) => slice(one(b), 0, 0), ShapeError, /slice: .*scalar/],
  ['flip of a scalar', (b) => flip(one(b), [0]), ShapeError, /flip: .*scalar/],
  ['cat of scalars', (b) => cat([one(b), one(b)]), ShapeError, /cat: .*scalar/],
  ['split of a scalar', (b) => split(one(b), [1]), ShapeError, /split: .*scalar/],
  ['split by a negative size', (b) => split(vector(b), [-1, 4]), ShapeError, /-1/],
  ['repeat of a scalar', (b) => repeatInterleave(one(b), 2, 0), ShapeError, /repeat_interleave: .*scalar/],
  ['expand to a negative size', (b) => expand(fill(b, [1], 1), [-5]), ShapeError, /expand: .*-5/],
  ['expand a new dimension to −1', (b) => expand(vector(b), [-1, 3]), ShapeError, /expand: .*-1/],
  ['oneHot without classes', (b) => oneHot(fill(b, [2], 0, 'i32'), -1), ArgumentError, /one_hot: classes is -1/],
  ['fromData of a negative shape', (b) => fromData(b, [1, 2], [-1, -2]), ShapeError, /-1, -2/],
  ['a dtype that is none', (b) => zeros(b, [1], 'f64' as DType), DTypeError, /f64/],
  ['a dtype that objects have', (b) => cast(vector(b), 'toString' as DType), DTypeError, /toString/],
  ['one tensor as parameter and gradient', (b) => adamw(b, twice(b)), ArgumentError, /adamw: writes to .*clone/],
  ['a number for a tensor', (b) => add(vector(b), 2 as never), ArgumentError, /add: 2 was given, expected a tensor/],
  ['a number of keys', (b) => attention(heads(b), heads(b), heads(b), { keyCount: -1 as never }), ArgumentError, /attention: -1 was/],
  ['arange of integers by halves', (b) => arange(b, 2, { step: 0.5 }), ArgumentError, /arange: .*0\.5/],
  ['arange past the end of i32', (b) => arange(b, 2 ** 31 + 1, { start: 2 ** 31 - 2 }), ArgumentError, /arange: .*2147483648/],
  ['zeros of half an element', (b) => zeros(b, [1.5]), ShapeError, /1\.5/],
];

for (const [name, body, error, says] of CASES) {
  test(`${name} is refused`, () => {
    for (const backend of backends) {
      assert.throws(() => body(backend), (e: Error) => e instanceof error && says.test(e.message), backend.kind);
    }
  });
}

type Use = (b: Backend, n: never) => unknown;

const floats = (b: Backend, ...shape: number[]): Tensor => fill(b, shape, 0.5);
const conv = (options: object): Use => (b) => conv2d(floats(b, 1, 1, 4, 4), floats(b, 1, 1, 2, 2), null, options);
const heads = (b: Backend) => floats(b, 1, 2, 4, 4);
const scan = (b: Backend, chunkSize: number) =>
  ssdScan(
    {
      ...{ x: floats(b, 1, 2, 1, 2), dt: floats(b, 1, 2, 1), A_log: floats(b, 1), dt_bias: floats(b, 1), D: floats(b, 1) },
      ...{ B: floats(b, 1, 2, 1, 2), C: floats(b, 1, 2, 1, 2) },
    },
    { chunkSize },
  );

/** Larger than any memory. */
const ROOM = 2 ** 50;

/** Each whole number among the arguments of ops, with the least and the most that it may be. */
const WHOLE: [name: string, use: Use, least: number, most: number][] = [
  ['conv2d stride', (b, stride) => conv({ stride })(b, stride), 1, 2 ** 31 - 1],
  ['conv2d padding', (b, padding) => conv({ padding })(b, padding), 0, ROOM],
  ['pad amount', (b, n) => pad(vector(b), [0, n]), -3, ROOM],
  ['tril diagonal', (b, n) => tril(matrix(b), n), -(2 ** 31), 2 ** 31 - 1],
  ['slice dim', (b, n) => slice(matrix(b), n, 0), -2, 1],
  ['slice start', (b, n) => slice(vector(b), 0, n), -Infinity, Infinity],
  ['slice end', (b, n) => slice(vector(b), 0, 0, n), -Infinity, Infinity],
  ['slice step', (b, n) => slice(vector(b), 0, 0, null, n), 1, Infinity],
  ['topk k', (b, n) => topk(vector(b), n), 0, 3],
  ['topk dim', (b, n) => topk(matrix(b), 1, n), -2, 1],
  ['argmax dim', (b, n) => argmax(matrix(b), n), -2, 1],
  ['cumsum dim', (b, n) => cumsum(matrix(b), n), -2, 1],
  ['softmax dim', (b, n) => softmax(matrix(b), n), -2, 1],
  ['logSoftmax dim', (b, n) => logSoftmax(matrix(b), n), -2, 1],
  ['sum dim', (b, n) => sum(matrix(b), { dim: n }), -2, 1],
  ['mean dims', (b, n) => mean(matrix(b), { dim: [n] }), -2, 1],
  ['permute dim', (b, n) => permute(vector(b), [n]), -1, 0],
  ['flip dim', (b, n) => flip(vector(b), [n]), -1, 0],
  ['cat dim', (b, n) => cat([vector(b)], n), -1, 0],
  ['stack dim', (b, n) => stack([vector(b)], n), -2, 1],
  ['split size', (b, n) => split(vector(b), [3, n]), 0, 0],
  ['split dim', (b, n) => split(vector(b), [3], n), -1, 0],
  ['gather dim', (b, n) => gather(vector(b), n, fill(b, [1], 0, 'i32')), -1, 0],
  ['indexSelect dim', (b, n) => indexSelect(vector(b), n, fill(b, [1], 0, 'i32')), -1, 0],
  ['reshape size', (b, n) => reshape(vector(b), [n, 1]), -1, 3],
  ['expand size', (b, n) => expand(fill(b, [1], 1), [n]), -1, ROOM],
  ['repeatInterleave repeats', (b, n) => repeatInterleave(vector(b), n, 0), 1, ROOM],
  ['repeatInterleave dim', (b, n) => repeatInterleave(vector(b), 2, n), -1, 0],
  ['oneHot classes', (b, n) => oneHot(fill(b, [2], 0, 'i32'), n), 1, ROOM],
  ['dropout seed', (b, n) => dropout(vector(b), 0.5, n), 0, 2 ** 53 - 1],
  ['rand seed', (b, n) => rand(b, [2], n), 0, 2 ** 53 - 1],
  ['randn seed', (b, n) => randn(b, [2], n), 0, 2 ** 53 - 1],
  ['mulScalar of i32', (b, n) => mulScalar(fill(b, [2], 1, 'i32'), n), -(2 ** 31), 2 ** 31 - 1],
  ['addScalar to u32', (b, n) => addScalar(fill(b, [2], 1, 'u32'), n), 0, 2 ** 32 - 1],
  ['crossEntropy ignoreIndex', (b, n) => crossEntropy(matrix(b), fill(b, [2], 0, 'i32'), { ignoreIndex: n }), -(2 ** 31), 2 ** 31 - 1],
  ['rmsNormGated groupSize', (b, n) => rmsNormGated(matrix(b), matrix(b), vector(b), { groupSize: n }), 1, 3],
  ['rope rotaryDim', (b, n) => rope(heads(b), { rotaryDim: n }), 2, 4],
  ['rope offset', (b, n) => rope(heads(b), { offset: n }), 0, 2 ** 32 - 1],
  ['ssdScan chunkSize', scan, 1, 2 ** 31 - 1],
  ['zeros size', (b, n) => zeros(b, [n]), 0, ROOM],
  ['fill of i32', (b, n) => fill(b, [2], n, 'i32'), -(2 ** 31), 2 ** 31 - 1],
  ['fill of u32', (b, n) => fill(b, [2], n, 'u32'), 0, 2 ** 32 - 1],
  ['scalar of i32', (b, n) => scalar(b, n, 'i32'), -(2 ** 31), 2 ** 31 - 1],
  ['pad with an i32', (b, n) => pad(fill(b, [2], 1, 'i32'), [1, 1], n), -(2 ** 31), 2 ** 31 - 1],
];

const refused = (use: Use, value: unknown) => (b: Backend) => {
  const says = `${value}`;
  assert.throws(() => use(b, value as never), (e: Error) => e instanceof MatvlmError, `${b.kind}: ${says}`);
};

for (const [name, use, least, most] of WHOLE) {
  test(`${name} takes whole numbers from ${least} to ${most} and nothing else`, () => {
    const finite = [least, most].filter(Number.isFinite);
    const beyond = [least - 1, most + 1, 2 ** 53, -(2 ** 53)].filter((v) => Number.isFinite(v) && (v < least || v > most));
    for (const b of backends) {
      for (const value of finite) if (value !== ROOM) use(b, value as never);
      for (const value of [...beyond, 0.5, 1.5, NaN, Infinity, -Infinity, '1', '']) refused(use, value)(b);
    }
  });
}

/** Numbers among the arguments that may be fractions, with the bounds of what they may be. */
const FINITE: [name: string, use: Use, least: number, most: number][] = [
  ['layerNorm eps', (b, eps) => layerNorm(matrix(b), vector(b), vector(b), eps), 0, Infinity],
  ['rmsNorm eps', (b, eps) => rmsNorm(matrix(b), vector(b), eps), 0, Infinity],
  ['rmsNormGated eps', (b, eps) => rmsNormGated(matrix(b), matrix(b), vector(b), { eps }), 0, Infinity],
  ['attention scale', (b, scale) => attention(heads(b), heads(b), heads(b), { scale }), -Infinity, Infinity],
  ['dropout p', (b, p) => dropout(vector(b), p, 1), 0, 1],
  ['rope theta', (b, theta) => rope(heads(b), { theta }), 1e-300, Infinity],
  ['gradNorm maxNorm', (b, most) => gradNorm([vector(b)], most), 0, Infinity],
  ['adamwStep eps', (b, eps) => adamw(b, { eps }), 0, Infinity],
  ['adamwStep weightDecay', (b, weightDecay) => adamw(b, { weightDecay }), 0, Infinity],
  ['adamwStep first beta', (b, beta) => adamw(b, { betas: [beta, 0.9] }), 0, 1 - Number.EPSILON],
  ['adamwStep second beta', (b, beta) => adamw(b, { betas: [0.9, beta] }), 0, 1 - Number.EPSILON],
  ['crossEntropy labelSmoothing', (b, x) => crossEntropy(matrix(b), fill(b, [2], 0, 'i32'), { labelSmoothing: x }), 0, 1],
  ['distillLoss temperature', (b, temperature) => divergence(b, { temperature }), 1e-300, Infinity],
  ['arange end', (b, end) => arange(b, end, { dtype: 'f32' }), -Infinity, Infinity],
  ['arange start', (b, start) => arange(b, 1, { start, dtype: 'f32' }), -Infinity, Infinity],
];

for (const [name, use, least, most] of FINITE) {
  test(`${name} is a finite number`, () => {
    const beyond = [least - 1, most + 1].filter(Number.isFinite);
    for (const b of backends) {
      use(b, Math.max(least, 0.5) as never);
      for (const value of [...beyond, NaN, Infinity, -Infinity, '1']) refused(use, value)(b);
    }
  });
}

const NUMBERS: [name: string, use: Use][] = [
  ['mulScalar c', (b, c) => mulScalar(vector(b), c)],
  ['addScalar c', (b, c) => addScalar(vector(b), c)],
  ['leakyRelu slope', (b, slope) => leakyRelu(vector(b), slope)],
  ['elu alpha', (b, alpha) => elu(vector(b), alpha)],
  ['clamp min', (b, min) => clamp(vector(b), { min })],
  ['clamp max', (b, max) => clamp(vector(b), { max })],
  ['fill value', (b, value) => fill(b, [1], value)],
];

for (const [name, use] of NUMBERS) {
  test(`${name} is a number, not a string`, () => {
    for (const b of backends) for (const value of ['1', 1n, true]) refused(use, value)(b);
  });
}

/** One step of AdamW from ones, with something else among its numbers. */
const adamw = (b: Backend, other: object): void => {
  const [param, grad, m, v] = [1, 1, 0, 0].map((value) => fill(b, [2], value));
  const [step, lr] = [0, 0.1].map((value) => fill(b, [], value));
  const { stats, before } = beginStep([grad], [step], 0);
  const rates = { index: 0, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0 } as const;
  adamwStep({ param, grad, m, v, step, before, stats, lr, ...rates, ...other });
};
const divergence = (b: Backend, other: object): Tensor =>
  distillLoss(matrix(b), matrix(b), { kind: 'kl', temperature: 2, reduction: 'mean', ...other });

const WORDS: [name: string, use: Use][] = [
  ['causalConv1d layout', (b, layout) => causalConv1d(floats(b, 1, 2, 2), floats(b, 2, 2), null, { layout })],
  ['causalConv1d activation', (b, activation) => causalConv1d(floats(b, 1, 2, 2), floats(b, 2, 2), null, { activation })],
  ['crossEntropy reduction', (b, reduction) => crossEntropy(matrix(b), fill(b, [2], 0, 'i32'), { reduction: reduction as never })],
  ['distillLoss kind', (b, kind) => divergence(b, { kind })],
  ['distillLoss reduction', (b, reduction) => divergence(b, { reduction })],
  ['attention causal', (b, causal) => attention(heads(b), heads(b), heads(b), { causal })],
  ['the name of a function', (b, name) => unary(name, vector(b))],
  ['the name of a function of two', (b, name) => binary(name, vector(b), vector(b))],
  ['rope layout', (b, layout) => rope(heads(b), { layout })],
  ['attention layout', (b, layout) => attention(heads(b), heads(b), heads(b), { layout })],
];

for (const [name, use] of WORDS) {
  test(`${name} is one of its words`, () => {
    for (const b of backends) for (const value of ['relu6', 'lbhd', 'toString', 1]) refused(use, value)(b);
  });
}

test('what may be left out may be null', async () => {
  const none = null as never;
  for (const b of backends) {
    const [q, x, w] = [heads(b), floats(b, 1, 2, 2), floats(b, 2, 2)];
    assert.equal(await list(attention(q, q, q, { keyCount: none, mask: none })), await list(attention(q, q, q)), b.kind);
    const conv = (missing: never) => list(causalConv1d(x, w, missing, { initial: missing }));
    assert.equal(await conv(undefined as never), await conv(none), b.kind);
  }
});

test('keyCount below 0 is none, above the room is all', async () => {
  for (const b of backends) {
    const q = floats(b, 1, 1, 1, 4);
    const [k, v] = [5, 6].map((seed) => fromData(b, random(12, seed), [1, 1, 3, 4]));
    const of = async (count: number) => list(attention(q, k, v, { keyCount: fromData(b, [count], [1], 'i32') }));
    for (const none of [0, -1, -(2 ** 31)]) assert.equal(await of(none), [0, 0, 0, 0], `${b.kind} ${none}`);
    for (const all of [3, 4, 2 ** 31 - 1]) assert.equal(await of(all), await list(attention(q, k, v)), `${b.kind} ${all}`);
  }
});

test('a start below 0 puts tokens before position 0', async () => {
  const x = random(5 * 4, 3);
  for (const b of backends) {
    const t = fromData(b, x, [1, 5, 4]);
    const moved = await list(rope(t, { start: fromData(b, [-2], [1], 'i32') }));
    // Turning on by two positions undoes it: rotations add up.
    for (let l = 0; l < 5; l++) {
      for (let j = 0; j < 2; j++) {
        const angle = (l - 2) * 10000 ** (-j / 2);
        const want = x[l * 4 + j] * Math.cos(angle) - x[l * 4 + j + 2] * Math.sin(angle);
        assert.ok(Math.abs(moved[l * 4 + j] - want) < 1e-6, `${b.kind}: ${moved[l * 4 + j]} at ${l}, expected ${want}`);
      }
    }
  }
});

const HELD: [dtype: DType, data: ArrayLike<number>][] = [
  ['i32', [2 ** 31 - 1, -(2 ** 31), -0]],
  ['i32', new Float32Array([1, -2, 3])],
  ['i32', new Uint32Array([7, 2 ** 31 - 1])],
  ['u32', [2 ** 32 - 1, 0]],
  ['u32', new Int32Array([0, 5])],
  ['bool', [0, 1, NaN, -3]],
  ['f32', new Int32Array([5, -6])],
  ['f16', [65504, 1e6, NaN]],
];

const NOT_HELD: [dtype: DType, data: unknown][] = [
  ['i32', [3e9]],
  ['i32', [1, 0.5]],
  ['i32', [NaN]],
  ['i32', [Infinity]],
  ['i32', ['1']],
  ['i32', [undefined]],
  ['i32', new Uint32Array([2 ** 31])],
  ['i32', new Float32Array([1.5])],
  ['i32', new Float64Array([-(2 ** 31) - 1])],
  ['i32', new BigInt64Array([1n])],
  ['u32', [-1]],
  ['u32', [2 ** 32]],
  ['u32', new Int32Array([-1])],
  ['f32', ['1']],
  ['f32', [undefined]],
  ['f32', [null]],
  ['f32', [true]],
  ['f16', ['1']],
  ['bool', ['']],
];

test('fromData takes what the dtype can hold and refuses the rest, of any kind of array', async () => {
  for (const b of backends) {
    for (const [dtype, data] of HELD) {
      const got = await fromData(b, data as number[], [data.length], dtype).data();
      const want = dtype === 'bool' ? Array.from(data, (v) => (v === 0 ? 0 : 1)) : Array.from(data);
      if (dtype !== 'f16') assert.equal(Array.from(got, (v) => v + 0), want.map((v) => v + 0), `${b.kind} ${dtype}`);
    }
    for (const [dtype, data] of NOT_HELD) {
      const live = b.memory.live;
      const make = () => fromData(b, data as number[], [(data as number[]).length], dtype);
      assert.throws(make, (e: Error) => e instanceof ArgumentError, `${b.kind} ${dtype} of ${data}`);
      assert.is(b.memory.live, live, 'nothing is left behind');
    }
  }
});

test('backward refuses a gradient of another dtype', () => {
  for (const backend of backends) {
    const x = vector(backend);
    x.requiresGrad = true;
    const grad = fill(backend, [3], 1, 'i32');
    const refused = (e: Error) => e instanceof DTypeError && /gradient of dtype i32, expected f32/.test(e.message);
    assert.throws(() => backward(mul(x, x), grad), refused, backend.kind);
    assert.throws(() => backwardFrom([mul(x, x)], [grad]), refused, backend.kind);
  }
});

test.run();
