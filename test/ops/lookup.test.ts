import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { backward, embedding, fill, gather, indexSelect, oneHot } from '../../ops/index.ts';
import { evaluate, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu } from '../support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const backends = [reference, gpu];
const test = suite('lookups');

test.after(() => backends.forEach(closeBackend));

test('the gradient of an embedding has the same bits twice', async () => {
  // Half of them the same, as padding is.
  const ids = Int32Array.from(random(5000, 11, 40, 20), (v, i) => (i % 2 ? 39 : Math.floor(v)));
  const inputs = [{ shape: [40, 64] }, { shape: [5000], data: ids }];
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

test('indexSelect keeps integers', async () => {
  for (const backend of backends) {
    const y = indexSelect(fromData(backend, [5, -6, 7], [3], 'i32'), 0, fromData(backend, [2, 0], [2], 'i32'));
    assert.equal([y.dtype, ...(await y.data())], ['i32', 7, 5], backend.kind);
  }
});

test.run();
