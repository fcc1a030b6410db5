import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DType } from '../engine/dtype.ts';
import { ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { cast, cat, expand, flip, pad, permute, repeatInterleave, slice, sliceScatter_, split, stack, tril } from '../ops/index.ts';
import { assertNear, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const [reference, wasm] = [await openBackend('reference'), await openBackend('wasm')];
const gpu = await openGpu();
const test = suite('movement');

test.after(() => [reference, wasm, gpu].forEach(closeBackend));

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

const SLICES: readonly (readonly [shape: number[], dim: number, n: number, start: number])[] = [
  [[7], 0, 3, 3],
  [[2, 8, 4], 1, 4, 4],
  [[2, 8, 4], 1, 1, 7],
  [[3, 5, 3], 1, 2, 1],
  [[2, 3, 6], 2, 3, 2],
  [[4, 6], 0, 0, 4],
  [[4, 6], 1, 6, 0],
];

test('sliceScatter_ writes any slice of any dtype, where a number or a tensor says', async () => {
  for (const backend of [reference, wasm, gpu]) {
    for (const dtype of ['f32', 'f16', 'bf16', 'i32', 'u32', 'bool'] as const) {
      for (const [shape, dim, n, start] of SLICES) {
        const size = (s: readonly number[]) => s.reduce((a, b) => a * b, 1);
        const part = shape.map((d, i) => (i === dim ? n : d));
        const old = Array.from({ length: size(shape) }, (_, i) => Number(i % 3 > 0));
        const own = Array.from({ length: size(part) }, (_, i) => i % 2);
        const inner = size(shape.slice(dim + 1));
        const at = (i: number) => Math.floor(i / inner) % shape[dim] - start;
        let next = 0;
        const want = old.map((v, i) => (at(i) >= 0 && at(i) < n ? own[next++] : v));
        const data = fromData(backend, [start], [], 'i32');
        for (const where of [start, data]) {
          const dst = cast(fromData(backend, old, shape, 'i32'), dtype);
          sliceScatter_(dst, cast(fromData(backend, own, part, 'i32'), dtype), dim - shape.length, where);
          const label = `${backend.kind} ${dtype} [${shape}] ${dim} ${n} ${start}`;
          assert.equal([...(await cast(dst, 'f32').data())], want, label);
        }
      }
    }
  }
});

test('sliceScatter_ names what does not fit', () => {
  const [dst, src] = [[2, 4], [2, 2]].map((s) => fromData(reference, random(2 * s[1], 1), s));
  const start = (n: number, dtype: DType) => fromData(reference, [1, 1].slice(0, n), [n], dtype);
  for (const [body, what] of [
    [() => sliceScatter_(dst, src, 1, 3), /start is 3, expected a whole number from 0 to 2/],
    [() => sliceScatter_(dst, src, 1, -1), /start is -1/],
    [() => sliceScatter_(dst, src, 1, 0.5), /start is 0.5/],
    [() => sliceScatter_(src, dst, 1, 0), /src has shape \[2, 4\], more than \[2, 2\] in dim 1/],
    [() => sliceScatter_(dst, src, 0, 0), /src has shape \[2, 2\], expected \[2, 4\]/],
    [() => sliceScatter_(dst, src, 2, 0), /dim 2/],
    [() => sliceScatter_(dst, src, 1, start(2, 'i32')), /start has shape \[2\], expected one element/],
    [() => sliceScatter_(dst, src, 1, start(1, 'f32')), /start has dtype f32/],
    [() => sliceScatter_(dst, dst, 1, 0), /another of its tensors/],
  ] as const) {
    assert.throws(body, what);
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
