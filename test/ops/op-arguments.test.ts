import * as assert from 'uvu/assert';
import type { DType } from '../../engine/dtype.ts';
import { ArgumentError, DTypeError, MatvlmError, ShapeError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { ROWS } from '../cases/index.ts';
import { throws } from '../support/expect.ts';
import { Inputs, random } from '../support/inputs.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { attention, fill, linear, matmul, mean, norm, sum, zeros } = ops;
const { test, backends } = await suiteOnBackends('sizes of zero and arguments that do not fit');

const list = async (t: Tensor): Promise<number[]> => [...(await t.data())];

for (const [op, { takes = {}, refuses = [] }] of Object.entries(ROWS)) {
  for (const [name, [{ says, good, bad }, use]] of Object.entries(takes)) {
    test(`${name} of ${op} ${says}`, () => {
      for (const backend of backends) {
        const call = (value: unknown) => new Inputs(backend).call((t) => use(t, value as never));
        for (const value of good) call(value);
        for (const value of bad) throws(() => call(value), MatvlmError, '', `${backend.kind}: ${value}`);
      }
    });
  }
  for (const [what, call, error, says] of refuses) {
    test(`${op} of ${what} is refused`, () => {
      for (const backend of backends) throws(() => new Inputs(backend).call(call), error, says, backend.kind);
    });
  }
}

test('null is an operand that is absent, and what is no tensor is none', async () => {
  for (const backend of backends) {
    const [x, w] = [fromData(backend, [1, 2, 3, 5], [2, 2]), fromData(backend, [1, 1], [2])];
    const labels = fromData(backend, [0, 1], [2], 'i32');
    const given = { weight: null as unknown as undefined };
    const [nulls, plain] = [ops.crossEntropy(x, labels, given), ops.crossEntropy(x, labels)];
    assert.equal(await list(nulls), await list(plain), backend.kind);
    assert.equal((await list(ops.layerNorm(x, w, null as unknown as Tensor))).map(Math.round), [-1, 1, -1, 1], backend.kind);
    const zero = { weight: 0 as unknown as Tensor };
    throws(() => ops.crossEntropy(x, labels, zero), MatvlmError, /cross_entropy: /, backend.kind);
    throws(() => ops.rmsNormGated(x, undefined as unknown as Tensor, w), ShapeError, /rms_norm_gated: z is missing/);
    throws(() => ops.cat([x, undefined as unknown as Tensor]), MatvlmError, /cat: undefined was given/);
  }
});

test('an activation that kernels do not know is refused', () => {
  for (const backend of backends) {
    const [x, w] = [fromData(backend, [1, -1], [1, 2]), fromData(backend, [1, 0, 0, 1], [2, 2])];
    for (const activation of ['relu', (t: Tensor) => ops.neg(t), ops.softmax] as unknown as ops.Activation[]) {
      throws(() => linear(x, w, null, { activation }), ArgumentError, /linear: activation is .*geluTanh/, backend.kind);
    }
  }
});

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
    ops.backward(sum(wide));
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
});

test('an index out of range of integers gives 0', async () => {
  for (const backend of backends) {
    const index = fromData(backend, [-1, 1, 2], [3], 'i32');
    for (const dtype of ['i32', 'u32', 'bool'] as const) {
      const x = fromData(backend, [1, 1], [2], dtype);
      assert.equal(await list(ops.gather(x, 0, index)), [0, 1, 0], `${backend.kind} ${dtype}`);
      assert.equal(await list(ops.indexSelect(x, 0, index)), [0, 1, 0], `${backend.kind} ${dtype}`);
    }
  }
});

test('expand takes −1 for a size that stays', async () => {
  for (const backend of backends) {
    const x = fromData(backend, [1, 2], [2, 1]);
    const y = ops.expand(x, [3, -1, 2]);
    assert.equal(y.shape, [3, 2, 2]);
    assert.equal(await list(y), [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2], backend.kind);
  }
});

test('what may be left out may be null', async () => {
  const none = null as never;
  for (const b of backends) {
    const [q, x, w] = [fill(b, [1, 2, 4, 4], 0.5), fill(b, [1, 2, 2], 0.5), fill(b, [2, 2], 0.5)];
    assert.equal(await list(attention(q, q, q, { keyCount: none, mask: none })), await list(attention(q, q, q)), b.kind);
    const conv = (missing: never) => list(ops.causalConv1d(x, w, missing, { initial: missing }));
    assert.equal(await conv(undefined as never), await conv(none), b.kind);
  }
});

test('keyCount below 0 is none, above the room is all', async () => {
  for (const b of backends) {
    const q = fill(b, [1, 1, 1, 4], 0.5);
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
    const moved = await list(ops.rope(t, { start: fromData(b, [-2], [1], 'i32') }));
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
      throws(make, ArgumentError, '', `${b.kind} ${dtype} of ${data}`);
      assert.is(b.memory.live, live, 'nothing is left behind');
    }
  }
});

test('backward refuses a gradient of another dtype', () => {
  for (const backend of backends) {
    const x = fill(backend, [3], 1);
    x.requiresGrad = true;
    const grad = fill(backend, [3], 1, 'i32');
    const refused = (run: () => void) => throws(run, DTypeError, /gradient of dtype i32, expected f32/, backend.kind);
    refused(() => ops.backward(ops.mul(x, x), grad));
    refused(() => ops.backwardFrom([ops.mul(x, x)], [grad]));
  }
});

test.run();
