import * as assert from 'uvu/assert';
import { apply } from '../../engine/apply.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import type { Backend } from '../../engine/backend.ts';
import type { DType, HostArray } from '../../engine/dtype.ts';
import { ArgumentError, DTypeError, KernelError, MatvlmError, ShapeError } from '../../engine/errors.ts';
import { defineOp } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { add, backward, cast, checkpoint, embedding, mul, slice, square, sum } = ops;
const { test, backends, wasm } = await suiteOnBackends('gradients: whose dtype and buffer they have');

const HALVES = ['f16', 'bf16'] as const;
const numbers = async (t: Tensor): Promise<number[]> => [...(await cast(t, 'f32').data())];

type Data = readonly number[] | HostArray;

function leaf(backend: Backend, data: Data, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  const tensor = fromData(backend, data, shape, dtype);
  tensor.requiresGrad = true;
  return tensor;
}

const counting = (n: number) => Array.from({ length: n }, (_, i) => i + 1);
const ids = (backend: Backend, ...values: number[]) => fromData(backend, values, [values.length], 'i32');
const twos = [1, 1, 2, 2, 0, 0, 0, 0];

/** What is done with an embedding's 16-bit weight of shape (4, 2), and the gradient that must come of it. */
const PATHS: Record<string, [loss: (w: Tensor) => Tensor, want: readonly number[]]> = {
  alone: [(w) => sum(embedding(w, ids(w.backend, 0, 1, 1))), twos],
  'behind slice': [(w) => sum(embedding(slice(w, 0, 0, 2), ids(w.backend, 0, 1, 1))), twos],
  'behind a slice with a step': [
    (w) => sum(embedding(slice(w, 0, 1, null, 2), ids(w.backend, 0, 1, 1))),
    [0, 0, 1, 1, 0, 0, 2, 2],
  ],
  'behind split': [(w) => sum(embedding(ops.split(w, [1, 3])[1], ids(w.backend, 0, 2, 2))), [0, 0, 1, 1, 0, 0, 2, 2]],
  'behind reshape and cat': [
    (w) => sum(embedding(ops.reshape(ops.cat([w, w]), [8, 2]), ids(w.backend, 1, 5, 7))),
    [0, 0, 2, 2, 0, 0, 1, 1],
  ],
  'behind clone and arithmetic': [
    (w) => sum(embedding(ops.mulScalar(ops.addScalar(ops.clone(w), 1), 2), ids(w.backend, 0, 1, 1))),
    [2, 2, 4, 4, 0, 0, 0, 0],
  ],
  'tied to a product': [
    (w) => add(sum(embedding(w, ids(w.backend, 0, 1, 1))), sum(ops.linear(fromData(w.backend, [1, 2], [1, 2]), w))),
    [2, 3, 3, 4, 1, 2, 1, 2],
  ],
  'in a checkpoint': [
    (w) => sum(checkpoint(([p]) => [embedding(slice(p, 0, 0, 2), ids(p.backend, 0, 1, 1))], [w])[0]),
    twos,
  ],
  'closed over by a checkpoint': [
    (w) => {
      const one = fromData(w.backend, [1], []);
      return sum(checkpoint(([p]) => [mul(embedding(w, ids(w.backend, 0, 1, 1)), p)], [one])[0]);
    },
    twos,
  ],
};

for (const [path, [loss, want]] of Object.entries(PATHS)) {
  test(`the gradient of an embedding in 16 bits, ${path}, has its dtype and adds up`, async () => {
    for (const backend of backends) {
      for (const dtype of HALVES) {
        const w = leaf(backend, counting(8), [4, 2], dtype);
        const label = `${backend.kind} ${dtype}`;
        scope(() => backward(loss(w)));
        assert.is(w.grad!.dtype, dtype, label);
        assert.equal(await numbers(w.grad!), want, label);
        scope(() => backward(loss(w)));
        assert.is(w.grad!.dtype, dtype, label);
        assert.equal(await numbers(w.grad!), want.map((v) => 2 * v), `${label}, added up`);
        w.dispose();
      }
    }
  });
}

test('the gradient of a slice of 16-bit rows changes no other tensor', async () => {
  for (const backend of backends) {
    for (const dtype of HALVES) {
      scope(() => {
        const w = leaf(backend, new Float32Array(64), [32, 2], dtype);
        const others = Array.from({ length: 8 }, () => fromData(backend, counting(32), [32]));
        backward(sum(embedding(slice(w, 0, 16, 32), ids(backend, 0, 15, 15))));
        return [w.grad!.detach(), ...others];
      }).forEach(async (t, i) => {
        const want = i > 0 ? counting(32) : counting(64).map((n) => (n > 62 ? 2 : n === 33 || n === 34 ? 1 : 0));
        assert.equal(await numbers(t), want, `${backend.kind} ${dtype} ${i}`);
        t.dispose();
      });
      await backend.sync();
    }
  }
});

/** What gives two leaves, or a leaf and the caller, one gradient. */
const SHARING: Record<string, (a: Tensor, c: Tensor, given: Tensor) => void> = {
  'a sum of two leaves': (a, c, given) => backward(add(a, c), given),
  'a sum of leaves times a constant': (a, c, given) => backward(sum(mul(add(a, c), given))),
  'clones and reshapes': (a, c, given) => {
    backward(add(ops.reshape(ops.clone(a), [2, 1]), ops.reshape(c, [2, 1])), ops.reshape(given, [2, 1]));
  },
  'a leaf that is the root': (a, c, given) => ops.backwardFrom([a, c], [given, given]),
  'a checkpoint of a sum': (a, c, given) => backward(checkpoint(([x, y]) => [add(x, y)], [a, c])[0], given),
  'a checkpoint that gives back its inputs': (a, c, given) => {
    ops.backwardFrom(checkpoint((inputs) => inputs, [a, c]), [given, given]);
  },
  'adding a number': (a, c, given) => backward(add(ops.addScalar(a, 1), ops.addScalar(c, 2)), given),
};

for (const [what, run] of Object.entries(SHARING)) {
  test(`no two leaves share a gradient, nor does one with its caller: ${what}`, async () => {
    for (const backend of backends) {
      for (const dtype of ['f32', ...HALVES] as const) {
        const [a, c] = [leaf(backend, [1, 2], [2], dtype), leaf(backend, [3, 4], [2], dtype)];
        const given = fromData(backend, [10, 20], [2], dtype);
        const halve = (t: Tensor) => ops.copy_(t, cast(fromData(backend, [5, 10], [2]), dtype));
        scope(() => run(a, c, given));
        for (const x of [a, c]) assert.equal(await numbers(x.grad!), [10, 20], `${backend.kind} ${dtype}`);
        halve(a.grad!);
        assert.equal(await numbers(c.grad!), [10, 20], `${backend.kind} ${dtype}: the other leaf's`);
        assert.equal(await numbers(given), [10, 20], `${backend.kind} ${dtype}: the one handed in`);
        halve(given);
        halve(c.grad!);
        assert.equal(await numbers(a.grad!), [5, 10], `${backend.kind} ${dtype}`);
        for (const t of [a, c, given]) t.dispose();
      }
    }
  });
}

test('a checkpoint whose body gives back a leaf leaves it a leaf, step after step', async () => {
  for (const backend of backends) {
    const { live } = backend.memory;
    const [x, w] = [leaf(backend, [1, 2], [2]), leaf(backend, [3, 4], [2])];
    const bodies: [(inputs: Tensor[]) => Tensor[], number[], number[]][] = [
      [([p]) => [p, mul(p, p)], [3, 5], [0, 0]],
      [([p]) => [p, p], [2, 2], [0, 0]],
      [([p]) => [ops.reshape(p, [2]), slice(p, 0, 0)], [2, 2], [0, 0]],
      [([p]) => [w, mul(p, w)], [3, 4], [2, 3]],
      [([p]) => { const y = mul(p, w); return [y, y]; }, [6, 8], [2, 4]],
    ];
    for (const [k, [body, dx, dw]] of bodies.entries()) {
      for (let step = 1; step <= 2; step++) {
        scope(() => backward(checkpoint(body, [x]).map((y) => sum(y)).reduce(add)));
        assert.ok(x.node === null && w.node === null, `${backend.kind} ${k}`);
        assert.equal(await numbers(x.grad!), dx.map((v) => v * step), `${backend.kind} ${k}`);
        assert.equal(w.grad ? await numbers(w.grad) : [0, 0], dw.map((v) => v * step), `${backend.kind} ${k}`);
      }
      for (const t of [x, w]) {
        t.grad?.dispose();
        t.grad = null;
      }
    }
    x.dispose();
    w.dispose();
    assert.is(backend.memory.live, live, backend.kind);
  }
});

test('the outputs of a checkpoint may be freed without their input', async () => {
  for (const backend of backends) {
    const x = leaf(backend, [1, 2], [2]);
    const [y, z] = checkpoint(([p]) => [p, p], [x]);
    y.dispose();
    assert.equal(await numbers(z), [1, 2], backend.kind);
    z.dispose();
    assert.equal(await numbers(x), [1, 2], backend.kind);
    x.dispose();
  }
});

test('integers and bool can require no gradient, and what is computed of them is off the tape', () => {
  for (const backend of backends) {
    for (const dtype of ['i32', 'u32', 'bool'] as const) {
      const x = fromData(backend, [1, 0], [2], dtype);
      throws(() => (x.requiresGrad = true), DTypeError, /f32, f16 and bf16/);
      assert.not.throws(() => (x.requiresGrad = false));
      const floats = leaf(backend, [1, 2], [2]);
      assert.not.ok(cast(floats, dtype).requiresGrad, dtype);
    }
    throws(() => (fromData(backend, new Array(64).fill(1), [64], 'int8').requiresGrad = true), DTypeError, /bf16 can/);
  }
});

test('a graph that ends in integers goes with its tensors', () => {
  for (const backend of backends) {
    const { live } = backend.memory;
    const x = fromData(backend, [1, 2], [2]);
    x.requiresGrad = true;
    const y = square(x);
    for (const t of [cast(y, 'i32'), y, x]) t.dispose();
    assert.is(backend.memory.live, live, backend.kind);
  }
});

test('what is written over may not be on the tape, but off it', () => {
  for (const backend of backends) {
    const [x, y] = [leaf(backend, [1, 2], [2]), fromData(backend, [3, 4], [2])];
    const z = square(x);
    throws(() => ops.copy_(z, y), ArgumentError, /copy_: writes to .*, which backward may go through/);
    noGrad(() => ops.copy_(z, y));
    ops.copy_(z.detach(), y);
  }
});

test('an op whose backward gives another dtype or shape is named', () => {
  for (const backend of backends) {
    const broken = (gradient: (dy: Tensor) => Tensor) =>
      defineOp({
        name: 'broken',
        inputs: ['x'],
        outputs: ['y'],
        shape: ({ x }) => ({ y: x }),
        reference: ({ x }, { y }) => y.data.set(x.data),
        webgpu: () => [],
        backward: ({ grads }) => ({ x: gradient(grads.y!) }),
      });
    const run = (op: ReturnType<typeof broken>) =>
      scope(() => backward(sum(apply(op, { x: leaf(backend, [1, 2], [2]) }, {}).y)));
    throws(() => run(broken((dy) => cast(dy, 'f16'))), DTypeError, /^broken: .*x.* f16, expected f32/);
    throws(() => run(broken((dy) => ops.reshape(dy, [2, 1]))), ShapeError, /^broken: .*x.*\[2, 1\], expected \[2\]/);
  }
});

test('a gradient set by hand that is not as its leaf is refused', () => {
  for (const backend of backends) {
    const x = leaf(backend, [1, 2], [2], 'f16');
    x.grad = fromData(backend, [1, 2], [2]);
    throws(() => backward(sum(x)), DTypeError, /holds a gradient of dtype f32/);
    x.dispose();
  }
});

test('ops that write in place refuse another dtype and what does not fit', () => {
  for (const backend of backends) {
    const of = (shape: number[], dtype: DType = 'f32') => ops.zeros(backend, shape, dtype);
    const refused = (body: () => unknown) => throws(body, MatvlmError);
    scope(() => {
      refused(() => ops.copy_(of([4], 'f16'), of([4])));
      refused(() => ops.copy_(of([4]), of([5])));
      const into = (dst: Tensor, src: Tensor, start: number) => ops.sliceScatter_(dst, src, 0, start);
      assert.not.throws(() => into(of([4, 2], 'f16'), of([2, 2], 'f16'), 2));
      refused(() => into(of([4, 2], 'f16'), of([2, 2]), 0));
      refused(() => into(of([4, 2]), of([2, 2], 'f16'), 0));
      refused(() => into(of([4, 2]), of([2, 2]), 3));
      refused(() => into(of([4, 2]), of([2, 2]), -1));
      refused(() => into(of([4, 2]), of([5, 2]), 0));
      refused(() => into(of([4, 2]), of([2, 3]), 0));
    });
  }
});

test('every backend refuses to write what is not of the size and dtype of its buffer', async () => {
  for (const backend of backends) {
    const x = fromData(backend, [1, 2, 3], [3]);
    const half = fromData(backend, [1, 2, 3], [3], 'f16');
    const refused = (buffer: Tensor['buffer'], data: HostArray) =>
      throws(() => backend.write([buffer], [data]), ArgumentError, /^write: .*expected/, backend.kind);
    for (const data of [new Float32Array(4), new Float32Array(2), new Int32Array(3), new Uint16Array(6)]) {
      refused(x.buffer, data);
    }
    for (const data of [new Float32Array(3), new Uint16Array(4)]) refused(half.buffer, data);
    backend.write([x.buffer], [Float64Array.of(4, 5, 6)]);
    assert.equal([...(await x.data())], [4, 5, 6], backend.kind);
    for (const t of [x, half]) t.dispose();
  }
});

test('the poisoned WASM backend names an op that writes beside its buffers', () => {
  const overrun = (before: number) =>
    defineOp({
      name: 'overrun',
      inputs: ['x'],
      outputs: ['y'],
      asStored: { wasm: ['y'] },
      shape: ({ x }) => ({ y: x }),
      reference: () => {},
      webgpu: () => [],
      wasm(_, { y }, __, { k }) {
        k.fill(at(y, -4 * before), before + 1, 1);
        return true;
      },
    });
  for (const dtype of ['f32', ...HALVES] as const) {
    const x = fromData(wasm, [1], [1], dtype);
    const named = (before: number) =>
      throws(() => apply(overrun(before), { x }, {}), KernelError, /^overrun: wrote/, dtype);
    named(1);
    if (dtype !== 'f32') named(0);
    else assert.not.throws(() => apply(overrun(0), { x }, {}));
    x.dispose();
  }
});

test.run();
