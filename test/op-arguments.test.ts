import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import type { DType } from '../engine/dtype.ts';
import { ArgumentError, DTypeError, type MatvlmError, ShapeError } from '../engine/errors.ts';
import { backwardFrom } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import {
  add,
  arange,
  backward,
  cat,
  expand,
  fill,
  flip,
  gather,
  indexSelect,
  linear,
  matmul,
  mean,
  mul,
  norm,
  oneHot,
  repeatInterleave,
  slice,
  split,
  sum,
  zeros,
} from '../ops/index.ts';
import { assertNear, evaluate } from './support/agree.ts';
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
  ['oneHot without classes', (b) => oneHot(fill(b, [2], 0, 'i32'), -1), ArgumentError, /one_hot: -1/],
  ['fromData of a negative shape', (b) => fromData(b, [1, 2], [-1, -2]), ShapeError, /-1, -2/],
  ['a dtype that is none', (b) => zeros(b, [1], 'f64' as DType), DTypeError, /f64/],
  ['arange of integers by halves', (b) => arange(b, 2, { step: 0.5 }), ArgumentError, /arange: .*0\.5/],
  ['zeros of half an element', (b) => zeros(b, [1.5]), ShapeError, /1\.5/],
];

for (const [name, body, error, says] of CASES) {
  test(`${name} is refused`, () => {
    for (const backend of backends) {
      assert.throws(() => body(backend), (e: Error) => e instanceof error && says.test(e.message), backend.kind);
    }
  });
}

test('backward refuses a gradient of another dtype', () => {
  for (const backend of backends) {
    const x = vector(backend);
    x.requiresGrad = true;
    const grad = fill(backend, [3], 1, 'i32');
    const refused = (e: Error) => e instanceof DTypeError && /gradient of dtype i32, expected f32/.test(e.message);
    assert.throws(() => backward(mul(x, x), grad), refused, backend.kind);
    assert.throws(() => backwardFrom([mul(x, x)], [grad], add), refused, backend.kind);
  }
});

test.run();
