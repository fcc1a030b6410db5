// An evaluation of a broken model is an error, as generating from it is, on every backend.
import * as assert from 'uvu/assert';
import { NumericError } from '../../models/nn/errors.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { evaluate } from '../../models/matvlm/train/evaluate.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { rejects } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';
import { smallTeacher, tokenizer } from '../support/tiny-model.ts';

const { test, backends } = await suiteOnBackends('evaluation');

for (const backend of backends) {
  for (const broken of [NaN, Infinity, -Infinity]) {
    test(`a logit that is ${broken} is told with image and question, on ${backend.kind}`, async () => {
      const vlm = new Vlm(smallTeacher(backend), tokenizer);
      const before = backend.memory.buffers;
      const bias = vlm.model.parameters.get('language_model.lm_head.bias')!;
      backend.write([bias.buffer], [Float32Array.from({ length: bias.size }, (_, i) => (i === 7 ? broken : 0))]);
      const evaluated = evaluate(vlm, new SortOfClevr('test', { length: 1 }));
      await rejects(evaluated, NumericError, /^image \S+, question ".+\?": a logit is not finite;/);
      assert.is(backend.memory.buffers, before);
      vlm.dispose();
    });
  }

  test(`of a sound model answers every question, on ${backend.kind}`, async () => {
    const vlm = new Vlm(smallTeacher(backend), tokenizer);
    const set = new SortOfClevr('test', { length: 1 });
    const { total, samples } = await evaluate(vlm, set);
    assert.is(total, set.get(0).questions.length);
    const [{ question, predicted }] = samples;
    const answer = await vlm.answer({ image: await set.get(0).image(), prompt: question, maxNewTokens: 8 });
    assert.is(predicted, answer, 'as generating does');
    vlm.dispose();
  });
}

test.run();
