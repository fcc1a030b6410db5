import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { setTrainable } from '../../models/matvlm/distill.ts';
import { decodeStep, prefill } from '../../models/matvlm/generate.ts';
import type { PassOptions } from '../../models/matvlm/layers/decoder.ts';
import { type DecoderState, disposeState, mapState } from '../../models/matvlm/layers/state.ts';
import type { MaTVLM } from '../../models/matvlm/model.ts';
import { branch } from '../../models/matvlm/shared-prefix.ts';
import { add, backward, cat, rope, slice, square, sum } from '../../ops/index.ts';
import { random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { relativeError } from '../support/golden-types.ts';
import { takeGradients } from '../support/losses.ts';
import { suiteOnBackends } from '../support/suite.ts';
import { encoder, smallPair, smallTeacher } from '../support/tiny-model.ts';

const double = new ReferenceBackend({ double: true });
const { test, wasm, gpu } = await suiteOnBackends('rows of different lengths');
const backends = [double, wasm, gpu];

const prompts = ['what shape is the red object?', 'what?'].map((question) => [
  ...encoder.prefixIds(),
  ...encoder.questionIds(question).ids,
]);
const images = prompts.map((_, b) => random(768, b + 1));

/** What the rows go on with: one token each, then tokens of different numbers, then one each. */
const CONTINUATIONS = [[[5], [9]], [[11, 7, 3, 4], [8]], [[6], [5]], [[2, 3], [7, 9]]];

/** Rows made as long as the longest, and their mask. */
function padded(rows: readonly number[][]): { ids: number[][]; mask: number[][] } {
  const length = Math.max(...rows.map((row) => row.length));
  const each = (value: (row: readonly number[], i: number) => number) =>
    rows.map((row) => Array.from({ length }, (_, i) => value(row, i)));
  return { ids: each((row, i) => row[i] ?? 1), mask: each((row, i) => Number(i < row.length)) };
}

/** Logits after each row's last token, alone. */
async function alone(model: MaTVLM, b: number): Promise<ArrayLike<number>[]> {
  const pixels = fromData(model.backend, images[b], [1, 3, 16, 16]);
  const cache = model.decoder.cache();
  let logits = prefill(model, prompts[b], pixels, cache);
  const all = [await logits.data()];
  for (const rows of CONTINUATIONS) {
    for (const id of rows[b]) logits = decodeStep(model, [id], cache);
    all.push(await logits.data());
  }
  return all;
}

/** The same of all rows in one batch. */
async function together(model: MaTVLM): Promise<ArrayLike<number>[][]> {
  const { backend, decoder } = model;
  const pixels = fromData(backend, images.flatMap((image) => [...image]), [prompts.length, 3, 16, 16]);
  const batch = padded(prompts);
  const { hidden, state, spliced } = model.forward(batch, model.visionFeatures(pixels));
  const all: ArrayLike<number>[][] = prompts.map(() => []);
  const take = async (last: Tensor, mask: readonly number[][]) => {
    const logits = await decoder.logits(last).data();
    const vocab = logits.length / mask.flat().length;
    mask.forEach((row, b) => {
      const at = b * row.length + row.lastIndexOf(1);
      all[b].push(logits.slice(at * vocab, (at + 1) * vocab));
    });
  };
  const rowsOf = (mask: ArrayLike<number>, length: number) =>
    prompts.map((_, b) => Array.from({ length }, (_, i) => mask[b * length + i]));
  let seen = rowsOf(spliced.mask, spliced.length);
  await take(hidden.at(-1)!, seen);
  let past = state;
  for (const rows of CONTINUATIONS) {
    const { ids, mask } = padded(rows);
    seen = seen.map((row, b) => [...row, ...mask[b]]);
    const embeds = decoder.embed(fromData(backend, ids.flat(), [ids.length, ids[0].length], 'i32'));
    // Where no token is padding none need be said to be.
    const whole = mask.flat().every((m) => m === 1);
    const keyMask = whole ? null : fromData(backend, seen.flat(), [seen.length, seen[0].length], 'i32');
    const output = decoder.forward(embeds, { past, keyMask });
    await take(output.hidden.at(-1)!, mask);
    past = output.state;
  }
  return all;
}

for (const backend of backends) {
  test(`a padded batch goes on as each of its rows alone, on ${backend.kind}`, async () => {
    const { teacher, student, dispose } = smallPair(backend, [0, 2]);
    const most = backend === double ? 1e-12 : 2e-5;
    for (const [name, model] of [['teacher', teacher], ['student', student]] as const) {
      const got = await noGrad(() => together(model));
      for (const b of prompts.keys()) {
        const want = await noGrad(() => alone(model, b));
        want.forEach((logits, i) => {
          const error = relativeError(Float64Array.from(got[b][i]), Float64Array.from(logits));
          assert.ok(error < most, `${name}, row ${b}, step ${i}: ${error}`);
        });
      }
    }
    dispose();
  });
}

/** A padded pass over plain tokens and one that goes on from it, its rows swapped. */
function twoPasses(model: MaTVLM, options: PassOptions): { hidden: Tensor; state: DecoderState } {
  const { backend, decoder } = model;
  const ints = (data: number[], shape: number[]) => fromData(backend, data, shape, 'i32');
  const first = decoder.forward(decoder.embed(ints([2, 3, 4, 5, 6, 1], [2, 3])), {
    ...options,
    keyMask: ints([1, 1, 1, 1, 1, 0], [2, 3]),
  });
  const owner = ints([1, 0], [2]);
  const next = decoder.forward(decoder.embed(ints([7, 8], [2, 1])), { ...options, past: first.state, owner });
  return { hidden: next.hidden.at(-1)!, state: first.state };
}

test('branches of padded rows, and checkpointed layers, are the same', async () => {
  const { student } = smallPair(double, [1]);
  setTrainable(student, () => true);
  const results: (readonly HostArray[])[] = [];
  for (const checkpointing of [false, true]) {
    const { hidden, state } = twoPasses(student, { checkpointing });
    if (!checkpointing) {
      const past = branch(state, fromData(double, [1, 0], [2], 'i32'));
      const embeds = student.decoder.embed(fromData(double, [7, 8], [2, 1], 'i32'));
      const other = student.decoder.hiddenStates(embeds, { past });
      assert.equal(await other.at(-1)!.data(), await hidden.data());
    }
    backward(sum(square(hidden)));
    results.push([...(await takeGradients(student.parameters)).values()]);
  }
  assert.ok(results[0].length > 20);
  results[0].forEach((g, i) => assert.ok(relativeError(results[1][i], g) < 1e-12 || g.every((v: number) => v === 0)));
});

test('a state of padded rows is freed whole, and a mask of another shape is refused', async () => {
  const model = smallTeacher(double);
  noGrad(() => {
    const ids = (data: number[], shape: number[]) => fromData(double, data, shape, 'i32');
    const embeds = model.decoder.embed(ids([2, 3, 4, 1], [2, 2]));
    const masked = () => model.decoder.forward(embeds, { keyMask: ids([1, 1, 1], [3, 1]) });
    throws(masked, ShapeError, /key mask has shape \[3, 1\], expected \[2, 2\]/);
    const made = model.decoder.forward(embeds, { keyMask: ids([1, 1, 1, 0], [2, 2]) });
    const kept: Tensor[] = [];
    mapState(made.state, (t) => (kept.push(t), t));
    assert.is(kept.length, 2 * made.state.layers.length + 2);
    disposeState(made.state);
    assert.ok(kept.every((t) => t.disposed));
  });
});

test('rope from a position for each row', async () => {
  for (const backend of backends) {
    for (const layout of ['bhld', 'blhd'] as const) {
      const [x, rows] = [1, 1].map((seed) => fromData(backend, random(2 * 3 * 4 * 6, seed), [2, 3, 4, 6]));
      for (const leaf of [x, rows]) leaf.requiresGrad = true;
      const y = rope(x, { layout, rotaryDim: 4, start: fromData(backend, [5, 2], [2], 'i32') });
      const apart = [5, 2].map((offset, b) => rope(slice(rows, 0, b, b + 1), { layout, rotaryDim: 4, offset }));
      const want = cat(apart, 0);
      backward(sum(square(add(y, x))));
      backward(sum(square(add(want, rows))));
      assert.equal(await y.data(), await want.data(), backend.kind);
      assert.equal(await x.grad!.data(), await rows.grad!.data(), backend.kind);
      const three = fromData(backend, [1, 2, 3], [3], 'i32');
      throws(() => rope(x, { layout, start: three }), ShapeError, /start/);
    }
  }
});

test.run();
