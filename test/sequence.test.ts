import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { cast, causalConv1d, causalConv1dStep_, rope, slice } from '../ops/index.ts';
import { assertNear, checkGradients, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const wasm = await openBackend('wasm');
const gpu = await openGpu();
const test = suite('sequence ops');

test.after(() => {
  closeBackend(gpu);
  closeBackend(wasm);
  closeBackend(reference);
});

test('rope turns large positions exactly', async () => {
  for (const offset of [0, 2047, 65533, 1_000_003]) {
    const inputs: Input[] = [{ shape: [2, 5, 3, 20] }];
    const body = (layout: 'bhld' | 'blhd') => (t: Tensor[]) => [
      rope(t[0], { rotaryDim: 16, offset, layout }),
    ];
    for (const layout of ['bhld', 'blhd'] as const) {
      const want = await evaluate(reference, inputs, body(layout));
      assertNear(await evaluate(gpu, inputs, body(layout)), want, `${layout} at ${offset}`, 1e-6);
    }
  }
});

test('rope takes its first position from the device', async () => {
  for (const backend of [reference, gpu]) {
    const x = fromData(backend, random(2 * 3 * 8, 1), [2, 3, 8]);
    const start = fromData(backend, [7], [1], 'i32');
    const moved = rope(x, { offset: 2, start });
    const fixed = rope(x, { offset: 9 });
    assertNear([await moved.data()], [await fixed.data()], backend.kind, 0);
  }
});

test('rope keeps the length of what it turns and undoes itself', async () => {
  const x = random(4 * 6, 3);
  const y = await rope(fromData(reference, x, [4, 6]), { offset: 1 }).data();
  const norm = (a: ArrayLike<number>) => Math.hypot(...Array.from(a));
  assert.ok(Math.abs(norm(x) - norm(y)) < 1e-5);
  assert.not.equal(Array.from(y), Array.from(x));
});

const convCases = [
  { batch: 2, channels: 5, length: 9, width: 4, layout: 'bcl', activation: 'silu', full: true },
  { batch: 3, channels: 33, length: 70, width: 4, layout: 'blc', activation: 'silu', full: true },
  { batch: 300, channels: 2, length: 1, width: 4, layout: 'blc', activation: 'silu', full: true },
  { batch: 1, channels: 3, length: 2, width: 8, layout: 'blc', activation: null, full: false },
  { batch: 2, channels: 2, length: 3, width: 1, layout: 'bcl', activation: null, full: true },
] as const;

for (const { batch, channels, length, width, layout, activation, full } of convCases) {
  const name = `(${batch}, ${channels}, ${length}), width ${width}, ${layout}`;
  test(`causal conv on WebGPU is the reference: ${name}`, async () => {
    const order = (l: number) => (layout === 'bcl' ? [batch, channels, l] : [batch, l, channels]);
    const all = [order(length), [channels, width], [channels], order(width - 1)].map((shape) => ({ shape }));
    const inputs = full ? all : all.slice(0, 2);
    const body = ([x, w, bias, initial]: Tensor[]) => [
      causalConv1d(x, w, bias ?? null, { activation, layout, initial: initial ?? null }),
    ];
    assertNear(await evaluate(gpu, inputs, body), await evaluate(reference, inputs, body), layout);
  });
}

test('gradients of a causal conv, the initial columns included, are the differences in f64', async () => {
  const double = new ReferenceBackend({ double: true });
  const inputs = [[1, 5, 2], [2, 4], [2], [1, 3, 2]].map((shape) => ({ shape }));
  await checkGradients(double, inputs, ([x, w, bias, initial]) => [
    causalConv1d(x, w, bias, { activation: 'silu', layout: 'blc', initial }),
  ]);
});

test('a causal conv carried over a cut is the conv of the whole', async () => {
  const [length, channels, width, cut] = [11, 3, 4, 5];
  const x = random(length * channels, 1);
  for (const backend of [reference, gpu]) {
    const w = fromData(backend, random(channels * width, 2), [channels, width]);
    const rows = (from: number, to: number) =>
      fromData(backend, x.slice(from * channels, to * channels), [1, to - from, channels]);
    const run = (from: number, to: number) =>
      causalConv1d(rows(from, to), w, null, {
        activation: 'silu',
        layout: 'blc',
        initial: from > 0 ? rows(from - width + 1, from) : null,
      }).data();
    const parts = [...(await run(0, cut)), ...(await run(cut, length))];
    assertNear([Float32Array.from(parts)], [await run(0, length)], backend.kind, 1e-6);
  }
});

for (const width of [1, 2, 4, 8]) {
  test(`steps in place move a causal conv of width ${width} on as the conv of the whole`, async () => {
    const [batch, length, channels, first] = [2, 12, 5, 8];
    const all = random(batch * length * (channels + 3), 1);
    for (const backend of [reference, wasm, gpu]) {
      const rows = fromData(backend, all, [batch, length, channels + 3]);
      const x = slice(rows, 2, 2, 2 + channels);
      const w = fromData(backend, random(channels * width, 2), [channels, width]);
      const bias = width > 2 ? fromData(backend, random(channels, 4), [channels]) : null;
      const activation = width === 2 ? null : 'silu';
      const columns = slice(x, 1, first - width + 1, first);
      const whole = causalConv1d(x, w, bias, { activation, layout: 'blc' });
      for (let t = first; t < length; t++) {
        const token = { of: slice(rows, 1, t, t + 1), from: 2, to: 2 + channels };
        const y = causalConv1dStep_(columns, token, w, bias, { activation });
        assertNear([await y.data()], [await slice(whole, 1, t, t + 1).data()], `${backend.kind}, token ${t}`, 1e-6);
      }
      if (width > 1) assert.equal(await columns.data(), await slice(x, 1, length - width + 1).data(), backend.kind);
    }
  });
}

test('a step of a causal conv takes 16 bits, and its shapes are checked', async () => {
  for (const backend of [reference, wasm, gpu]) {
    for (const dtype of ['f16', 'bf16'] as const) {
      const shapes = [[2, 3, 5], [2, 1, 5], [5, 4], [5]];
      const made = shapes.map((shape, i) => cast(fromData(backend, random(elements(shape), i), shape), dtype));
      const [columns, x, w, bias] = made;
      const wide = made.map((t) => cast(t, 'f32'));
      const want = causalConv1dStep_(wide[0], wide[1], wide[2], wide[3], { activation: 'silu' });
      const got = causalConv1dStep_(columns, x, w, bias, { activation: 'silu' });
      assert.is(got.dtype, dtype);
      assert.equal(await got.data(), await cast(want, dtype).data(), `${backend.kind} ${dtype}`);
      assert.equal(await columns.data(), await cast(wide[0], dtype).data(), `${backend.kind} ${dtype} columns`);
      const refused = (run: () => unknown, says: RegExp) => assert.throws(run, (e: Error) => says.test(e.message));
      refused(() => causalConv1dStep_(columns, slice(x, 2, 1), w, bias), /w has shape \[5, 4\], expected \[4, /);
      refused(() => causalConv1dStep_(x, x, w, bias), /another of its tensors/);
      refused(() => causalConv1dStep_(slice(columns, 1, 1), x, w, bias), /columns has shape \[2, 2, 5\]/);
    }
  }
});

test('shapes that do not fit are refused by name', () => {
  const x = fromData(reference, new Float32Array(24), [2, 3, 4]);
  const w = fromData(reference, new Float32Array(8), [2, 4]);
  const refused = (run: () => unknown, text: RegExp) =>
    assert.throws(run, (e: Error) => e instanceof ShapeError && text.test(e.message));
  refused(() => causalConv1d(x, w, null), /w has shape \[2, 4\]/);
  refused(() => rope(x, { rotaryDim: 6 }), /rotaryDim 6/);
});

test.run();
