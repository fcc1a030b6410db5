import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, ShapeError } from '../engine/errors.ts';
import { fromData, fromDataTogether, type Tensor, update, updateTogether } from '../engine/tensor.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { add, mulScalar } from '../ops/index.ts';
import type { Backend } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { closeBackend, openGpu } from './support/backends.ts';

const gpu = await openGpu();
const backends: Backend[] = [new ReferenceBackend(), await WasmBackend.create({ poison: true }), gpu];
const test = suite('uploads');
test.after(() => closeBackend(gpu));
const values = async (t: Tensor) => [...(await t.data())];

for (const backend of backends) {
  test(`${backend.kind}: a tensor is filled in pieces`, async () => {
    const x = fromData(backend, [0, 0, 0, 0, 0], [5]);
    backend.write(x.buffer, Float32Array.of(4, 5), 3);
    backend.write(x.buffer, Float32Array.of(1, 2, 3), 0);
    assert.equal(await values(x), [1, 2, 3, 4, 5]);
    const half = fromData(backend, [0, 0, 0, 0, 0], [5], 'f16');
    backend.write(half.buffer, Uint16Array.of(5), 4);
    backend.write(half.buffer, Uint16Array.of(3, 4), 2);
    assert.equal(await values(half), [0, 0, 3, 4, 5]);
    for (const [data, start] of [[[1, 2, 3], 3], [[1], -1]] as const) {
      assert.throws(() => backend.write(x.buffer, Float32Array.from(data), start), (e: Error) => e instanceof ArgumentError);
    }
    assert.throws(() => backend.write(half.buffer, Uint16Array.of(1), 1), /even/);
    for (const t of [x, half]) t.dispose();
  });

  test(`${backend.kind}: tensors that go up together are tensors like others`, async () => {
    const parts = { ids: { data: [1, -2, 3], shape: [3], dtype: 'i32' as const }, x: { data: [0.5], shape: [1] } };
    const first = fromDataTogether(backend, parts);
    assert.equal([await values(first.ids), await values(first.x)], [[1, -2, 3], [0.5]]);
    const y = add(first.x, first.x);
    updateTogether(first, { ids: [7, 8, 9], x: [2] });
    update(first.ids, [5, 6, 7]);
    assert.equal([await values(first.ids), await values(first.x), await values(y)], [[5, 6, 7], [2], [1]]);
    assert.throws(() => updateTogether(first, { ids: [1], x: [2] }), (e: Error) => e instanceof ShapeError);
    assert.throws(() => update(first.ids, [1, 2, 0.5]), (e: Error) => e instanceof ArgumentError);
    first.ids.dispose();
    assert.equal(await values(mulScalar(first.x, 3)), [6]);
    first.x.dispose();
    const again = fromDataTogether(backend, parts);
    assert.equal([await values(again.ids), await values(again.x)], [[1, -2, 3], [0.5]]);
    for (const t of [again.ids, again.x, y]) t.dispose();
  });
}

for (const backend of backends) {
  if (!(backend instanceof WebGpuBackend)) continue;
  test('a write to what no waiting dispatch uses sends nothing off', async () => {
    const [a, b] = [fromData(backend, [1], [1]), fromData(backend, [1], [1])];
    await backend.sync();
    const { queue } = backend.device;
    const submit = queue.submit.bind(queue);
    let submits = 0;
    queue.submit = (buffers) => (submits++, submit(buffers));
    const y = mulScalar(a, 2);
    update(b, [3]);
    assert.is(submits, 0);
    update(a, [5]);
    assert.is(submits, 1, 'its reader goes first');
    assert.equal([await values(y), await values(a), await values(b)], [[2], [5], [3]]);
    delete (queue as { submit?: unknown }).submit;
    for (const t of [a, b, y]) t.dispose();
  });
}

test.run();
