import * as assert from 'uvu/assert';
import { scope } from '../../engine/scope.ts';
import { fromData } from '../../engine/tensor.ts';
import { backward, embedding, fill, gather, indexSelect, oneHot } from '../../ops/index.ts';
import type { Make } from '../cases/case.ts';
import { evaluate } from '../support/agree.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends, gpu } = await suiteOnBackends('lookups');

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
    const bad = (t: Make) => t.values([-1, 1, 2], [3], 'i32');
    for (const width of [1, 4, 5, 8]) {
      const [y, dw] = await evaluate(backend, (t) => embedding(t(2, width), bad(t)));
      const told = [...y].map(Number.isNaN);
      const want = [true, false, true].flatMap((none) => new Array<boolean>(width).fill(none));
      assert.equal(told, want, backend.kind);
      assert.equal([...dw.slice(0, width)], new Array<number>(width).fill(0), backend.kind);
    }
    const [picked] = await evaluate(backend, (t) => gather(t(2), 0, bad(t)));
    assert.equal([...picked].map(Number.isNaN), [true, false, true], backend.kind);
    const [hot] = await evaluate(backend, (t) => oneHot(bad(t), 2));
    assert.equal([...hot], [0, 0, 0, 1, 0, 0], backend.kind);
  }
});

test('indexSelect keeps integers', async () => {
  for (const backend of backends) {
    const y = indexSelect(fromData(backend, [5, -6, 7], [3], 'i32'), 0, fromData(backend, [2, 0], [2], 'i32'));
    assert.equal([y.dtype, ...(await y.data())], ['i32', 7, 5], backend.kind);
  }
});

test.run();
