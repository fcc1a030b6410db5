import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../engine/backend.ts';
import type { ElementDType, HostArray } from '../engine/dtype.ts';
import { fromBfloat, fromHalf, toBfloat, toHalf } from '../engine/half.ts';
import { ArgumentError, DTypeError, ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import {
  addInto,
  addScalar,
  arange,
  binary,
  type BinaryName,
  cast,
  clamp,
  clone,
  copy_,
  dropout,
  fill,
  lt,
  mul,
  mulScalar,
  pow,
  unary,
  where,
  zerosLike,
} from '../ops/index.ts';
import { assertNear, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const backends = [reference, gpu];
const test = suite('elementwise ops');

test.after(() => backends.forEach(closeBackend));

async function agree(inputs: readonly Input[], body: (t: Tensor[]) => Tensor[], label: string, tolerance = 1e-5) {
  assertNear(await evaluate(gpu, inputs, body), await evaluate(reference, inputs, body), label, tolerance);
}

/** Two or three shapes that broadcast, with sizes that do and do not divide by four. */
const shapes = (count: number) =>
  fc
    .record({
      full: fc.array(fc.constantFrom(1, 2, 3, 4, 8), { minLength: 0, maxLength: 6 }),
      drop: fc.array(fc.nat(6), { minLength: count, maxLength: count }),
      flat: fc.array(fc.nat(63), { minLength: count, maxLength: count }),
    })
    .map(({ full, drop, flat }) =>
      drop.map((n, k) => full.map((d, i) => ((flat[k] >> i) & 1 ? 1 : d)).slice(Math.min(n, full.length))),
    );

test('functions of two arguments agree under any broadcasting', async () => {
  const name = fc.constantFrom<BinaryName[]>('sub', 'div', 'maximum');
  await fc.assert(
    fc.asyncProperty(name, shapes(2), async (op, [a, b]) => {
      const away = { shape: b, data: random(elements(b), 7, 1, op === 'div' ? 2 : 0) };
      await agree([{ shape: a }, away], ([x, y]) => [binary(op, x, y)], `${op} [${a}] [${b}]`);
    }),
    { numRuns: 40, seed: 1 },
  );
});

test('where agrees under any broadcasting', async () => {
  await fc.assert(
    fc.asyncProperty(shapes(3), async ([c, a, b]) => {
      const cond = Int32Array.from(random(elements(c), 3), (v) => Number(v > 0) * 2);
      await agree([{ shape: c, data: cond }, { shape: a }, { shape: b }], ([m, x, y]) => [where(m, x, y)], `${c}`);
    }),
    { numRuns: 20, seed: 2 },
  );
});

test('rows and columns of a size that takes the wide path', async () => {
  const inputs = [{ shape: [37, 12] }, { shape: [12] }, { shape: [37, 1] }, { shape: [] }];
  await agree(inputs, ([x, row]) => [mul(x, row)], 'row');
  await agree(inputs, ([x, , column]) => [mul(x, column)], 'column');
  await agree(inputs, ([x, , , one]) => [mul(one, x)], 'scalar');
  await agree(inputs, ([, row, column]) => [mul(column, row)], 'outer product');
  const middle = [{ shape: [3, 8, 4] }, { shape: [8, 1] }];
  await agree(middle, ([x, y]) => [mul(x, y)], 'middle');
});

test('a tensor times itself has twice the gradient', async () => {
  await agree([{ shape: [5, 3] }], ([x]) => [mul(x, x)], 'square');
});

test('pow takes negative bases with whole exponents, and zeros', async () => {
  const a = Float32Array.of(-2, -2, -2, 0, 0, 3, 2, -1.5, 5, 0);
  const b = Float32Array.of(2, 3, -1, 0, 2, 0, -2.5, 0, 1, 1);
  for (const backend of backends) {
    const y = pow(fromData(backend, a, [10]), fromData(backend, b, [10]));
    assertNear([await y.data()], [Float32Array.of(4, -8, -0.5, 1, 0, 1, 2 ** -2.5, 1, 5, 0)], backend.kind, 1e-5);
    const none = await pow(fromData(backend, [-2], [1]), fromData(backend, [0.5], [1])).data();
    assert.ok(Number.isNaN(none[0]), backend.kind);
  }
  const positive = [{ shape: [6], data: random(6, 1, 1, 1) }, { shape: [6], data: random(6, 2, 4) }];
  await agree(positive, ([x, y]) => [pow(x, y)], 'positive');
});

test('clamp, mulScalar and addScalar agree, with one bound or both', async () => {
  for (const bounds of [{ min: -0.3 }, { max: 0.2 }, { min: -0.3, max: 0.2 }]) {
    await agree([{ shape: [7, 3] }], ([x]) => [clamp(x, bounds)], JSON.stringify(bounds));
  }
  await agree([{ shape: [7] }], ([x]) => [mulScalar(x, -1.7), addScalar(x, 0.3)], 'scalars');
});

test('sin and cos are exact to f32 on every driver, far from zero too', async () => {
  const x = Float32Array.from([...random(500, 1, 20), ...random(500, 2, 16000), 0, Math.PI, -Math.PI / 2]);
  for (const name of ['sin', 'cos'] as const) {
    const y = await unary(name, fromData(gpu, x, [x.length])).data();
    x.forEach((v, i) => assert.ok(Math.abs(y[i] - Math[name](v)) < 1e-6, `${name}(${v}) is ${y[i]}`));
  }
});

test('comparison takes integers and refuses mixtures', async () => {
  for (const backend of backends) {
    const big = fromData(backend, [16777217, -5, 3], [3], 'i32');
    const y = await lt(fromData(backend, [16777216], [1], 'i32'), big).data();
    assert.equal([...y], [1, 0, 0]);
    assert.throws(() => lt(big, fromData(backend, [1], [1])), (e: Error) => e instanceof DTypeError);
  }
});

test('half and bfloat16 decode every pattern', async () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  for (const [dtype, decode] of [['f16', fromHalf], ['bf16', fromBfloat]] as const) {
    const got = await cast(fromData(gpu, bits, [65536], dtype), 'f32').data();
    for (let i = 0; i < 65536; i++) {
      const want = decode(i);
      // Drivers may flush numbers below the least normal f32, which only bfloat16 has.
      const same = Object.is(got[i], want) || (Number.isNaN(want) && Number.isNaN(got[i])) ||
        (Math.abs(want) < 2 ** -126 && got[i] === 0);
      assert.ok(same, `${dtype} ${i}: ${got[i]} against ${want}`);
    }
  }
});

test('half and bfloat16 encode with rounding to even, subnormals and infinities', async () => {
  const edge = [0, -0, 1, 65504, 65519.9, 65520, 1e9, -1e9, 2 ** -14, 2 ** -24, 2 ** -25, 2 ** -25 * 1.01, 6e-8, 1e-7];
  const between = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -14 - 2 ** -25, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 / 0, -1 / 0];
  const values = Float32Array.from([...edge, ...between, ...random(2001, 5, 300), ...random(500, 6, 1e-4)]);
  for (const [dtype, encode] of [['f16', toHalf], ['bf16', toBfloat]] as const) {
    const got = await cast(fromData(gpu, values, [values.length]), dtype).data();
    assert.equal([...got], Array.from(values, encode), dtype);
  }
});

test('casts between all kinds agree, and floats carry gradients', async () => {
  const data: Record<ElementDType, HostArray | number[]> = {
    f32: [-2.7, -0.5, 0, 0.49, 3.99, 1e6, 250.5],
    f16: Uint16Array.from([-2.7, -0.5, 0, 0.49, 3.99, 6e4, 250.5], toHalf),
    bf16: Uint16Array.from([-2.7, -0.5, 0, 0.49, 3.99, 1e6, 250.5], toBfloat),
    i32: [-7, -1, 0, 1, 2, 99999, 2147483647],
    u32: [0, 1, 2, 3, 4, 99999, 4294967295],
    bool: [0, 1, 1, 0, 1, 0, 1],
  };
  const kinds = Object.keys(data) as ElementDType[];
  for (const from of kinds) {
    for (const to of kinds) {
      const run = async (k: number) => [...(await cast(fromData(backends[k], data[from], [7], from), to).data())];
      assert.equal(await run(1), await run(0), `${from} to ${to}`);
    }
  }
  for (const to of ['f16', 'bf16'] as const) {
    await agree([{ shape: [5, 3] }], ([x]) => [cast(cast(x, to), 'f32')], to, 0);
  }
});

test('fill, arange, clone, copy_ and addInto', async () => {
  for (const backend of backends) {
    const of = async (t: Tensor) => [...(await t.data())];
    assert.equal(await of(fill(backend, [3], -2, 'i32')), [-2, -2, -2]);
    assert.equal(await of(fill(backend, [3], 1.5, 'f16')), Array(3).fill(toHalf(1.5)));
    assert.equal(await of(fill(backend, [5], -2.5)), Array(5).fill(-2.5));
    assert.equal(await of(arange(backend, 7, { start: 1, step: 2 })), [1, 3, 5]);
    assert.equal(await of(arange(backend, 0, { start: 1, step: -0.5, dtype: 'f32' })), [1, 0.5]);
    const x = fromData(backend, random(7, 1), [7]);
    const y = clone(x);
    assert.equal(await of(zerosLike(y)), Array(7).fill(0));
    addInto(y, x, 2);
    assertNear([await y.data()], [random(7, 1).map((v) => 3 * v)], backend.kind, 1e-6);
    copy_(x, y);
    assert.equal(await of(x), await of(y));
    const half = fromData(backend, [1, 2, 3], [3], 'bf16');
    assert.equal(await of(clone(half)), [1, 2, 3].map(toBfloat));
    assert.throws(() => addInto(x, x), (e: Error) => e instanceof ArgumentError);
    assert.throws(() => copy_(x, half), (e: Error) => e instanceof ShapeError);
    assert.throws(() => copy_(fill(backend, [3], 0), half), (e: Error) => e instanceof DTypeError);
  }
  await agree([{ shape: [4, 3] }], ([x]) => [clone(x)], 'clone', 0);
});

test('dropout drops the same elements on every backend, in backward too', async () => {
  const ones = { shape: [101, 99], data: new Float32Array(9999).fill(1) };
  for (const p of [0.1, 0.5, 1]) {
    const body = ([x]: Tensor[]) => [dropout(x, p, 2 ** 40 + 3)];
    const [y, dx] = await evaluate(reference, [ones], body);
    assertNear(await evaluate(gpu, [ones], body), [y, dx], `p ${p}`, 1e-6);
    const kept = y.filter((v: number) => v !== 0).length;
    assert.ok(Math.abs(kept / 9999 - (1 - p)) < 0.015, `${kept} kept of 9999 at p ${p}`);
    assert.ok(y.every((v: number, i: number) => (v === 0) === (dx[i] === 0)));
    assert.ok(y.every((v: number) => v === 0 || Math.abs(v - 1 / (1 - p)) < 1e-6));
  }
});

test('dropout differs by seed and is not periodic', async () => {
  const ones = fromData(reference, new Float32Array(4096).fill(1), [4096]);
  const masks = await Promise.all([1, 2, 2 ** 32 + 1].map((seed) => dropout(ones, 0.5, seed).data()));
  const same = (a: HostArray, b: HostArray) => a.filter((v: number, i: number) => v === b[i]).length / a.length;
  for (const [i, j] of [[0, 1], [0, 2], [1, 2]]) assert.ok(Math.abs(same(masks[i], masks[j]) - 0.5) < 0.05);
  for (const lag of [1, 2, 64, 256]) {
    assert.ok(Math.abs(same(masks[0].slice(lag), masks[0].slice(0, -lag)) - 0.5) < 0.05, `lag ${lag}`);
  }
  assert.throws(() => dropout(ones, 1.5, 1), (e: Error) => e instanceof ArgumentError);
  assert.throws(() => dropout(ones, 0.5, -1), (e: Error) => e instanceof ArgumentError);
  assert.is(dropout(ones, 0, 1), ones);
});

test('shapes that do not broadcast are named', () => {
  const [a, b] = [fill(reference, [3, 4], 0), fill(reference, [3], 0)];
  assert.throws(() => mul(a, b), /mul: shapes \[3, 4\] and \[3\]/);
});

test.run();
