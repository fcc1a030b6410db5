import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../engine/backend.ts';
import { ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import {
  amax,
  amin,
  argmax,
  cumsum,
  logSoftmax,
  logsumexp,
  mean,
  norm,
  softmax,
  sum,
  sumTo,
  topk,
} from '../ops/index.ts';
import { assertNear, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const backends = [reference, gpu];
const test = suite('reductions');

test.after(() => backends.forEach(closeBackend));

async function agree(inputs: readonly Input[], body: (t: Tensor[]) => Tensor[], label: string, tolerance = 2e-5) {
  assertNear(await evaluate(gpu, inputs, body), await evaluate(reference, inputs, body), label, tolerance);
}

const kinds = { sum, mean, amax, amin, logsumexp };
const shape = fc
  .array(fc.constantFrom<number[]>(1, 2, 3, 5, 18, 33), { minLength: 0, maxLength: 5 })
  .filter((s) => elements(s) < 5000);

test('reductions agree over any set of dims', async () => {
  const kind = fc.constantFrom(...Object.values(kinds));
  const set = fc.record({ kind, shape, mask: fc.nat(31), keepdim: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(set, async ({ kind, shape, mask, keepdim }) => {
      const dim = shape.flatMap((_, i) => ((mask >> i) & 1 ? [i % 2 ? i : i - shape.length] : []));
      await agree([{ shape }], ([x]) => [kind(x, { dim, keepdim })], `${kind.name} [${shape}] ${dim}`);
    }),
    { numRuns: 60, seed: 3 },
  );
});

/** Shapes that reach every layout and a second stage. */
const large: [number[], number[]][] = [
  [[5000, 70], [0]],
  [[5000, 3], [0]],
  [[40000], [0]],
  [[3, 9000], [1]],
  [[500, 33], [1]],
  [[2, 1000, 3], [1]],
  [[7, 300, 40], [0, 2]],
];
for (const [shape, dim] of large) {
  test(`reductions of [${shape}] over ${dim}`, async () => {
    for (const [name, kind] of Object.entries({ mean, amin, logsumexp })) {
      const spread = name === 'logsumexp' ? 20 : 2;
      const data = random(elements(shape), 9, spread, 0.3);
      await agree([{ shape, data }], ([x]) => [kind(x, { dim })], name);
    }
  });
}

test('sumTo undoes broadcasting', async () => {
  for (const to of [[5, 1], [1, 7], [7], [], [3, 1, 1], [3, 5, 7]]) {
    await agree([{ shape: [3, 5, 7] }], ([x]) => [sumTo(x, to)], `to [${to}]`);
  }
});

test('norm agrees, and that of zeros has gradient 0', async () => {
  for (const shape of [[], [9], [300, 201]]) await agree([{ shape }], ([x]) => [norm(x)], `norm [${shape}]`);
  const zeros = { shape: [5], data: new Float32Array(5) };
  for (const backend of backends) {
    const [y, dx] = await evaluate(backend, [zeros], ([x]) => [norm(x)]);
    assert.equal([y[0], ...dx], [0, 0, 0, 0, 0, 0]);
  }
});

test('ties share the gradient of amax evenly', async () => {
  const tied = { shape: [2, 3], data: Float32Array.of(4, 4, 1, -1, 4, 4) };
  await agree([tied], ([x]) => [amax(x, { dim: 1 }), amax(x), amin(x, { dim: [0] })], 'ties', 1e-6);
});

test('logsumexp and softmax hold at extremes', async () => {
  const inf = Infinity;
  const data = Float32Array.of(1e30, -1e30, 0, 88, 89, 90, -inf, 0, 1, -1e4, -1e4, -1e4);
  const inputs = [{ shape: [4, 3], data }];
  await agree(inputs, ([x]) => [logsumexp(x, { dim: 1 })], 'logsumexp', 1e-6);
  await agree(inputs, ([x]) => [softmax(x)], 'softmax', 1e-6);
  for (const backend of backends) {
    const none = fromData(backend, [-inf, -inf], [2]);
    assert.is((await logsumexp(none).data())[0], -inf, backend.kind);
    assert.is((await amax(none).data())[0], -inf, backend.kind);
  }
});

test('softmax and logSoftmax agree along any dim and in every layout', async () => {
  for (const [shape, dim] of [
    [[3, 5, 7], 0],
    [[3, 5, 7], -2],
    [[300, 3], 1],
    [[50, 130], -1],
    [[2, 5000], -1],
    [[2, 40, 20], 1],
    [[2, 200, 3], 1],
    [[1], 0],
    [[], -1],
  ] as const) {
    await agree([{ shape }], ([x]) => [softmax(x, dim), logSoftmax(x, dim)], `[${shape}] ${dim}`);
  }
});

test('cumsum agrees along any dim, short and long', async () => {
  for (const [shape, dim] of [
    [[4, 5, 6], 1],
    [[3, 1000], -1],
    [[700, 5], 0],
    [[40, 5000], 0],
    [[256], 0],
  ] as const) {
    await agree([{ shape }], ([x]) => [cumsum(x, dim)], `[${shape}] ${dim}`);
  }
  for (const backend of backends) {
    const counts = cumsum(fromData(backend, [1, 0, 1, 1], [2, 2], 'i32'), -1);
    assert.equal([...(await counts.data())], [1, 1, 1, 2]);
  }
});

test('argmax and topk take the first of equals, NaN before all', async () => {
  const rows = [1, 3, 3, 2, -0, 0, -1, -2, -5, -Infinity, -7, -5, 1, NaN, 2, Infinity];
  for (const backend of backends) {
    const x = fromData(backend, rows, [4, 4]);
    assert.equal([...(await argmax(x, 1).data())], [1, 0, 0, 1], backend.kind);
    const [values, indices] = topk(x, 3);
    assert.equal([...(await indices.data())], [1, 2, 3, 0, 1, 2, 0, 3, 2, 1, 3, 2], backend.kind);
    assert.equal([...(await values.data())], [3, 3, 2, -0, 0, -1, -5, -5, -7, NaN, Infinity, 2], backend.kind);
    assert.is((await argmax(fromData(backend, [1, 5, 2], [3, 1])).data())[0], 1);
  }
});

test('topk of a long line of equals takes the first, and the lowest where nothing is above', async () => {
  for (const value of [1, -Infinity]) {
    const x = fromData(gpu, new Float32Array(2060).fill(value), [2060]);
    const [values, indices] = topk(x, 20);
    assert.equal([...(await indices.data())], [...Array(20).keys()]);
    assert.equal([...(await values.data())], Array(20).fill(value));
  }
});

test('argmax and topk agree along any dim and in every layout; topk carries a gradient', async () => {
  for (const [shape, dim, k] of [
    [[3, 5, 7], 1, 2],
    [[4, 3000], -1, 40],
    [[2, 2051], -1, 300],
    [[1, 5000, 2], 1, 100],
    [[40000], 0, 150],
    [[30, 6, 20], 0, 30],
    [[2, 100, 3], 1, 1],
  ] as const) {
    await agree([{ shape }], ([x]) => [topk(x, k, dim)[0]], `topk [${shape}] ${dim}`, 0);
    const x = random(elements(shape), 4);
    const of = async (t: Tensor) => [...(await t.data())];
    const [want, got] = await Promise.all(
      backends.map(async (b) => [
        await of(argmax(fromData(b, x, shape), dim)),
        await of(topk(fromData(b, x, shape), k, dim)[1]),
      ]),
    );
    assert.equal(got, want);
  }
});

test('wrong dims are named', () => {
  const x = fromData(reference, random(6, 1), [2, 3]);
  assert.throws(() => sum(x, { dim: 2 }), /sum: dim 2 is out of range for 2 dimensions/);
  assert.throws(() => sum(x, { dim: [0, -2] }), (e: Error) => e instanceof ShapeError);
  assert.throws(() => topk(x, 4), (e: Error) => e instanceof ShapeError);
  assert.throws(() => amax(fromData(reference, [], [0, 3]), { dim: 0 }), (e: Error) => e instanceof ShapeError);
});

test.run();
