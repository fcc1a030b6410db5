import * as assert from 'uvu/assert';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { ArgumentError, ShapeError } from '../../engine/errors.ts';
import { fromData, fromDataTogether, type Tensor, update, updateTogether } from '../../engine/tensor.ts';
import { add, mulScalar } from '../../ops/index.ts';
import { throws } from '../support/expect.ts';
import { freeOwned, own } from '../support/owned.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends, reference, wasm } = await suiteOnBackends('uploads');
test.after.each(freeOwned);

const values = (...tensors: Tensor[]) => Promise.all(tensors.map(async (t) => [...(await t.data())]));

for (const backend of backends) {
  test(`${backend.kind}: a tensor is filled in pieces`, async () => {
    const [x, half] = (['f32', 'f16'] as const).map((dtype) => own(fromData(backend, Array(5).fill(0), [5], dtype)));
    backend.write([x.buffer], [Float32Array.of(4, 5)], 3);
    backend.write([x.buffer], [Float32Array.of(1, 2, 3)], 0);
    backend.write([half.buffer], [Uint16Array.of(5)], 4);
    backend.write([half.buffer], [Uint16Array.of(3, 4)], 2);
    assert.equal(await values(x, half), [[1, 2, 3, 4, 5], [0, 0, 3, 4, 5]]);
    for (const [data, start] of [[[1, 2, 3], 3], [[1], -1]] as const) {
      throws(() => backend.write([x.buffer], [Float32Array.from(data)], start), ArgumentError);
    }
    throws(() => backend.write([half.buffer], [Uint16Array.of(1)], 1), Error, /even/);
  });

  test(`${backend.kind}: tensors that go up together are tensors like others`, async () => {
    const parts = { ids: { data: [1, -2, 3], shape: [3], dtype: 'i32' as const }, x: { data: [0.5], shape: [1] } };
    const together = () => {
      const made = fromDataTogether(backend, parts);
      return { ids: own(made.ids), x: own(made.x) };
    };
    const first = together();
    assert.equal(await values(first.ids, first.x), [[1, -2, 3], [0.5]]);
    const y = own(add(first.x, first.x));
    updateTogether(first, { ids: [7, 8, 9], x: [2] });
    update(first.ids, [5, 6, 7]);
    assert.equal(await values(first.ids, first.x, y), [[5, 6, 7], [2], [1]]);
    throws(() => updateTogether(first, { ids: [1], x: [2] }), ShapeError);
    throws(() => update(first.ids, [1, 2, 0.5]), ArgumentError);
    first.ids.dispose();
    assert.equal(await values(own(mulScalar(first.x, 3))), [[6]]);
    first.x.dispose();
    const again = together();
    assert.equal(await values(again.ids, again.x), [[1, -2, 3], [0.5]]);
  });

  if (!(backend instanceof WebGpuBackend)) continue;
  test('a write to what no waiting dispatch uses sends nothing off', async () => {
    const [a, b] = [1, 1].map((value) => own(fromData(backend, [value], [1])));
    await backend.sync();
    const { queue } = backend.device;
    const submit = queue.submit.bind(queue);
    let submits = 0;
    queue.submit = (buffers) => (submits++, submit(buffers));
    const y = own(mulScalar(a, 2));
    update(b, [3]);
    assert.is(submits, 0);
    update(a, [5]);
    assert.is(submits, 1, 'its reader goes first');
    assert.equal(await values(y, a, b), [[2], [5], [3]]);
    delete (queue as { submit?: unknown }).submit;
  });
}

test('tensors of two devices are not filled in one transfer', () => {
  const [a, b] = [wasm, reference].map((backend) => own(fromData(backend, [1], [1])));
  throws(() => updateTogether({ a, b }, { a: [2], b: [3] }), ArgumentError, /updateTogether: b is on another device than a/);
});

test.run();
