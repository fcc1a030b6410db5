import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { cast, repeatInterleave, reshape, slice, ssdScan, ssdStep_ } from '../../ops/index.ts';
import { assertNear, checkGradients, evaluate, type Input, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu } from '../support/backends.ts';

const reference = await openBackend('reference');
const wasm = await openBackend('wasm');
const gpu = await openGpu();
const test = suite('ssd scan');

// Drivers on the CPU run one token at a time and take minutes to compile the tiled kernels that GPUs run. This asks
// for those everywhere.
if (process.env.MATVLM_TILED) Object.assign((gpu as unknown as { caps: object }).caps, { software: false });

test.after(() => {
  closeBackend(gpu);
  closeBackend(wasm);
  closeBackend(reference);
});

interface Sizes {
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly p: number;
  readonly groups: number;
  readonly n: number;
}

/** x, dt, A_log, B, C, D, dt_bias and an initial state, with decays from nearly none to nearly all. */
function inputsOf({ batch, length, heads, p, groups, n }: Sizes): Input[] {
  return [
    { shape: [batch, length, heads, p] },
    { shape: [batch, length, heads], data: random(batch * length * heads, 2, 6, -1) },
    { shape: [heads], data: random(heads, 3, 4, 0.5) },
    { shape: [batch, length, groups, n] },
    { shape: [batch, length, groups, n] },
    { shape: [heads] },
    { shape: [heads] },
    { shape: [batch, heads, p, n] },
  ];
}

const scan =
  (chunkSize?: number) =>
  ([x, dt, A_log, B, C, D, dt_bias, initial]: Tensor[]) => {
    return ssdScan({ x, dt, A_log, B, C, D, dt_bias }, { chunkSize, initialState: initial ?? null });
  };

test('one head of one channel by hand', async () => {
  const [a, bias, skip] = [-Math.exp(0.3), 0.2, 0.7];
  const [x, dt, b, c] = [
    [1, -2, 0.5],
    [0.1, -1, 2],
    [0.3, 0.6, -0.4],
    [1, 0.5, -2],
  ];
  let state = 0.25;
  const want = x.map((v, t) => {
    const step = Math.log1p(Math.exp(dt[t] + bias));
    state = Math.exp(step * a) * state + step * v * b[t];
    return state * c[t] + skip * v;
  });
  for (const backend of [reference, gpu]) {
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

test('gradients, the initial state included, are the differences in f64', async () => {
  const double = new ReferenceBackend({ double: true });
  await checkGradients(double, inputsOf({ batch: 1, length: 4, heads: 2, p: 2, groups: 1, n: 3 }), scan());
});

const cases: (Sizes & { chunkSize?: number; initial?: boolean })[] = [
  { batch: 3, length: 16, heads: 4, p: 8, groups: 4, n: 8, initial: true },
  { batch: 2, length: 37, heads: 4, p: 12, groups: 2, n: 8, chunkSize: 16, initial: true },
  { batch: 1, length: 50, heads: 2, p: 40, groups: 1, n: 8, chunkSize: 32 },
  { batch: 2, length: 21, heads: 2, p: 5, groups: 1, n: 6, initial: true },
  { batch: 3, length: 1, heads: 2, p: 8, groups: 1, n: 20, initial: true },
  { batch: 70, length: 19, heads: 4, p: 8, groups: 4, n: 8, chunkSize: 8 },
];

for (const c of cases) {
  test(`WebGPU is the recurrence: ${JSON.stringify(c)}`, async () => {
    const inputs = inputsOf(c).slice(0, c.initial ? 8 : 7);
    const want = await evaluate(reference, inputs, scan());
    assertNear(await evaluate(gpu, inputs, scan(c.chunkSize)), want, JSON.stringify(c), 2e-5);
  });
}

test('a gradient of one result alone', async () => {
  const inputs = inputsOf({ batch: 2, length: 37, heads: 2, p: 8, groups: 1, n: 8 });
  for (const only of [0, 1]) {
    const body = (t: Tensor[]) => [scan(16)(t)[only]];
    const want = await evaluate(reference, inputs, body);
    // The C kernel walks the sequence in another order than the chunks.
    assertNear(await evaluate(gpu, inputs, body), want, `output ${only}`, gpu.kind === 'wasm' ? 5e-5 : 2e-5);
  }
});

test('any chunk size gives the same', async () => {
  const inputs = inputsOf({ batch: 1, length: 50, heads: 2, p: 8, groups: 1, n: 8 });
  const want = await evaluate(gpu, inputs, scan(50));
  for (const size of [1, 7, 16, 64]) {
    assertNear(await evaluate(gpu, inputs, scan(size)), want, `chunks of ${size}`, 1e-5);
  }
});

/** y and the final state when the sequence is taken in pieces that end at `cuts`. */
async function inPieces(backend: Backend, s: Sizes, cuts: number[]): Promise<HostArray[]> {
  const data = inputsOf(s).map(({ shape, data }, i) => ({ shape, data: data ?? random(elements(shape), i + 1) }));
  const ys: number[] = [];
  let state: Tensor | null = null;
  let from = 0;
  for (const to of cuts) {
    const [y, final]: Tensor[] = scope(() => {
      const t = data.map(({ shape, data }, i) => {
        if (![0, 1, 3, 4].includes(i)) return fromData(backend, data, shape);
        const row = data.length / s.length;
        return fromData(backend, data.slice(from * row, to * row), [1, to - from, ...shape.slice(2)]);
      });
      return scan()([...t.slice(0, 7), ...(state ? [state] : [])]);
    });
    ys.push(...(await y.data()));
    state = final;
    from = to;
  }
  return [Float32Array.from(ys), await state!.data()];
}

test('pieces with the state handed on, and single tokens, are the whole', async () => {
  const s = { batch: 1, length: 12, heads: 2, p: 8, groups: 1, n: 8 };
  for (const backend of [reference, gpu]) {
    const whole = await inPieces(backend, s, [12]);
    assertNear(await inPieces(backend, s, [5, 12]), whole, `${backend.kind}, two pieces`, 1e-5);
    const singles = Array.from({ length: 12 }, (_, i) => i + 1);
    assertNear(await inPieces(backend, s, singles), whole, `${backend.kind}, single tokens`, 1e-5);
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
    for (const backend of [reference, wasm, gpu]) {
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

test('a step takes tensors of 16 bits, and its shapes are checked', async () => {
  for (const backend of [reference, wasm, gpu]) {
    const t = (...shape: number[]) => fromData(backend, random(elements(shape), shape.length), shape);
    const heads = { A_log: t(2), D: t(2), dt_bias: t(2) };
    const token = { x: t(1, 1, 2, 4), dt: t(1, 1, 2), B: t(1, 1, 1, 4), C: t(1, 1, 2, 4) };
    const half = Object.fromEntries(Object.entries(token).map(([name, v]) => [name, cast(v, 'bf16')])) as typeof token;
    const exact = Object.fromEntries(Object.entries(half).map(([name, v]) => [name, cast(v, 'f32')])) as typeof token;
    const [a, b] = [t(1, 2, 4, 4), t(1, 2, 4, 4)];
    const y = ssdStep_(a, { ...half, ...heads });
    assert.is(y.dtype, 'bf16');
    assert.equal(await y.data(), await cast(ssdStep_(b, { ...exact, ...heads }), 'bf16').data());
    assert.equal(await a.data(), await b.data());
    const refused = (given: object, says: RegExp) =>
      assert.throws(() => ssdStep_(a, { ...token, ...heads, ...given }), (e: Error) => says.test(e.message));
    refused({ dt: t(1, 1, 3) }, /dt has 3 values a token, expected 2/);
    refused({ x: t(1, 1, 3, 4) }, /x has 12 values a token/);
    refused({ B: t(1, 2, 1, 4) }, /B has shape \[1, 2, 1, 4\], expected one token/);
    refused({ x: { of: token.x, from: 0, to: 9 } }, /x.to is 9/);
    assert.throws(() => ssdStep_(token.x, { ...token, ...heads, x: token.x }), /another of its tensors/);
  }
});

test('steps of any size stay finite', async () => {
  const s = { batch: 1, length: 40, heads: 2, p: 8, groups: 1, n: 8 };
  const inputs = inputsOf(s);
  inputs[1] = { shape: inputs[1].shape, data: random(80, 2, 400) };
  const results = await evaluate(gpu, inputs, scan(16));
  for (const values of results) assert.ok(values.every((v: number) => Number.isFinite(v)));
});

test('a device with eight storage bindings gives the same', async () => {
  if (gpu.kind !== 'webgpu') return;
  const caps = (gpu as unknown as { caps: { maxStorageBuffers: number } }).caps;
  const inputs = inputsOf({ batch: 2, length: 16, heads: 4, p: 8, groups: 2, n: 8 });
  const token = { batch: 2, length: 1, heads: 4, p: 8, groups: 2, n: 8 };
  const stepped = async (x: number[]) => {
    const [given, dt, A_log, B, C, D, dt_bias, state] = inputsOf(token).map(({ shape, data }) =>
      fromData(gpu, data ?? random(elements(shape), 3), shape),
    );
    return [await ssdStep_(state, { x: reshape(given, x), dt, A_log, B, C, D, dt_bias }).data(), await state.data()];
  };
  const want = [...(await evaluate(gpu, inputs, scan())), ...(await stepped([2, 1, 4, 8]))];
  const before = caps.maxStorageBuffers;
  Object.assign(caps, { maxStorageBuffers: 8 });
  // A backend keeps its plans: with other attributes and shapes it plans anew.
  const got = [...(await evaluate(gpu, inputs, scan(255))), ...(await stepped([2, 1, 32]))];
  Object.assign(caps, { maxStorageBuffers: before });
  assertNear(got, want, 'packed', 0);
});

test('shapes that do not fit are refused by name', () => {
  const t = (...shape: number[]) => fromData(reference, new Float32Array(elements(shape)), shape);
  const heads = { A_log: t(4), D: t(4), dt_bias: t(4) };
  const call = (steps: number, n: number) => () =>
    ssdScan({ x: t(1, 2, 4, 3), dt: t(1, 2, steps), B: t(1, 2, 2, 5), C: t(1, 2, 2, n), ...heads });
  const refused = (run: () => unknown, text: RegExp) =>
    assert.throws(run, (e: Error) => e instanceof ShapeError && text.test(e.message));
  refused(call(3, 5), /dt has shape \[1, 2, 3\]/);
  refused(call(4, 6), /C has shape/);
});

test('inputs of 16 bits give what the same values in f32 do, gradients included', async () => {
  const inputs = inputsOf({ batch: 2, length: 5, heads: 2, p: 3, groups: 1, n: 4 });
  for (const [dtype, most] of [['f16', 2e-3], ['bf16', 2e-2]] as const) {
    const on = (narrow: boolean) => (tensors: Tensor[]) => {
      const rounded = tensors.slice(0, 7).map((t) => cast(t, dtype));
      const given = narrow ? rounded : rounded.map((t) => cast(t, 'f32'));
      const [y, final] = scan()([...given, tensors[7]]);
      assert.equal([y.dtype, final.dtype], [narrow ? dtype : 'f32', 'f32']);
      return [cast(y, 'f32'), final];
    };
    const want = await evaluate(reference, inputs, on(false));
    for (const backend of [reference, wasm, gpu]) {
      assertNear(await evaluate(backend, inputs, on(true)), want, `${dtype} on ${backend.kind}`, most);
    }
  }
});

test.run();
