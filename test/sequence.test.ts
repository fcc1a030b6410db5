import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { ShapeError } from '../engine/errors.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { causalConv1d, rope } from '../ops/index.ts';
import { assertNear, checkGradients, evaluate, type Input, random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const test = suite('sequence ops');

test.after(() => {
  closeBackend(gpu);
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

test('shapes that do not fit are refused by name', () => {
  const x = fromData(reference, new Float32Array(24), [2, 3, 4]);
  const w = fromData(reference, new Float32Array(8), [2, 4]);
  const refused = (run: () => unknown, text: RegExp) =>
    assert.throws(run, (e: Error) => e instanceof ShapeError && text.test(e.message));
  refused(() => causalConv1d(x, w, null), /w has shape \[2, 4\]/);
  refused(() => rope(x, { rotaryDim: 6 }), /rotaryDim 6/);
});

test.run();
