import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import type { DType } from '../../engine/dtype.ts';
import { MatvlmError, ShapeError } from '../../engine/errors.ts';
import { keep, scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { cast, permute, scatterAdd, slice, sliceScatter_, squeeze, unsqueeze } = ops;
const { test, backends, reference } = await suiteOnBackends('movement');

const FLOATS = ['f32', 'f16', 'bf16'] as const;
const ALL = [...FLOATS, 'i32', 'u32', 'bool'] as const;

type At = readonly number[];

/** A call of an op, and what is by its definition at each place of what it gives: `x(at, k)` reads the k-th tensor. */
interface Move {
  readonly shapes: readonly At[];
  readonly run: (xs: Tensor[]) => Tensor;
  readonly shape: At;
  readonly value: (at: At, x: (at: At, k?: number) => number) => number;
  readonly dtypes?: readonly DType[];
}

const flat = (at: At, shape: At) => shape.reduce((i, size, d) => i * size + at[d], 0);
const places = (shape: At): At[] =>
  Array.from({ length: elements(shape) }, (_, i) =>
    shape.map((size, d) => Math.floor(i / elements(shape.slice(d + 1))) % size),
  );
const set = (at: At, dim: number, value: number) => at.map((v, d) => (d === dim ? value : v));
const add = (at: At, dim: number, value: number) => set(at, dim, at[dim] + value);

/** Small whole numbers, which every format holds. */
const numbers = (size: number, k: number, dtype: DType) =>
  Array.from({ length: size }, (_, i) => (dtype === 'bool' ? (i % 3) % 2 : ((i * 7 + k * 3) % 31) + 1));
const read = async (t: Tensor): Promise<number[]> => [...(await cast(t, 'f32').data())];

/** Values on every backend in every format, and gradients of the floats. */
async function check(label: string, { shapes, run, shape, value, dtypes = ALL }: Move): Promise<void> {
  for (const dtype of dtypes) {
    const data = shapes.map((s, k) => numbers(elements(s), k, dtype));
    const dy = numbers(elements(shape), 5, dtype);
    const grads = data.map((d) => d.map(() => 0));
    const want = places(shape).map((at, i) =>
      value(at, (from, k = 0) => {
        const source = flat(from, shapes[k]);
        grads[k][source] += dy[i];
        return data[k][source];
      }),
    );
    for (const backend of backends) {
      const on = `${label} on ${backend.kind} in ${dtype}`;
      const float = FLOATS.some((f) => f === dtype);
      const [y, ...got] = scope(() => {
        const xs = data.map((d, k) => fromData(backend, d, shapes[k], dtype));
        for (const x of xs) x.requiresGrad = float;
        const made = run(xs);
        if (float) ops.backward(made, fromData(backend, dy, shape, dtype));
        return [made.detach(), ...(float ? xs.map((x) => x.grad!.detach()) : [])];
      });
      assert.equal([y.dtype, ...y.shape], [dtype, ...shape], on);
      assert.equal(await read(y), want, on);
      for (const [k, grad] of got.entries()) {
        const near = dtype === 'bf16' ? 2 ** -6 : 0;
        (await read(grad)).forEach((g, i) => {
          const wanted = grads[k][i];
          assert.ok(Math.abs(g - wanted) <= near * wanted, `${on}: gradient ${k}[${i}] is ${g}, expected ${wanted}`);
        });
      }
    }
  }
}

const permuted = (s: At, dims: At): Move => ({
  shapes: [s],
  run: ([x]) => permute(x, dims),
  shape: dims.map((d) => s[d]),
  value: (at, x) => x(s.map((_, d) => at[dims.indexOf(d)])),
});
const flipped = (s: At, dims: At): Move => ({
  shapes: [s],
  run: ([x]) => ops.flip(x, dims),
  shape: s,
  value: (at, x) => x(at.map((v, d) => (dims.includes(d - s.length) ? s[d] - 1 - v : v))),
});
const expanded = (s: At, to: At): Move => ({
  shapes: [s],
  run: ([x]) => ops.expand(x, to),
  shape: to,
  value: (at, x) => x(at.slice(to.length - s.length).map((v, d) => (s[d] === 1 ? 0 : v))),
});
const sliced = (s: At, dim: number, start: number, end: number | null, step: number): Move => {
  const kept = Array.from({ length: s[dim] }, (_, i) => i).slice(start, end ?? undefined).filter((_, i) => i % step === 0);
  return {
    shapes: [s],
    run: ([x]) => slice(x, dim, start, end, step),
    shape: set(s, dim, kept.length),
    value: (at, x) => x(set(at, dim, kept[at[dim]])),
  };
};
const joined = (sizes: At, dim: number): Move => {
  const shapes = sizes.map((n) => set([2, 3, 4], dim, n));
  const owner = sizes.flatMap((n, k) => Array.from({ length: n }, (_, i) => [k, i]));
  const of = (at: At, x: (at: At, k: number) => number) => x(set(at, dim, owner[at[dim]][1]), owner[at[dim]][0]);
  return { shapes, run: (xs) => ops.cat(xs, dim - 3), shape: set([2, 3, 4], dim, owner.length), value: of };
};
const parted = (sizes: At, dim: number, k: number): Move => {
  const s = set([2, 3, 4], dim, sizes.reduce((a, b) => a + b));
  const before = sizes.slice(0, k).reduce((a, b) => a + b, 0);
  return {
    shapes: [s],
    run: ([x]) => ops.split(x, sizes, dim)[k],
    shape: set(s, dim, sizes[k]),
    value: (at, x) => x(add(at, dim, before)),
  };
};
const stacked = (s: At, dim: number): Move => ({
  shapes: [s, s],
  run: (xs) => ops.stack(xs, dim),
  shape: [...s.slice(0, dim), 2, ...s.slice(dim)],
  value: (at, x) => x(at.filter((_, d) => d !== dim), at[dim]),
});
/** The place that numpy's modes of padding read for one outside, or null for the constant. */
const OUTSIDE = {
  constant: () => null,
  reflect: (i: number, n: number) => (i < 0 ? -i : 2 * n - 2 - i),
  replicate: (i: number, n: number) => (i < 0 ? 0 : n - 1),
};
const padded = (s: At, by: At, mode: keyof typeof OUTSIDE): Move => {
  const before = s.map((_, d) => by[2 * (s.length - 1 - d)] ?? 0);
  return {
    shapes: [s],
    run: ([x]) => ops.pad(x, by, 1, mode),
    shape: s.map((n, d) => n + before[d] + (by[2 * (s.length - 1 - d) + 1] ?? 0)),
    value: (at, x) => {
      const own = at.map((v, d) => v - before[d]);
      const from = own.map((v, d) => (v >= 0 && v < s[d] ? v : OUTSIDE[mode](v, s[d])));
      return from.includes(null) ? 1 : x(from as number[]);
    },
  };
};
const triangle = (s: At, diagonal: number, upper: boolean): Move => ({
  shapes: [s],
  run: ([x]) => (upper ? ops.triu(x, diagonal) : ops.tril(x, diagonal)),
  shape: s,
  value: (at, x) => {
    const beside = at.at(-1)! - at.at(-2)! - diagonal;
    return (upper ? beside >= 0 : beside <= 0) ? x(at) : 0;
  },
});
const ids = (backend: Backend, data: At, shape: At) => fromData(backend, [...data], shape, 'i32');
/** Indices of that shape below n, some of them the same. */
const index = (shape: At, n: number) => Array.from({ length: elements(shape) }, (_, i) => (i * 5 + (i % 3)) % n);
const gathered = (s: At, to: At, dim: number): Move => ({
  shapes: [s],
  run: ([x]) => ops.gather(x, dim, ids(x.backend, index(to, s[dim]), to)),
  shape: to,
  value: (at, x) => x(set(at, dim, index(to, s[dim])[flat(at, to)])),
});
const scattered = (s: At, to: At, src: At, dim: number, dtypes: readonly DType[]): Move => ({
  shapes: [s, src],
  run: ([x, y]) => scatterAdd(x, dim, ids(x.backend, index(to, s[dim]).map((k, i) => (i === 1 ? s[dim] : k)), to), y),
  shape: s,
  value: (at, x) =>
    places(to).reduce((sum, from, i) => {
      const hit = i !== 1 && set(from, dim, index(to, s[dim])[i]).every((v, d) => v === at[d]);
      return sum + (hit ? x(from, 1) : 0);
    }, x(at)),
  dtypes,
});

const SHAPES = [[2, 3, 5], [3, 2, 1], [2, 4, 8], [2, 3, 4]];
const MOVES: readonly (readonly [string, ...Move[]])[] = [
  ['permute', ...SHAPES.flatMap((s) => [permuted(s, [1, 2, 0]), permuted(s, [2, 1, 0]), permuted(s, [1, 0, 2])])],
  ['permute of more dimensions than kernels loop over', permuted([2, 3, 2, 2, 3, 2], [5, 2, 4, 1, 3, 0])],
  ['flip', ...SHAPES.flatMap((s) => [flipped(s, [-3]), flipped(s, [-1]), flipped(s, [-1, -2, -3])])],
  ['expand', expanded([2, 1, 5], [2, 3, 5]), expanded([3, 1], [2, 3, 4]), expanded([2, 4], [3, 2, 4])],
  ['slice', ...SHAPES.flatMap((s) => [sliced(s, 2, 1, null, 1), sliced(s, 2, 0, null, 2), sliced(s, 1, -1, 2, 1)])],
  ['cat', ...[0, 1, 2].flatMap((d) => [joined([4, 8, 12], d), joined([3, 4, 1], d), joined([5], d), joined([64, 4], d)])],
  ['split', ...[0, 1, 2].flatMap((d) => [parted([4, 8, 12], d, 1), parted([3, 4, 1], d, 0), parted([3, 4, 1], d, 2)])],
  ['stack', ...[0, 1, 2].map((dim) => stacked([3, 8], dim))],
  ['pad', padded([3, 5, 8], [1, 2, 3, 0], 'constant'), padded([2, 4, 4], [-1, 1, 0, 0, 2, -1], 'constant')],
  ['pad by nothing', padded([3, 5], [], 'constant'), padded([3, 5], [0, 0], 'reflect')],
  ['pad by mirroring', padded([3, 5, 4], [3, 2, 4, 0], 'reflect'), padded([2, 5], [-1, 4], 'reflect')],
  ['pad by the edge', padded([3, 5, 4], [3, 5, 7, 0], 'replicate'), padded([1, 4], [2, 0, 0, 3], 'replicate')],
  ['repeatInterleave', ...[0, 1, 2].map((dim): Move => ({
    shapes: [[3, 5, 4]],
    run: ([x]) => ops.repeatInterleave(x, 3, dim),
    shape: set([3, 5, 4], dim, [3, 5, 4][dim] * 3),
    value: (at, x) => x(set(at, dim, Math.floor(at[dim] / 3))),
  }))],
  ['tile', ...([[[2, 3], [2, 1, 3]], [[2, 3, 4], [2]], [[4], [3, 2]], [[2, 3], [0, 2]]] as const).map(([s, times]): Move => {
    const rank = Math.max(s.length, times.length);
    const [own, n] = [s, times].map((v) => [...new Array<number>(rank - v.length).fill(1), ...v]);
    const value: Move['value'] = (at, x) => x(at.map((v, d) => v % own[d]).slice(rank - s.length));
    return { shapes: [s], run: ([x]) => ops.tile(x, times), shape: own.map((size, d) => size * n[d]), value };
  })],
  ['roll', ...([[[1], [0]], [[-2, 11], [-1, 1]], [[3, 3], [2, 2]]] as const).map(([by, dims]): Move => ({
    shapes: [[3, 4, 5]],
    run: ([x]) => ops.roll(x, by, dims),
    shape: [3, 4, 5],
    value: (at, x) =>
      x(dims.reduce((from: At, d, i) => {
        const [own, size] = [(d + 3) % 3, [3, 4, 5][(d + 3) % 3]];
        return set(from, own, (((from[own] - by[i]) % size) + size) % size);
      }, at)),
  }))],
  ['tril and triu', ...[-7, -2, 0, 1, 9].flatMap((n) => [false, true].map((up) => ({ ...triangle([2, 3, 6], n, up), dtypes: ['f32'] as const })))],
  ['squeeze', { shapes: [[1, 2, 1, 3]], run: ([x]) => squeeze(x), shape: [2, 3], value: ([i, j], x) => x([0, i, 0, j]) }],
  ['squeeze of some', { shapes: [[1, 2, 1]], run: ([x]) => squeeze(x, [-1, 1]), shape: [1, 2], value: ([i, j], x) => x([i, j, 0]) }],
  ['unsqueeze', { shapes: [[2, 3]], run: ([x]) => unsqueeze(x, -2), shape: [2, 1, 3], value: ([i, , k], x) => x([i, k]) }],
  ['gather', gathered([5, 4, 8], [3, 4, 11], 2), gathered([5, 7], [13, 2], 0), gathered([3, 2, 2, 5], [3, 7, 2, 2], 1)],
  ['gather of one column', gathered([7, 9], [7, 1], 1), gathered([5], [3], 0)],
  ['scatterAdd', scattered([5, 4], [3, 2], [4, 2], 0, ['f32']), scattered([2, 3, 4], [2, 7, 4], [2, 7, 4], 1, ['f32'])],
];

for (const [name, ...moves] of MOVES) {
  test(`${name} moves what it should, in every format, and its gradient back`, async () => {
    for (const move of moves) await check(`[${move.shapes.join('] [')}] to [${move.shape}]`, move);
  });
}

/** Sizes that copies by fours take and sizes that they do not. */
const anyShape = fc.array(fc.constantFrom(1, 2, 3, 4, 5, 8, 12), { minLength: 1, maxLength: 4 });
const dtypes = ['f32', 'f16'] as const;

test('permute, flip, expand and slice of any shape', async () => {
  const made = anyShape.chain((s) =>
    fc.record({
      s: fc.constant(s),
      dims: fc.shuffledSubarray(s.map((_, i) => i), { minLength: s.length }),
      some: fc.subarray(s.map((_, i) => i - s.length)),
      dim: fc.nat(s.length - 1),
      start: fc.integer({ min: -4, max: 3 }),
      end: fc.option(fc.nat(12)),
      step: fc.integer({ min: 1, max: 4 }),
    }),
  );
  await fc.assert(
    fc.asyncProperty(made, async ({ s, dims, some, dim, start, end, step }) => {
      const moves = [permuted(s, dims), flipped(s, some), expanded(s, [2, ...s]), sliced(s, dim, start, end, step)];
      for (const move of moves) await check(`[${s}]`, { ...move, dtypes });
    }),
    { numRuns: 30, seed: 5 },
  );
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

test('sliceScatter_ writes any slice of any format, where a number or a tensor says', async () => {
  for (const [shape, dim, n, start] of SLICES) {
    const part = set(shape, dim, n);
    for (const dtype of ALL) {
      const [old, own] = [numbers(elements(shape), 0, dtype), numbers(elements(part), 1, dtype)];
      const want = places(shape).map((at, i) => {
        const inside = at[dim] >= start && at[dim] < start + n;
        return inside ? own[flat(add(at, dim, -start), part)] : old[i];
      });
      for (const backend of backends) {
        for (const where of [start, fromData(backend, [start], [], 'i32')]) {
          const [dst, src] = [fromData(backend, old, shape, dtype), fromData(backend, own, part, dtype)];
          sliceScatter_(dst, src, dim - shape.length, where);
          assert.equal(await read(dst), want, `${backend.kind} ${dtype} [${shape}] ${dim} ${n} ${start}`);
        }
      }
    }
  }
});

test('ops that are made of others free what they make on the way, in a scope or not', async () => {
  const pairs = [[2, 1, 1, 0], [1, 1, 1, 3]] as const;
  for (const backend of backends) {
    const [x, image] = [[4, 4], [1, 2, 4, 4]].map((s) => fromData(backend, random(elements(s), 1), s));
    const [index, weight] = [fromData(backend, [1, 0], [2, 1], 'i32'), fromData(backend, random(36, 2), [2, 2, 3, 3])];
    const { live } = backend.memory;
    for (const [i, made] of Object.entries<() => Tensor[]>([
      () => [ops.matmul(x, x), ops.matmul(image, x), ops.matmul2d(x, x), ops.stack([x, x]), ops.roll(x, [1], [0])],
      () => [ops.tril(x), ops.triu(x, 1), ops.tile(x, [2, 2]), ops.repeatInterleave(x, 2, 0), ops.oneHot(index, 3)],
      () => [ops.pad(x, [...pairs[0]], 0, 'reflect'), ops.pad(x, [-1, 2]), ops.gather(x, 1, index), ops.scatterAdd(x, 1, index, x)],
      () => [ops.conv2d(image, weight, null, { padding: 1 }), ops.maxPool2d(image, 2), ops.avgPool2d(image, 2)],
    ])) {
      const own: Tensor[] = [];
      scope(() => void own.push(...made().map((t) => keep(t))));
      for (const t of own) t.dispose();
      const outside = made();
      for (const t of outside) t.dispose();
      assert.is(backend.memory.live, live, `${backend.kind} ${i}`);
    }
    for (const t of [x, image, index, weight]) t.dispose();
  }
});

test('what does not fit is named', () => {
  const [dst, src] = [[2, 4], [2, 2]].map((s) => fromData(reference, random(elements(s), 1), s));
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
    [() => permute(dst, [0, 0]), /no order of the 2 dimensions/],
    [() => ops.split(dst, [1, 1], 1), /add up to 2/],
    [() => ops.cat([dst, src], 0), /differ in more than dim 0/],
    [() => ops.pad(dst, [4, 0], 0, 'reflect'), /\[4, 0\] needs more than \[2, 4\] has in dim 1 for mode reflect/],
    [() => ops.pad(slice(dst, 1, 0, 0), [0, 1], 0, 'replicate'), /for mode replicate/],
    [() => ops.roll(dst, [1, 2], [0]), /roll: shifts \[1, 2\] for dims \[0\]/],
    [() => ops.roll(dst, [0.5], [0]), /roll: a shift is 0.5/],
    [() => ops.tile(dst, [-1]), /tile: a number of repeats is -1/],
    [() => ops.triu(slice(dst, 0, 0), 0.5), /triu: diagonal is 0.5/],
    [() => scatterAdd(dst, 1, fromData(reference, [0], [1], 'i32'), src), /index has shape \[1\], expected that of src/],
    [() => scatterAdd(src, 1, fromData(reference, new Array(8).fill(0), [2, 4], 'i32'), src), /expected that of src/],
    [() => scatterAdd(src, 0, fromData(reference, new Array(8).fill(0), [2, 4], 'i32'), dst), /expected that of x/],
    [() => scatterAdd(src, 1, fromData(reference, [0, 0], [2, 1], 'i32'), cast(src, 'f16')), /src has dtype f16/],
  ] as const) {
    throws(body, MatvlmError, what);
  }
  throws(() => permute(dst, [0, 0]), ShapeError);
  const packed = fromData(reference, random(128, 1), [2, 64], 'int8');
  throws(() => permute(packed, [1, 0]), MatvlmError, /permute: x has dtype int8/);
});

test.run();
