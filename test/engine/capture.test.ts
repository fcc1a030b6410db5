import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { capture } from '../../engine/capture.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { add, backward, clone, copy_, linear, mul, mulScalar, sliceScatter_, square, sum } from '../../ops/index.ts';
import { throws } from '../support/expect.ts';
import { freeOwned, own } from '../support/owned.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('capture and replay');
test.after.each(freeOwned);

const list = async (t: Tensor) => [...(await t.data())];
const write = (t: Tensor, ...data: number[]) => t.backend.write([t.buffer], [Float32Array.from(data)]);

for (const backend of backends) {
  const on = `on ${backend.kind}`;
  const given = (...[data, shape, dtype]: [number[], number[]?, 'i32'?]) =>
    own(fromData(backend, data, shape ?? [data.length], dtype));

  test(`a replay computes from what its inputs hold by then, ${on}`, async () => {
    const [x, w] = [given([1, 2], [1, 2]), given([1, 2, 3, 4, 5, 6], [3, 2])];
    const made = capture(backend, () => mulScalar(add(linear(x, w), linear(x, w)), 0.5));
    assert.equal(await list(own(made.result)), [5, 11, 17]);
    write(x, 10, 1);
    assert.equal(await list(made.result), [5, 11, 17], 'nothing changes by itself');
    made.replay();
    assert.equal(await list(made.result), [12, 34, 56]);
    made.dispose();
  });

  test(`what runs beside a capture never meets its memory, ${on}`, async () => {
    const x = given([1, 2, 3, 4]);
    const made = capture(backend, () => sum(mul(add(x, x), add(x, mulScalar(x, 3)))));
    const others = Array.from({ length: 8 }, (_, i) => given(Array(4).fill(i)));
    made.replay();
    for (const [i, other] of others.entries()) assert.equal(await list(other), Array(4).fill(i));
    assert.equal(await list(own(made.result)), [240]);
    freeOwned();
    made.replay();
    made.dispose();
    throws(() => made.replay(), ArgumentError, /disposed/);
  });

  test(`a step with backward and an update in place goes on where it was, ${on}`, async () => {
    const [eager, replayed] = [given([1, -2, 3]), given([1, -2, 3])];
    const step = (w: Tensor) => {
      w.requiresGrad = true;
      backward(sum(square(w)));
      copy_(w, noGrad(() => add(w, mulScalar(w.grad!, -0.1))));
      w.grad!.dispose();
      w.grad = null;
    };
    for (let i = 0; i < 4; i++) scope(() => step(eager));
    const made = capture(backend, () => step(replayed));
    for (let i = 0; i < 3; i++) made.replay();
    assert.equal(await list(replayed), await list(eager));
    made.dispose();
  });

  test(`a slice is written where a tensor says by then, and never outside, ${on}`, async () => {
    const [cache, row, start] = [given(Array(8).fill(0), [2, 4]), given([1, 2], [2, 1]), given([1], [1], 'i32')];
    const made = capture(backend, () => sliceScatter_(cache, row, 1, start));
    for (const [at, ...values] of [[2, 3, 4], [7, 5, 6], [-9, 7, 8]]) {
      backend.write([start.buffer], [Int32Array.of(at)]);
      write(row, ...values);
      made.replay();
    }
    assert.equal(await list(cache), [7, 1, 3, 5, 8, 2, 4, 6]);
    made.dispose();
  });

  test(`disposing frees all, whether the body ended well or not, ${on}`, async () => {
    await backend.sync();
    const { live } = backend.memory;
    const x = given([1, 2, 3]);
    const made = capture(backend, () => sum(add(x, x)));
    made.dispose();
    assert.equal(await list(own(made.result)), [12], 'the result is a tensor like any other');
    const broken = () => {
      add(x, x);
      throw new Error('enough');
    };
    throws(() => capture(backend, broken), Error, 'enough');
    freeOwned();
    assert.is(backend.memory.live, live);
  });

  test(`what no replay would do is refused, ${on}`, async () => {
    const x = given([1, 2, 3]);
    throws(() => capture(backend, () => given([1])), ArgumentError, /^capture: a tensor is uploaded inside/);
    let reading: Promise<unknown> = Promise.resolve();
    capture(backend, () => void (reading = x.data().catch((e: unknown) => e))).dispose();
    assert.instance(await reading, ArgumentError);
    assert.match(String(await reading), /: capture: a tensor is read back inside/);
    throws(() => capture(backend, () => capture(backend, () => clone(x))), ArgumentError, /another capture/);
    const elsewhere = own(fromData(new ReferenceBackend(), [1], [1]));
    const other = capture(backend, () => clone(x));
    throws(() => capture(backend, () => other.replay()), ArgumentError, /capture: a capture is replayed inside/);
    other.dispose();
    throws(() => capture(backend, () => clone(elsewhere)), ArgumentError, /capture: an op runs on another device/);
    assert.equal(await list(own(add(x, x))), [2, 4, 6], 'and all goes on');
  });
}

test.run();
