import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import type { DType } from '../../engine/dtype.ts';
import { DTypeError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { agreement, assertNear, random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { amax, amin, logsumexp, mean, norm, prod, softmax, std, sum, variance } = ops;
const { test, backends, reference, others, gpu } = await suiteOnBackends('reductions');

const agree = agreement(reference, others, 2e-5);

const inf = Infinity;
/** Not 0/0, as the variance of one value is. */
const [biasedStd, biasedVariance] = [std, variance].map((f): typeof std => (x, o) => f(x, { ...o, correction: 0 }));
const kinds = { sum, mean, amax, amin, logsumexp, norm, prod, biasedStd, biasedVariance };
const shape = fc
  .array(fc.constantFrom<number[]>(1, 2, 3, 5, 18, 33), { minLength: 0, maxLength: 5 })
  .filter((s) => elements(s) < 5000);

test('the least and the greatest of whole numbers are found at the ends of their range', async () => {
  const ends = { i32: [2 ** 31 - 1, 5, -(2 ** 31), 7], u32: [2 ** 32 - 1, 5, 0, 7] } as const;
  for (const backend of [reference, ...others]) {
    for (const dtype of ['i32', 'u32'] as const) {
      const x = fromData(backend, ends[dtype], [2, 2], dtype);
      const found = [ops.argmin(x), ops.argmax(x), ops.argmin(x, 1)].map(async (t) => [...(await t.data())]);
      assert.equal(await Promise.all(found), [[2], [0], [1, 0]], `${backend.kind} ${dtype}`);
    }
  }
});

test('reductions agree over any set of dims', async () => {
  const kind = fc.constantFrom(...Object.values(kinds));
  const set = fc.record({ kind, shape, mask: fc.nat(31), keepdim: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(set, async ({ kind, shape, mask, keepdim }) => {
      const dim = shape.flatMap((_, i) => ((mask >> i) & 1 ? [i % 2 ? i : i - shape.length] : []));
      await agree((t) => kind(t(...shape), { dim, keepdim }), `${kind.name} [${shape}] ${dim}`);
    }),
    { numRuns: 60, seed: 3 },
  );
});

test('logsumexp and softmax hold at extremes', async () => {
  const data = Float32Array.of(1e30, -1e30, 0, 88, 89, 90, -inf, 0, 1, -1e4, -1e4, -1e4);
  await agree((t) => logsumexp(t.leaf(data, [4, 3]), { dim: 1 }), 'logsumexp', 1e-6);
  await agree((t) => softmax(t.leaf(data, [4, 3])), 'softmax', 1e-6);
  for (const backend of backends) {
    const rows = fromData(backend, [-1e30, 0, 1, -3e38, -3e38, -3e38, -inf, 2, -inf], [3, 3]);
    const shares = [0, 0.2689414214, 0.7310585786, 1 / 3, 1 / 3, 1 / 3, 0, 1, 0];
    assertNear([await softmax(rows).data()], [Float64Array.from(shares)], backend.kind, 1e-6);
  }
});

const total = (v: number[]) => v.reduce((a, b) => a + b, 0);
const variances = (v: number[], correction: number) => {
  const mean = total(v) / v.length;
  return total(v.map((a) => (a - mean) ** 2)) / (v.length - correction);
};
const FLOATS = { f32: 3e-6, f16: 1e-3, bf16: 8e-3 };
const NUMBERS = { ...FLOATS, i32: 0, u32: 0 };
type Reduce = (x: Tensor, options: { dim?: number[] }) => Tensor;
/** Each reduction with how far off it may be for each dtype, and its value in f64. */
const VALUES: [name: string, Record<string, number>, Reduce, (v: number[]) => number][] = [
  ['sum', { ...NUMBERS, bool: 0 }, sum, total],
  ['mean', FLOATS, mean, (v) => total(v) / v.length],
  ['prod', { ...NUMBERS, bool: 0 }, prod, (v) => v.reduce((a, b) => a * b, 1)],
  ['amax', NUMBERS, amax, (v) => Math.max(...v)],
  ['amin', NUMBERS, amin, (v) => Math.min(...v)],
  ['any', { ...NUMBERS, bool: 0 }, ops.any, (v) => Number(v.some(Boolean))],
  ['all', { ...NUMBERS, bool: 0 }, ops.all, (v) => Number(v.every(Boolean))],
  ['norm', FLOATS, norm, (v) => Math.hypot(...v)],
  ['logsumexp', FLOATS, logsumexp, (v) => Math.log(total(v.map(Math.exp)))],
  ['var', FLOATS, variance, (v) => variances(v, 1)],
  ['var, biased', FLOATS, (x, o) => variance(x, { ...o, correction: 0 }), (v) => variances(v, 0)],
  ['std', FLOATS, (x, o) => std(x, { ...o, correction: 2 }), (v) => Math.sqrt(variances(v, 2))],
  ['argmax', NUMBERS, (x, { dim = [] }) => ops.argmax(x, dim[0]), (v) => v.indexOf(Math.max(...v))],
  ['argmin', NUMBERS, (x, { dim = [] }) => ops.argmin(x, dim[0]), (v) => v.indexOf(Math.min(...v))],
];

/** Shapes and the dimension that goes: lines of every kind, and one that is split. */
const LINES: [number[], number][] = [
  ...([[[3, 7], 0], [[2, 3], 1], [[5, 70, 3], 1], [[70, 300], 1]] as [number[], number][]),
  ...([[[5000], 0], [[2, 5000], 1], [[2000, 3], 0], [[2000, 30], 0]] as [number[], number][]),
];

for (const [name, dtypes, reduce, value] of VALUES) {
  test(`${name} is right in every dtype, over short, long and split lines`, async () => {
    for (const [dtype, most] of Object.entries(dtypes) as [DType, number][]) {
      for (const [shape, dim] of dtype === 'f32' ? LINES : LINES.slice(2, 3)) {
        // Whole numbers and eighths, which are the same in 16 bits; products of ±1 and few ±2 do not overflow.
        const [grid, low] = dtype === 'u32' || dtype === 'bool' ? [1, 0] : [dtype === 'i32' || name === 'prod' ? 1 : 8, -2];
        const few = name === 'prod' ? (v: number, i: number) => (i % 400 === 0 ? v || 1 : Math.sign(v) || 1) : (v: number) => v;
        const draw = random(elements(shape), 5, 4, low + 2).map((v) => Math.round(v * grid) / grid);
        const data = Array.from(draw, few).map((v) => (dtype === 'bool' ? Number(v > 1 || shape.length === 1) : v));
        const inner = elements(shape.slice(dim + 1));
        const want = Array.from({ length: data.length / shape[dim] }, (_, line) => {
          const at = Math.floor(line / inner) * shape[dim] * inner + (line % inner);
          return value(Array.from({ length: shape[dim] }, (_, k) => data[at + k * inner]));
        });
        for (const backend of [reference, gpu]) {
          const y = scope(() => ops.cast(reduce(fromData(backend, data, shape, dtype), { dim: [dim] }), 'f32'));
          const got = await y.data();
          y.dispose();
          want.forEach((w, i) => {
            const right = Math.abs(got[i] - w) <= most * Math.max(1, Math.abs(w));
            assert.ok(right, `${backend.kind} ${name} of ${dtype} [${shape}]: ${got[i]} at ${i}, expected ${w}`);
          });
        }
      }
    }
  });
}

test('dtypes of results', () => {
  const of = (dtype: DType) => fromData(reference, [1, 0], [2], dtype);
  for (const dtype of ['f16', 'bf16', 'f32', 'i32', 'u32'] as const) {
    assert.equal([sum, prod, amax].map((f) => f(of(dtype)).dtype), [dtype, dtype, dtype]);
    assert.equal([ops.any(of(dtype)).dtype, ops.argmax(of(dtype)).dtype], ['bool', 'i32']);
  }
  assert.equal([sum(of('bool')).dtype, prod(of('bool')).dtype], ['i32', 'i32']);
  assert.equal([softmax(of('f16')).dtype, mean(of('bf16')).dtype, norm(of('f16')).dtype], ['f16', 'bf16', 'f16']);
  for (const f of [mean, std, logsumexp, softmax]) {
    throws(() => f(of('i32')), DTypeError, '', f.name);
  }
});

/** Of a list: what comes out, and, where it has one, the gradient for a gradient of ones. */
const SPECIAL: [name: string, x: number[], run: (x: Tensor) => Tensor, y: number[], dx?: number[]][] = [
  ['argmax of equals', [1, 3, 3], (x) => ops.argmax(x), [1]],
  ['argmax of zeros', [-1, -0, 0], (x) => ops.argmax(x), [1]],
  ['argmax and NaN', [inf, NaN, NaN], (x) => ops.argmax(x, 0), [1]],
  ['argmin of equals', [1, -3, -3], (x) => ops.argmin(x), [1]],
  ['argmin and NaN', [-inf, NaN, NaN], (x) => ops.argmin(x, 0), [1]],
  ['argmin of infinities', [inf, -inf, -inf], (x) => ops.argmin(x, 0, true), [1]],
  ['any of NaN', [0, NaN, -0], (x) => ops.any(x), [1]],
  ['any of zeros', [0, -0], (x) => ops.any(x), [0]],
  ['all and NaN', [1, NaN, -inf], (x) => ops.all(x), [1]],
  ['all and a zero', [1, -0, 2], (x) => ops.all(x), [0]],
  ['prod', [2, -3, 0.5], (x) => prod(x), [-3], [-1.5, 1, -6]],
  ['prod with a zero', [2, 0, 3], (x) => prod(x), [0], [0, 6, 0]],
  ['prod with two', [2, 0, -0], (x) => prod(x), [-0], [0, 0, 0]],
  ['prod with NaN', [2, 0, NaN], (x) => prod(x), [NaN]],
  ['var of one', [4], (x) => variance(x), [NaN]],
  ['var of one, biased', [4], (x) => variance(x, { correction: 0 }), [0], [0]],
  ['var', [1, 2, 6], (x) => variance(x), [7], [-2, -1, 3]],
  ['var far from 0', [10001, 10002, 10006], (x) => variance(x), [7], [-2, -1, 3]],
  ['std of equals', [3, 3, 3], (x) => std(x), [0], [0, 0, 0]],
  ['std', [1, 2, 6, 7], (x) => std(x, { correction: 0 }), [Math.sqrt(6.5)], [-3, -2, 2, 3].map((d) => d / 4 / Math.sqrt(6.5))],
  ['amax of ties', [4, 1, 4], (x) => amax(x), [4], [0.5, 0, 0.5]],
  ['amin of ties', [4, -1, -1], (x) => amin(x), [-1], [0, 0.5, 0.5]],
  ['norm of zeros', [0, 0], (x) => norm(x), [0], [0, 0]],
  ['amax of −∞', [-inf, -inf], (x) => amax(x), [-inf]],
  ['norm of huge', [3e30, 4e30], (x) => norm(x), [5e30], [0.6, 0.8]],
  ['sort up', [2, NaN, -0, 0, -inf, inf], (x) => ops.sort(x)[0], [-inf, -0, 0, 2, inf, NaN], [1, 1, 1, 1, 1, 1]],
  ['places up', [2, NaN, -0, 0, -inf, NaN], (x) => ops.sort(x)[1], [4, 2, 3, 0, 1, 5]],
  ['sort down', [2, NaN, -0, 0, -inf, inf], (x) => ops.sort(x, 0, true)[0], [NaN, inf, 2, -0, 0, -inf]],
  ['places down', [2, NaN, 0, -0, -inf, NaN], (x) => ops.sort(x, 0, true)[1], [1, 5, 0, 2, 3, 4]],
  ['topk', [1, 3, 3, 2], (x) => ops.topk(x, 3)[0], [3, 3, 2], [0, 1, 1, 1]],
  ['places of topk', [1, NaN, 2, inf], (x) => ops.topk(x, 3)[1], [1, 3, 2]],
];

for (const [name, x, run, y, dx] of SPECIAL) {
  test(`${name} is as torch has it`, async () => {
    for (const backend of backends) {
      const leaf = fromData(backend, x, [x.length]);
      leaf.requiresGrad = dx !== undefined;
      const out = run(leaf);
      const near = (got: ArrayLike<number>, want: number[]) =>
        want.forEach((w, i) => {
          assert.ok(Object.is(got[i], w) || Math.abs(got[i] - w) <= 3e-6 * Math.abs(w), `${backend.kind}: ${got[i]}, expected ${w}`);
        });
      near(await out.data(), y);
      if (!dx) continue;
      ops.backwardFrom([out], [fromData(backend, new Float32Array(out.size).fill(1), out.shape)]);
      near(await leaf.grad!.data(), dx);
    }
  });
}

test('sums and products of integers wrap around', async () => {
  for (const backend of backends) {
    const most = fromData(backend, [2 ** 31 - 1, 5], [2], 'i32');
    const of = async (t: Tensor) => (await t.data())[0];
    assert.equal([await of(sum(most)), await of(prod(most))], [-(2 ** 31) + 4, 2147483643], backend.kind);
    assert.equal([...(await ops.cumsum(most, 0).data())], [2 ** 31 - 1, -(2 ** 31) + 4], backend.kind);
    const big = fromData(backend, [2 ** 32 - 1, 2 ** 32 - 1], [2], 'u32');
    assert.equal([await of(sum(big)), await of(prod(big)), await of(amin(big))], [2 ** 32 - 2, 1, 2 ** 32 - 1], backend.kind);
    assert.equal([...(await ops.cumsum(big, 0).data())], [2 ** 32 - 1, 2 ** 32 - 2], backend.kind);
  }
});

test('sort and topk agree with a stable sort along any dim, of any length and dtype', async () => {
  for (const [shape, dim, k] of [
    [[3, 5, 7], 1, 2],
    [[4, 3000], -1, 40],
    [[2, 2051], -1, 300],
    [[1, 5000, 2], 1, 100],
    [[40000], 0, 150],
    [[30, 6, 20], 0, 30],
    [[2, 257, 3], 1, 1],
    [[], -1, 1],
  ] as const) {
    for (const dtype of shape.length === 3 && shape[1] === 257 ? (['f32', 'i32', 'u32'] as const) : (['f32'] as const)) {
      // Few different values, so that there are many equals.
      const data = Array.from(random(elements(shape), 4, 40, 20), Math.floor).map((v) => (dtype === 'u32' ? v : v - 20));
      const along = shape.length === 0 ? 0 : (dim + shape.length) % shape.length;
      const [length, inner]: number[] = [shape[along] ?? 1, elements(shape.slice(along + 1))];
      for (const [what, kept, sign] of [['up', length, 1], ['down', length, -1], ['topk', k, -1]] as const) {
        const want = new Array<number>((data.length / length) * kept);
        for (let line = 0; line < data.length / length; line++) {
          const outer = Math.floor(line / inner);
          const at = (i: number) => data[(outer * length + i) * inner + (line % inner)];
          const order = [...Array(length).keys()].sort((i, j) => sign * (at(i) - at(j)) || i - j);
          for (let i = 0; i < kept; i++) want[(outer * kept + i) * inner + (line % inner)] = order[i];
        }
        for (const backend of [reference, gpu]) {
          const x = fromData(backend, data, shape, dtype);
          const [values, indices] = what === 'topk' ? ops.topk(x, k, dim) : ops.sort(x, dim, what === 'down');
          const label = `${backend.kind} ${what} of ${dtype} [${shape}] along ${dim}`;
          assert.equal(Array.from(await indices.data()), want, label);
          const own = await values.data();
          want.forEach((from, o) => {
            const line = Math.floor(o / (kept * inner)) * length * inner + (o % inner);
            if (own[o] !== data[line + from * inner]) assert.unreachable(`${label}: value ${o} is ${own[o]}`);
          });
        }
      }
    }
  }
});

test.run();
