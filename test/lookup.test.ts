import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../engine/backend.ts';
import { fromBfloat, fromHalf, toBfloat, toHalf } from '../engine/half.ts';
import { ShapeError } from '../engine/errors.ts';
import { scope } from '../engine/scope.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { backward, embedding, fill, gather, indexSelect, oneHot } from '../ops/index.ts';
import { agreement, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const backends = [reference, gpu];
const test = suite('lookups');

test.after(() => backends.forEach(closeBackend));

const agree = agreement(reference, [gpu], 1e-5);

/** Indices below n; half of them the same, as padding is. */
function indices(shape: number[], n: number): Input {
  const size = elements(shape);
  return { shape, data: Int32Array.from(random(size, 11, n, n / 2), (v, i) => (i % 2 ? n - 1 : Math.floor(v))) };
}

test('embedding agrees, with a gradient in one stage and in two', async () => {
  for (const [v, d, shape] of [[50, 7, [37, 3]], [50, 20, [37]], [17, 130, [3000]], [1000, 260, [40, 50]]] as const) {
    await agree([{ shape: [v, d] }, indices([...shape], v)], ([w, i]) => [embedding(w, i)], `${v}×${d}`);
  }
});

test('the gradient of an embedding has the same bits twice', async () => {
  const inputs = [{ shape: [40, 64] }, indices([5000], 40)];
  const body = ([w, i]: Tensor[]) => [embedding(w, i)];
  assert.equal(await evaluate(gpu, inputs, body), await evaluate(gpu, inputs, body));
});

test('the gradient of rows that come often', async () => {
  // So often that each slice of the index is summed in several blocks.
  const count = 140_000;
  const ids = Int32Array.from({ length: count }, (_, i) => (i % 7 === 0 ? 2 : 1));
  const w = fill(gpu, [3, 20], 1);
  w.requiresGrad = true;
  scope(() => {
    const y = embedding(w, fromData(gpu, ids, [count], 'i32'));
    backward(y, fill(gpu, y.shape, 0.1));
  });
  const times = [0, count - count / 7, count / 7];
  const sums = await w.grad!.data();
  sums.forEach((v: number, i: number) => {
    const want = times[Math.floor(i / 20)] * Math.fround(0.1);
    assert.ok(Math.abs(v - want) <= 2e-5 * want, `${v} at ${i}, expected ${want}`);
  });
});

test('embedding reads tables stored in 16 bits', async () => {
  const values = random(15, 3, 9);
  const formats = [['f16', toHalf, fromHalf], ['bf16', toBfloat, fromBfloat]] as const;
  for (const [dtype, to, from] of formats) {
    const words = Uint16Array.from(values, to);
    const want = [...words.slice(6, 9), ...words.slice(3, 6)].map(from);
    for (const backend of backends) {
      const rows = embedding(fromData(backend, words, [5, 3], dtype), fromData(backend, [2, 1], [2], 'i32'));
      assert.equal([...(await rows.data())], want, `${backend.kind} ${dtype}`);
    }
  }
});

test('an index out of range gives NaN and no gradient', async () => {
  for (const backend of backends) {
    const bad = { shape: [3], data: Int32Array.of(-1, 1, 2) };
    const rows = await evaluate(backend, [{ shape: [2, 4] }, bad], ([w, i]) => [embedding(w, i)]);
    assert.equal([...rows[0]].map(Number.isNaN), [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1].map(Boolean), backend.kind);
    assert.equal([...rows[1].slice(0, 4)], [0, 0, 0, 0], backend.kind);
    const [picked] = await evaluate(backend, [{ shape: [2] }, bad], ([x, i]) => [gather(x, 0, i)]);
    assert.equal([...picked].map(Number.isNaN), [true, false, true], backend.kind);
    const hot = oneHot(fromData(backend, bad.data, [3], 'i32'), 2);
    assert.equal([...(await hot.data())], [0, 0, 0, 1, 0, 0], backend.kind);
  }
});

test('indexSelect agrees along any dim, and keeps integers', async () => {
  for (const [shape, dim, n] of [
    [[50, 20, 3], 0, 37],
    [[5, 20, 3], 1, 7],
    [[5, 20, 8], -1, 70],
    [[6], 0, 9],
  ] as const) {
    const index = indices([n], shape.at(dim)!);
    await agree([{ shape }, index], ([x, i]) => [indexSelect(x, dim, i)], `[${shape}] ${dim}`);
  }
  for (const backend of backends) {
    const x = fromData(backend, [5, -6, 7], [3], 'i32');
    const y = indexSelect(x, 0, fromData(backend, [2, 0], [2], 'i32'));
    assert.equal([y.dtype, ...(await y.data())], ['i32', 7, 5], backend.kind);
  }
});

test('gather agrees along any dim, also with an index smaller beside it', async () => {
  for (const [shape, to, dim] of [
    [[5, 20, 8], [3, 20, 11], -1],
    [[5, 20], [13, 2], 0],
    [[3, 2, 4, 5], [3, 7, 4, 2], 1],
    [[40, 900], [40, 1], 1],
  ] as const) {
    await agree([{ shape }, indices([...to], shape.at(dim)!)], ([x, i]) => [gather(x, dim, i)], `[${shape}] ${dim}`);
  }
});

test('wrong shapes are named', () => {
  const x = fromData(reference, random(6, 1), [2, 3]);
  const index = fromData(reference, [0, 0, 0], [3, 1], 'i32');
  assert.throws(() => gather(x, 1, index), /gather: index has shape \[3, 1\]/);
  assert.throws(() => indexSelect(x, 1, index), (e: Error) => e instanceof ShapeError);
  assert.throws(() => embedding(x, x), /embedding: index has dtype f32, expected i32/);
});

test.run();
