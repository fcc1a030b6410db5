import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { capture } from '../engine/capture.ts';
import { ArgumentError } from '../engine/errors.ts';
import { scope } from '../engine/scope.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { add, addInto, backward, clone, linear, mul, mulScalar, sliceScatter_, square, sum } from '../ops/index.ts';
import { closeBackend, openGpu } from './support/backends.ts';

const gpu = await openGpu();
const backends: Backend[] = [new ReferenceBackend(), await WasmBackend.create({ poison: true }), gpu];
const test = suite('capture and replay');
test.after(() => closeBackend(gpu));

const list = async (t: Tensor) => [...(await t.data())];
const write = (t: Tensor, ...data: number[]) => t.backend.write(t.buffer, Float32Array.from(data));

for (const backend of backends) {
  const on = `on ${backend.kind}`;

  test(`a replay computes from what its inputs hold by then, ${on}`, async () => {
    const [x, w] = [fromData(backend, [1, 2], [1, 2]), fromData(backend, [1, 2, 3, 4, 5, 6], [3, 2])];
    const made = capture(backend, () => mulScalar(add(linear(x, w), linear(x, w)), 0.5));
    assert.equal(await list(made.result), [5, 11, 17]);
    write(x, 10, 1);
    assert.equal(await list(made.result), [5, 11, 17], 'nothing changes by itself');
    made.replay();
    assert.equal(await list(made.result), [12, 34, 56]);
    made.result.dispose();
    made.dispose();
    for (const t of [x, w]) t.dispose();
  });

  test(`what runs beside a capture never meets its memory, ${on}`, async () => {
    const x = fromData(backend, [1, 2, 3, 4], [4]);
    const made = capture(backend, () => sum(mul(add(x, x), add(x, mulScalar(x, 3)))));
    const others = Array.from({ length: 8 }, (_, i) => fromData(backend, new Float32Array(4).fill(i), [4]));
    made.replay();
    for (const [i, other] of others.entries()) assert.equal(await list(other), new Array(4).fill(i));
    assert.equal(await list(made.result), [240]);
    for (const t of [x, made.result, ...others]) t.dispose();
    made.replay();
    made.dispose();
    assert.throws(() => made.replay(), (e: Error) => e instanceof ArgumentError && /disposed/.test(e.message));
  });

  test(`a step with backward and an update in place goes on where it was, ${on}`, async () => {
    const eager = fromData(backend, [1, -2, 3], [3]);
    const replayed = fromData(backend, [1, -2, 3], [3]);
    const step = (w: Tensor) => {
      w.requiresGrad = true;
      backward(sum(square(w)));
      addInto(w, w.grad!, -0.1);
      w.grad!.dispose();
      w.grad = null;
    };
    for (let i = 0; i < 4; i++) scope(() => step(eager));
    const made = capture(backend, () => step(replayed));
    for (let i = 0; i < 3; i++) made.replay();
    assert.equal(await list(replayed), await list(eager));
    made.dispose();
    for (const t of [eager, replayed]) t.dispose();
  });

  test(`a slice is written where a tensor says by then, and never outside, ${on}`, async () => {
    const [cache, row] = [fromData(backend, new Float32Array(8), [2, 4]), fromData(backend, [1, 2], [2, 1])];
    const start = fromData(backend, [1], [1], 'i32');
    const made = capture(backend, () => sliceScatter_(cache, row, 1, start));
    for (const [at, ...values] of [[2, 3, 4], [7, 5, 6], [-9, 7, 8]]) {
      backend.write(start.buffer, Int32Array.of(at));
      write(row, ...values);
      made.replay();
    }
    assert.equal(await list(cache), [7, 1, 3, 5, 8, 2, 4, 6]);
    made.dispose();
    for (const t of [cache, row, start]) t.dispose();
  });

  test(`disposing frees all, whether the body ended well or not, ${on}`, async () => {
    await backend.sync();
    const { live } = backend.memory;
    const x = fromData(backend, [1, 2, 3], [3]);
    const made = capture(backend, () => sum(add(x, x)));
    made.dispose();
    assert.equal(await list(made.result), [12], 'the result is a tensor like any other');
    made.result.dispose();
    const broken = () =>
      capture(backend, () => {
        add(x, x);
        throw new Error('enough');
      });
    assert.throws(broken, 'enough');
    x.dispose();
    assert.is(backend.memory.live, live);
  });

  test(`what no replay would do is refused, ${on}`, async () => {
    const x = fromData(backend, [1, 2, 3], [3]);
    const refused = (what: RegExp) => (e: Error) => e instanceof ArgumentError && what.test(e.message);
    assert.throws(() => capture(backend, () => fromData(backend, [1], [1])), refused(/^capture: a tensor is uploaded inside/));
    let reading: Promise<unknown> = Promise.resolve();
    capture(backend, () => {
      reading = x.data().catch((e: unknown) => e);
    }).dispose();
    assert.ok(refused(/^capture: a tensor is read back inside/)((await reading) as Error));
    assert.throws(() => capture(backend, () => capture(backend, () => clone(x))), refused(/another capture/));
    assert.equal(await list(add(x, x)), [2, 4, 6], 'and all goes on');
    x.dispose();
  });
}

test.run();
