import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import { fromData } from '../../engine/tensor.ts';
import { avgPool2d, conv1d, conv2d, type Conv2dOptions, maxPool2d, type Pair } from '../../ops/index.ts';
import { CONVOLVED, POOLED } from '../cases/conv.ts';
import { assertNear, random } from '../support/agree.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends, reference } = await suiteOnBackends('convolutions and pooling');

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

const X = [2, 4, 6, 7];
const OUT = 8;

for (const o of CONVOLVED) {
  const [kh, kw] = o.kernel;
  const { groups = 1 } = o;
  const shapes = [X, [OUT, X[1] / groups, kh, kw], [OUT]];
  const data = shapes.map((shape, i) => random(elements(shape), i + 1));

  test(`conv2d ${JSON.stringify(o)}`, async () => {
    const taps = kh * kw;
    const want = slide(data[0], X, OUT, o, (c, seen) =>
      seen.flat().reduce((sum, v, k) => sum + (v || 0) * data[1][(c * X[1] * taps) / groups + k], data[2][c]),
    );
    for (const backend of backends) {
      const [x, w, b] = shapes.map((shape, i) => fromData(backend, data[i], shape));
      assertNear([await conv2d(x, w, b, o).data()], [want], backend.kind);
    }
  });
}

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

test('pooling', async () => {
  const x = random(elements(X), 1);
  for (const o of POOLED) {
    const maxima = slide(x, X, X[1], { ...o, groups: X[1] }, (_, [seen]) => Math.max(...seen.filter((v) => v === v)));
    const means = slide(x, X, X[1], { ...o, groups: X[1] }, (_, [seen]) =>
      seen.reduce((sum, v) => sum + (v || 0), 0) / seen.length,
    );
    for (const backend of backends) {
      const t = fromData(backend, x, X);
      const pooled = [maxPool2d(t, o.kernel, o), avgPool2d(t, o.kernel, o)];
      assertNear(await Promise.all(pooled.map((y) => y.data())), [maxima, means], backend.kind);
    }
  }
  const image = fromData(reference, [1, 2, 3, 4, 5, 6], [1, 1, 2, 3]);
  const dilated = maxPool2d(image, [1, 2], { dilation: [1, 2], stride: 1 });
  assert.equal([...(await dilated.data())], [3, 6]);
  const nan = maxPool2d(fromData(reference, [1, NaN, 3, 4], [1, 1, 2, 2]), 2);
  assert.ok(Number.isNaN(await nan.item()), 'NaN is the largest');
});

test.run();
