import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import { fromData } from '../../engine/tensor.ts';
import { cast, causalConv1d, causalConv1dStep_, rope, slice } from '../../ops/index.ts';
import { assertNear, random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('sequence ops');

test('rope takes its first position from the device', async () => {
  for (const backend of backends) {
    const x = fromData(backend, random(2 * 3 * 8, 1), [2, 3, 8]);
    const start = fromData(backend, [7], [1], 'i32');
    const moved = rope(x, { offset: 2, start });
    const fixed = rope(x, { offset: 9 });
    assertNear([await moved.data()], [await fixed.data()], backend.kind, 0);
  }
});

test('a causal conv carried over a cut is the conv of the whole', async () => {
  const [length, channels, width, cut] = [11, 3, 4, 5];
  const x = random(length * channels, 1);
  for (const backend of backends) {
    const w = fromData(backend, random(channels * width, 2), [channels, width]);
    const rows = (from: number, to: number) =>
      fromData(backend, x.slice(from * channels, to * channels), [1, to - from, channels]);
    const run = (from: number, to: number) => {
      const initial = from > 0 ? rows(from - width + 1, from) : null;
      return causalConv1d(rows(from, to), w, null, { activation: 'silu', layout: 'blc', initial }).data();
    };
    const parts = [...(await run(0, cut)), ...(await run(cut, length))];
    assertNear([Float32Array.from(parts)], [await run(0, length)], backend.kind, 1e-6);
  }
});

for (const width of [1, 2, 4, 8]) {
  test(`steps in place move a causal conv of width ${width} on as the conv of the whole`, async () => {
    const [batch, length, channels, first] = [2, 12, 5, 8];
    const all = random(batch * length * (channels + 3), 1);
    for (const backend of backends) {
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
  for (const backend of backends) {
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
      const rows: [() => unknown, RegExp][] = [
        [() => causalConv1dStep_(columns, slice(x, 2, 1), w, bias), /w has shape \[5, 4\], expected \[4, /],
        [() => causalConv1dStep_(x, x, w, bias), /another of its tensors/],
        [() => causalConv1dStep_(slice(columns, 1, 1), x, w, bias), /columns has shape \[2, 2, 5\]/],
      ];
      for (const [run, says] of rows) throws(run, Error, says);
    }
  }
});

test.run();
