import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData } from '../../engine/tensor.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import type { VqaSample } from '../../models/matvlm/data/dataset.ts';
import type { MaTVLM } from '../../models/matvlm/model.ts';
import { divergences } from '../../models/matvlm/train/divergence.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { rejects } from '../support/expect.ts';
import { encoder, smallStudent, smallTeacher, tokenizer } from '../support/tiny-model.ts';

const divergence = suite('divergence on test questions');
const set = new SortOfClevr('test');
const backend = await WasmBackend.create();
const teacher = smallTeacher(backend);
const student = new Vlm(smallStudent(teacher, [0, 2]), tokenizer);

/** Log-probabilities in f64 of what comes after each token, from one plain sequence. */
async function logProbabilities(model: MaTVLM, pixels: Float32Array, ids: number[]): Promise<Float64Array[]> {
  const logits = noGrad(() =>
    scope(() => {
      const features = model.visionFeatures(fromData(backend, pixels, [1, 3, 16, 16]));
      return model.decoder.logits(model.forward({ ids: [ids] }, features).hidden.at(-1)!);
    }),
  );
  const data = await logits.data();
  const [, length, width] = logits.shape;
  logits.dispose();
  return Array.from({ length }, (_, i) => {
    const row = Float64Array.from(data.subarray(i * width, (i + 1) * width) as Float32Array);
    const top = row.reduce((a, b) => Math.max(a, b));
    const sum = Math.log(row.reduce((all, x) => all + Math.exp(x - top), 0)) + top;
    return row.map((x) => x - sum);
  });
}

/** The mean over the tokens of all answers, each question run by itself. */
async function expected({ questions, image }: VqaSample): Promise<number> {
  const pixels = student.pixels(await image());
  let [sum, tokens] = [0, 0];
  for (const { question, answer } of questions) {
    const { ids, labels } = encoder.encode([{ question, answer }]);
    const [p, q] = [
      await logProbabilities(teacher, pixels, [...ids]),
      await logProbabilities(student.model, pixels, [...ids]),
    ];
    // Labels end the sequence; the row before a token foretells it.
    for (let back = 1; labels.at(-back)! >= 0; back++) {
      const [from, to] = [p.at(-back - 1)!, q.at(-back - 1)!];
      sum += from.reduce((all, x, k) => all + Math.exp(x) * (x - to[k]), 0);
      tokens++;
    }
  }
  return sum / tokens;
}

divergence('is a mean over answer tokens for each image, and leaves nothing behind', async () => {
  const before = backend.memory.buffers;
  const found = await divergences(teacher, student, [set], 2);
  assert.is(backend.memory.buffers, before);
  assert.is(found.length, 2);
  for (const [i, kl] of found.entries()) {
    const exact = await expected(set.get(i));
    assert.ok(exact > 1e-3 && Math.abs(kl - exact) < 2e-5 * exact + 1e-6, `image ${i}: ${kl}, expected ${exact}`);
  }
});

divergence('is 0 for the teacher itself, has no value for an image without questions, and can be stopped', async () => {
  const blank = { ...set.get(0), questions: [] };
  const sets = [{ ...{ name: 'mixed', split: 'test' as const, length: 2 }, get: (i: number) => [blank, set.get(1)][i] }];
  const own = await divergences(teacher, new Vlm(teacher, tokenizer), sets, Infinity);
  assert.is(own.length, 1);
  assert.ok(Math.abs(own[0]) < 1e-6, `${own[0]}`);
  const reason = new Error('enough');
  assert.is(await rejects(divergences(teacher, student, [set], 9, AbortSignal.abort(reason)), Error), reason);
});
divergence.run();
