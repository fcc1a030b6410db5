import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { ArgumentError, ShapeError } from '../../engine/errors.ts';
import { fromBfloat, fromHalf, toBfloat, toHalf } from '../../engine/half.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import {
  avgPool2d,
  cast,
  causalConv1d,
  conv1d,
  conv2d,
  type Conv2dOptions,
  fill,
  maxPool2d,
  type Pair,
} from '../../ops/index.ts';
import { agreement, assertNear, checkGradients, evaluate, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu } from '../support/backends.ts';

const reference = await openBackend('reference');
const exact = new ReferenceBackend({ double: true });
const wasm = await openBackend('wasm');
const gpu = await openGpu();
const backends = [reference, wasm, gpu];
const test = suite('convolutions and pooling');

test.after(() => [...backends, exact].forEach(closeBackend));

type Options = Conv2dOptions & { readonly kernel: readonly [number, number] };

/** For each window of each of `out` channels, what `result` makes of the pixels it sees: NaN outside the image. */
function slide(
  x: ArrayLike<number>,
  shape: number[],
  out: number,
  o: Options,
  result: (c: number, seen: number[][]) => number,
): Float64Array {
  const [batch, channels, ...size] = shape;
  const both = (pair: Pair) => (typeof pair === 'number' ? [pair, pair] : pair);
  const [stride, padding, dilation] = [both(o.stride ?? 1), both(o.padding ?? 0), both(o.dilation ?? 1)];
  const own = channels / (o.groups ?? 1);
  const windows = [0, 1].map((d) => {
    const starts: number[] = [];
    const span = dilation[d] * (o.kernel[d] - 1);
    for (let s = -padding[d]; s + span < size[d] + padding[d]; s += stride[d]) starts.push(s);
    return starts.map((s) => Array.from({ length: o.kernel[d] }, (_, k) => s + k * dilation[d]));
  });
  const values: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < out; c++) {
      const first = Math.floor(c / (out / (o.groups ?? 1))) * own;
      for (const rows of windows[0]) {
        for (const columns of windows[1]) {
          const pixel = (i: number, row: number, column: number) =>
            row < 0 || column < 0 || row >= size[0] || column >= size[1]
              ? NaN
              : x[((b * channels + first + i) * size[0] + row) * size[1] + column];
          const seen = Array.from({ length: own }, (_, i) =>
            rows.flatMap((row) => columns.map((column) => pixel(i, row, column))),
          );
          values.push(result(c, seen));
        }
      }
    }
  }
  return Float64Array.from(values);
}

const CASES: readonly Options[] = [
  { kernel: [3, 2], stride: [2, 1], padding: [1, 0] },
  { kernel: [2, 3], dilation: [3, 2], padding: 2 },
  { kernel: [2, 2], stride: 2, dilation: [2, 1], groups: 2 },
  { kernel: [3, 3], padding: 1, groups: 4 },
  { kernel: [1, 3], padding: [0, 1] },
];
const X = [2, 4, 6, 7];
const OUT = 8;

for (const o of CASES) {
  const [kh, kw] = o.kernel;
  const { groups = 1 } = o;
  const shapes = [X, [OUT, X[1] / groups, kh, kw], [OUT]];
  const data = shapes.map((shape, i) => random(elements(shape), i + 1));

  test(`conv2d ${JSON.stringify(o)}`, async () => {
    const taps = kh * kw;
    const want = slide(data[0], X, OUT, o, (c, seen) =>
      seen.flat().reduce((sum, v, k) => sum + (v || 0) * data[1][(c * X[1] * taps) / groups + k], data[2][c]),
    );
    const body = ([x, w, b]: Tensor[]) => [conv2d(x, w, b, o)];
    for (const backend of backends) {
      const y = body(shapes.map((shape, i) => fromData(backend, data[i], shape)))[0];
      assertNear([await y.data()], [want], backend.kind);
    }
    await agreement(reference, [wasm, gpu], 1e-5)(shapes.map((shape) => ({ shape })), body, 'with gradients');
  });
}

test('gradients of convolutions are their differences', async () => {
  const shapes = [[1, 4, 4, 3], [2, 2, 2, 2], [2]];
  const body = ([x, w, b]: Tensor[]) => [conv2d(x, w, b, { groups: 2, dilation: 2, padding: 1, stride: [2, 1] })];
  await checkGradients(exact, shapes.map((shape) => ({ shape })), body);
});

test('conv1d is conv2d of images one row high', async () => {
  const [x, w, b] = [random(2 * 4 * 9, 1), random(6 * 2 * 3, 2), random(6, 3)];
  const o = { stride: 2, padding: 3, dilation: 2, groups: 2 };
  const as2d: Options = { kernel: [1, 3], stride: [1, 2], padding: [0, 3], dilation: [1, 2], groups: 2 };
  const want = slide(x, [2, 4, 1, 9], 6, as2d, (c, seen) =>
    seen.flat().reduce((sum, v, k) => sum + (v || 0) * w[c * 6 + k], b[c]),
  );
  for (const backend of backends) {
    const of = (data: Float32Array, shape: number[]) => fromData(backend, data, shape);
    const y = conv1d(of(x, [2, 4, 9]), of(w, [6, 2, 3]), of(b, [6]), o);
    assert.equal(y.shape, [2, 6, 6]);
    assertNear([await y.data()], [want], backend.kind);
  }
});

test('pooling, with gradients', async () => {
  const x = random(elements(X), 1);
  for (const o of [{ kernel: [2, 3], stride: [2, 3] }, { kernel: [3, 3], stride: 2, padding: 1 }] as const) {
    const maxima = slide(x, X, X[1], { ...o, groups: X[1] }, (_, [seen]) => Math.max(...seen.filter((v) => v === v)));
    const means = slide(x, X, X[1], { ...o, groups: X[1] }, (_, [seen]) =>
      seen.reduce((sum, v) => sum + (v || 0), 0) / seen.length,
    );
    const body = ([t]: Tensor[]) => [maxPool2d(t, o.kernel, o), avgPool2d(t, o.kernel, o)];
    for (const backend of backends) {
      const pooled = body([fromData(backend, x, X)]);
      assertNear(await Promise.all(pooled.map((t) => t.data())), [maxima, means], backend.kind);
    }
    await agreement(reference, [wasm, gpu], 1e-5)([{ shape: X }], body, 'with gradients');
    await checkGradients(exact, [{ shape: [1, 2, 5, 4] }], body);
  }
  const image = fromData(reference, [1, 2, 3, 4, 5, 6], [1, 1, 2, 3]);
  const dilated = maxPool2d(image, [1, 2], { dilation: [1, 2], stride: 1 });
  assert.equal([...(await dilated.data())], [3, 6]);
  const nan = maxPool2d(fromData(reference, [1, NaN, 3, 4], [1, 1, 2, 2]), 2);
  assert.ok(Number.isNaN(await nan.item()), 'NaN is the largest');
});

test('16-bit images and weights are convolved and pooled in f32', async () => {
  const shapes = [[1, 2, 4, 4], [4, 2, 2, 2], [4]];
  for (const [dtype, to, from] of [['f16', toHalf, fromHalf], ['bf16', toBfloat, fromBfloat]] as const) {
    const words = shapes.map((shape, i) => Uint16Array.from(random(elements(shape), i + 1), to));
    for (const backend of backends) {
      const run = (tensors: Tensor[]) => [conv2d(tensors[0], tensors[1], tensors[2]), maxPool2d(tensors[0], 2)];
      const narrow = run(words.map((w, i) => fromData(backend, w, shapes[i], dtype)));
      const wide = run(words.map((w, i) => fromData(backend, Float32Array.from(w, from), shapes[i])));
      for (const [i, y] of narrow.entries()) {
        assert.is(y.dtype, dtype);
        const got = Float64Array.from(await y.data(), from);
        assertNear([got], [await wide[i].data()], `${dtype} ${backend.kind}`, 1e-2);
      }
    }
  }
});

test('causal convolutions of 16 bits give what the same values in f32 do, gradients included', async () => {
  const inputs = [[2, 3, 9], [3, 4], [3], [2, 3, 3]].map((shape) => ({ shape }));
  for (const [dtype, most] of [['f16', 2e-3], ['bf16', 2e-2]] as const) {
    const on = (narrow: boolean) => (tensors: Tensor[]) => {
      const rounded = tensors.map((t) => cast(t, dtype));
      const [x, w, bias, initial] = narrow ? rounded : rounded.map((t) => cast(t, 'f32'));
      const y = causalConv1d(x, w, bias, { activation: 'silu', initial });
      assert.is(y.dtype, narrow ? dtype : 'f32');
      return [cast(y, 'f32')];
    };
    const want = await evaluate(reference, inputs, on(false));
    for (const backend of backends) {
      assertNear(await evaluate(backend, inputs, on(true)), want, `${dtype} on ${backend.kind}`, most);
    }
  }
});

test('arguments that do not fit are refused by name', () => {
  const x = fill(reference, [1, 4, 5, 5], 1);
  const w = fill(reference, [6, 2, 2, 2], 1);
  const refused: [() => Tensor, typeof ShapeError | typeof ArgumentError, RegExp][] = [
    [() => conv2d(x, w, null), ShapeError, /in 1 groups/],
    [() => conv2d(x, w, null, { groups: 0 }), ArgumentError, /groups/],
    [() => conv2d(x, w, null, { groups: 2, dilation: [9, 1] }), ShapeError, /dilation 9,1/],
    [() => maxPool2d(x, 2, { padding: 2 }), ArgumentError, /padding 2/],
    [() => avgPool2d(x, 0), ArgumentError, /kernel/],
  ];
  for (const [call, kind, text] of refused) {
    assert.throws(call, (e: Error) => e instanceof kind && text.test(e.message));
  }
});

test.run();
