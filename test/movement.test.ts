import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { cat, expand, flip, pad, permute, repeatInterleave, slice, split, stack, tril } from '../ops/index.ts';
import { assertNear, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const test = suite('movement');

test.after(() => [reference, gpu].forEach(closeBackend));

async function agree(inputs: readonly Input[], body: (t: Tensor[]) => Tensor[], label: string) {
  assertNear(await evaluate(gpu, inputs, body), await evaluate(reference, inputs, body), label, 1e-6);
}

/** Sizes that copies by fours take and sizes that they do not. */
const shape = fc.array(fc.constantFrom(1, 2, 3, 4, 5, 8, 12), { minLength: 1, maxLength: 4 });

test('permute, flip and expand agree for any shape', async () => {
  const made = shape.chain((s) =>
    fc.record({
      s: fc.constant(s),
      dims: fc.shuffledSubarray(s.map((_, i) => i), { minLength: s.length }),
      some: fc.subarray(s.map((_, i) => i - s.length)),
    }),
  );
  await fc.assert(
    fc.asyncProperty(made, async ({ s, dims, some }) => {
      const body = ([x]: Tensor[]) => [permute(x, dims), flip(x, some), expand(x, [2, ...s])];
      await agree([{ shape: s }], body, `[${s}] by ${dims}, flipped ${some}`);
    }),
    { numRuns: 40, seed: 5 },
  );
});

test('slice agrees for any range and step', async () => {
  const range = fc.record({
    s: shape,
    at: fc.nat(3),
    start: fc.integer({ min: -4, max: 3 }),
    length: fc.nat(12),
    step: fc.integer({ min: 1, max: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(range, async ({ s, at, start, length, step }) => {
      const dim = at % s.length;
      const end = length > 9 ? null : Math.max(0, start) + length;
      const body = ([x]: Tensor[]) => [slice(x, dim, start, end, step)];
      await agree([{ shape: s }], body, `[${s}] ${dim} ${start}:${end}:${step}`);
    }),
    { numRuns: 60, seed: 6 },
  );
});

test('cat, split and stack agree along any dim, by fours and not', async () => {
  for (const sizes of [[4, 8, 12], [3, 4, 1], [5], [128, 64, 32, 4]]) {
    for (const dim of [0, 1, 2, -1]) {
      const shapes = sizes.map((n) => [2, 3, 4].map((d, i) => (i === (dim + 3) % 3 ? n : d)));
      const inputs = shapes.map((s) => ({ shape: s }));
      await agree(inputs, (ts) => [cat(ts, dim)], `cat ${sizes} ${dim}`);
      await agree(inputs, (ts) => split(cat(ts, dim), sizes, dim), `split ${sizes} ${dim}`);
      await agree(inputs, (ts) => split(cat(ts, dim), sizes, dim).slice(-1), `the last of split ${sizes} ${dim}`);
    }
  }
  await agree([{ shape: [3, 8] }, { shape: [3, 8] }], (ts) => [stack(ts, 0), stack(ts, 1), stack(ts, -1)], 'stack');
});

test('pad, repeatInterleave and tril agree', async () => {
  for (const s of [[3, 5, 8], [2, 4, 4], [1, 7, 6]]) {
    const x = [{ shape: s }];
    await agree(x, ([x]) => [pad(x, [1, 2, 3, 0], 0.5), pad(x, [4, 4]), pad(x, [0, 0, 0, 0, 1, 1])], `pad [${s}]`);
    for (const dim of [0, 1, 2]) await agree(x, ([x]) => [repeatInterleave(x, 3, dim)], `repeat [${s}] ${dim}`);
    for (const diagonal of [-2, 0, 1]) await agree(x, ([x]) => [tril(x, diagonal)], `tril [${s}] ${diagonal}`);
  }
});

test('integers keep their bits', async () => {
  for (const backend of [reference, gpu]) {
    const x = fromData(backend, [1, -2, 2 ** 30, -(2 ** 31)], [2, 2], 'i32');
    assert.equal([...(await permute(x, [1, 0]).data())], [1, 2 ** 30, -2, -(2 ** 31)], backend.kind);
  }
});

test('wrong shapes are named', () => {
  const x = fromData(reference, random(6, 1), [2, 3]);
  assert.throws(() => permute(x, [0, 0]), (e: Error) => e instanceof ShapeError);
  assert.throws(() => split(x, [1, 1], 1), (e: Error) => e instanceof ShapeError);
  assert.throws(() => cat([x, permute(x, [1, 0])], 0), (e: Error) => e instanceof ShapeError);
});

test.run();
