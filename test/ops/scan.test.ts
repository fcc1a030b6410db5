import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import type { DType } from '../../engine/dtype.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { cast, cat, repeatInterleave, reshape, slice, ssdScan, ssdStep_ } from '../../ops/index.ts';
import type { SsdInputTensors } from '../../ops/ssd/ssd-scan.ts';
import type { Make } from '../cases/case.ts';
import { assertNear, evaluate, random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { Inputs } from '../support/inputs.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, gpu, backends } = await suiteOnBackends('ssd scan');

type Sizes = Readonly<Record<'batch' | 'length' | 'heads' | 'p' | 'groups' | 'n', number>>;

/** x, dt, A_log, B, C, D, dt_bias and an initial state, with decays from nearly none to nearly all unless told. */
function inputsOf(t: Make, { batch, length, heads, p, groups, n }: Sizes, dt = (v: number) => 3 * v - 1): Tensor[] {
  const [steps, rates] = [t.of(dt, batch, length, heads), t.of((v) => 2 * v + 0.5, heads)];
  const [B, C] = [t(batch, length, groups, n), t(batch, length, groups, n)];
  return [t(batch, length, heads, p), steps, rates, B, C, t(heads), t(heads), t(batch, heads, p, n)];
}

const scan = ([x, dt, A_log, B, C, D, dt_bias, initialState = null]: (Tensor | null)[], chunkSize?: number) =>
  ssdScan({ x, dt, A_log, B, C, D, dt_bias } as SsdInputTensors, { chunkSize, initialState });

test('one head of one channel by hand', async () => {
  const [a, bias, skip] = [-Math.exp(0.3), 0.2, 0.7];
  const [x, dt, b, c] = [[1, -2, 0.5], [0.1, -1, 2], [0.3, 0.6, -0.4], [1, 0.5, -2]];
  let state = 0.25;
  const want = x.map((v, t) => {
    const step = Math.log1p(Math.exp(dt[t] + bias));
    state = Math.exp(step * a) * state + step * v * b[t];
    return state * c[t] + skip * v;
  });
  for (const backend of backends) {
    const t = (data: number[], ...shape: number[]) => fromData(backend, data, shape);
    const [y, final] = ssdScan(
      {
        ...{ x: t(x, 1, 3, 1, 1), dt: t(dt, 1, 3, 1), B: t(b, 1, 3, 1, 1), C: t(c, 1, 3, 1, 1) },
        ...{ A_log: t([0.3], 1), D: t([skip], 1), dt_bias: t([bias], 1) },
      },
      { initialState: t([0.25], 1, 1, 1, 1) },
    );
    const got = [await y.data(), await final.data()];
    assertNear(got, [Float32Array.from(want), Float32Array.from([state])], backend.kind);
  }
});

test('pieces with the state handed on, and single tokens, are the whole', async () => {
  const sizes = { batch: 1, length: 12, heads: 2, p: 8, groups: 1, n: 8 };
  for (const backend of backends) {
    const made = new Inputs(backend, false).run((t) => inputsOf(t, sizes));
    const inPieces = (ends: readonly number[]) => {
      let state: Tensor | null = null;
      const ys = ends.map((end, i) => {
        const piece = made.slice(0, 7).map((t) => (t.shape[1] === 12 ? slice(t, 1, ends[i - 1] ?? 0, end) : t));
        const [y, final]: Tensor[] = scan([...piece, state]);
        state = final;
        return y;
      });
      return Promise.all([cat(ys, 1), state!].map((t) => t.data()));
    };
    const whole = await inPieces([12]);
    assertNear(await inPieces([5, 12]), whole, `${backend.kind}, two pieces`, 1e-5);
    const singles = Array.from({ length: 12 }, (_, i) => i + 1);
    assertNear(await inPieces(singles), whole, `${backend.kind}, single tokens`, 1e-5);
  }
});

/** Heads of x, B and C, which the heads of dt share. */
const SHARED = [
  { x: 4, b: 4, c: 4, p: 8, n: 8 },
  { x: 2, b: 1, c: 4, p: 5, n: 7 },
  { x: 1, b: 2, c: 1, p: 3, n: 20 },
];

for (const { x: xHeads, b: bHeads, c: cHeads, p, n } of SHARED) {
  test(`steps in place go on from a scan as a scan does: heads ${xHeads}, ${bHeads}, ${cHeads}`, async () => {
    const [batch, length, heads, first] = [2, 6, 4, 3];
    const sizes = [xHeads * p, bHeads * n, cHeads * n, heads];
    const width = sizes.reduce((sum, size) => sum + size, 2);
    const packed = random(batch * length * width, 5);
    const perHead = [random(heads, 3, 4, 0.5), random(heads, 4), random(heads, 7)];
    for (const backend of backends) {
      const [A_log, D, dt_bias] = perHead.map((data) => fromData(backend, data, [heads]));
      const rows = fromData(backend, packed, [batch, length, width]);
      // Where x, B, C and dt begin in a row, whose first and last values nobody reads.
      const from = sizes.map((_, i) => 1 + sizes.slice(0, i).reduce((sum, size) => sum + size, 0));
      const part = (tokens: Tensor, i: number) => slice(tokens, 2, from[i], from[i] + sizes[i]);
      const scanned = (begin: number, end: number, initialState: Tensor | null) => {
        const tokens = slice(rows, 1, begin, end);
        const spread = (i: number, own: number, size: number) =>
          repeatInterleave(reshape(part(tokens, i), [batch, end - begin, own, size]), heads / own, 2);
        const [x, B, C] = [spread(0, xHeads, p), spread(1, bHeads, n), spread(2, cHeads, n)];
        return ssdScan({ x, dt: part(tokens, 3), A_log, B, C, D, dt_bias }, { initialState });
      };
      const [, state] = scanned(0, first, null);
      const [want, last] = scanned(first, length, state);
      const ys: number[][] = [];
      for (let t = first; t < length; t++) {
        const of = slice(rows, 1, t, t + 1);
        const [x, B, C, dt] = sizes.map((size, i) => ({ of, from: from[i], to: from[i] + size }));
        ys.push([...(await ssdStep_(state, { x, dt, A_log, B, C, D, dt_bias }).data())]);
      }
      const got = Array.from({ length: batch }, (_, b) => ys.flatMap((y) => y.slice(b * heads * p, (b + 1) * heads * p)));
      assertNear([Float32Array.from(got.flat()), await state.data()], [await want.data(), await last.data()], backend.kind, 1e-6);
    }
  });
}

test('scan and step take tensors of 16 bits, and the shapes of a step are checked', async () => {
  for (const backend of backends) {
    const t = (...shape: number[]) => fromData(backend, random(elements(shape), shape.length), shape);
    const heads = { A_log: t(2), D: t(2), dt_bias: t(2) };
    const token = { x: t(1, 1, 2, 4), dt: t(1, 1, 2), B: t(1, 1, 1, 4), C: t(1, 1, 2, 4) };
    const [a, b] = [t(1, 2, 4, 4), t(1, 2, 4, 4)];
    const inDType = (given: typeof token, dtype: DType) =>
      Object.fromEntries(Object.entries(given).map(([name, v]) => [name, cast(v, dtype)])) as typeof token;
    for (const dtype of ['f16', 'bf16'] as const) {
      const half = inDType(token, dtype);
      assert.equal(ssdScan({ ...half, C: half.B, ...heads }).map((made) => made.dtype), [dtype, 'f32']);
      const y = ssdStep_(a, { ...half, ...heads });
      assert.is(y.dtype, dtype);
      assert.equal(await y.data(), await cast(ssdStep_(b, { ...inDType(half, 'f32'), ...heads }), dtype).data());
      assert.equal(await a.data(), await b.data());
    }
    const rows: [given: object, says: RegExp][] = [
      [{ dt: t(1, 1, 3) }, /dt has 3 values a token, expected 2/],
      [{ x: t(1, 1, 3, 4) }, /x has 12 values a token/],
      [{ B: t(1, 2, 1, 4) }, /B has shape \[1, 2, 1, 4\], expected one token/],
      [{ x: { of: token.x, from: 0, to: 9 } }, /x.to is 9/],
    ];
    for (const [given, says] of rows) throws(() => ssdStep_(a, { ...token, ...heads, ...given }), Error, says);
    throws(() => ssdStep_(token.x, { ...token, ...heads, x: token.x }), Error, /another of its tensors/);
  }
});

test('steps of any size stay finite', async () => {
  const sizes = { batch: 1, length: 40, heads: 2, p: 8, groups: 1, n: 8 };
  const results = await evaluate(gpu, (t) => scan(inputsOf(t, sizes, (v) => 200 * v), 16));
  for (const values of results) assert.ok(values.every((v: number) => Number.isFinite(v)));
});

test('a device with eight storage bindings gives the same', async () => {
  if (gpu.kind !== 'webgpu') return;
  const caps = (gpu as unknown as { caps: { maxStorageBuffers: number } }).caps;
  const sizes = { batch: 2, length: 16, heads: 4, p: 8, groups: 2, n: 8 };
  const scanned = (chunkSize?: number) => evaluate(gpu, (t) => scan(inputsOf(t, sizes), chunkSize));
  const stepped = async (x: number[]) => {
    const made = new Inputs(gpu, false).run((t) => inputsOf(t, { ...sizes, length: 1 }));
    const [given, dt, A_log, B, C, D, dt_bias, state] = made;
    return [await ssdStep_(state, { x: reshape(given, x), dt, A_log, B, C, D, dt_bias }).data(), await state.data()];
  };
  const want = [...(await scanned()), ...(await stepped([2, 1, 4, 8]))];
  const before = caps.maxStorageBuffers;
  Object.assign(caps, { maxStorageBuffers: 8 });
  // A backend keeps its plans: with other attributes and shapes it plans anew.
  const got = [...(await scanned(255)), ...(await stepped([2, 1, 32]))];
  Object.assign(caps, { maxStorageBuffers: before });
  assertNear(got, want, 'packed', 0);
});

test.run();
