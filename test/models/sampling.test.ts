import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { generateIds } from '../../models/matvlm/generate.ts';
import type { RgbImage } from '../../models/nn/image/image.ts';
import { checkSampling, type SamplingOptions } from '../../models/nn/sampling.ts';
import { IMAGE_ID, type Turn } from '../../models/matvlm/template.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { rejects, throws } from '../support/expect.ts';
import { smallTeacher, tokenizer } from '../support/tiny-model.ts';

const backend = await WasmBackend.create();
const model = smallTeacher(backend);
const vlm = new Vlm(model, tokenizer);
const image: RgbImage = { width: 4, height: 4, data: new Uint8Array(48).fill(90) };
const prompt = 'what shape is the red object?';

const sampling = suite('sampling and streaming');

sampling('options out of range are refused by name', () => {
  const bad: SamplingOptions[] = [
    ...[{ temperature: -1 }, { temperature: NaN }, { topP: 0 }, { topK: 1.5 }],
    ...[{ repetitionPenalty: 0 }, { repetitionPenalty: 1e-300 }],
  ];
  for (const options of bad) throws(() => checkSampling(options), ArgumentError, Object.keys(options)[0]);
});

sampling('pieces join to the answer; a stop string ends it and is not given out; live bytes return', async () => {
  const { live } = backend.memory;
  const options = { image, prompt, maxNewTokens: 12, temperature: 1, seed: 3 };
  const pieces: string[] = [];
  for await (const piece of vlm.generate(options)) pieces.push(piece);
  assert.ok(pieces.length > 3);
  const whole = pieces.join('');
  assert.is(whole.trim(), await vlm.answer(options));
  const stop = whole.slice(5, 9);
  assert.is(await vlm.answer({ ...options, stop: [stop] }), whole.slice(0, whole.indexOf(stop)).trim());
  assert.is(backend.memory.live, live);
});

sampling('earlier turns count, with an image and without', async () => {
  const history = [{ question: 'what color?', answer: 'red' }, { question: 'is it red?', answer: '' }];
  for (const about of [image, null]) {
    const promptTokens = async (turns: Turn[]): Promise<number> => {
      let tokens = 0;
      const onUsage = (usage: { promptTokens: number }) => (tokens = usage.promptTokens);
      await vlm.answer({ image: about, prompt, history: turns, maxNewTokens: 1, onUsage });
      return tokens;
    };
    const length = (turns: Turn[]) => vlm.encoder.encodeTextOnly([...turns, { question: prompt }]).ids.length;
    assert.is((await promptTokens(history)) - (await promptTokens([])), length(history) - length([]));
    assert.ok(length(history) > length([]) + 8);
  }
});

sampling('ids and pixels that do not belong together, and a prompt longer than the context, are refused', async () => {
  const pixels = new Float32Array(3 * 16 * 16);
  const cases: [number[], Float32Array | null, RegExp][] = [
    [[3, IMAGE_ID, 4], null, /give its pixels/],
    [[3, 4], pixels, /no place for the image/],
    [[3, tokenizer.size], null, /holds id/],
    [[3, -1], null, /holds id -1/],
    [[], null, /no token/],
  ];
  for (const [ids, pixels, says] of cases) await rejects(generateIds(model, ids, pixels).next(), ArgumentError, says);
  assert.is(typeof (await generateIds(model, [3, IMAGE_ID, 4], pixels).next()).value, 'number');
  const long = vlm.answer({ image, prompt: 'red '.repeat(200) });
  await rejects(long, ArgumentError, /\d{3} positions, the model's context 128/);
});

sampling('nothing runs where nothing is wanted: aborted before the start, or no new tokens', async () => {
  const { alloc } = backend;
  let count = 0;
  backend.alloc = (...args) => (count++, alloc.apply(backend, args));
  for await (const _ of generateIds(model, [3, 4], null, { signal: AbortSignal.abort() })) assert.unreachable();
  for await (const _ of generateIds(model, [3, 4], null, { maxNewTokens: 0 })) assert.unreachable();
  assert.is(count, 0);
  for await (const _ of generateIds(model, [3, 4], null, { maxNewTokens: 1 }));
  assert.ok(count > 0);
  backend.alloc = alloc;
});

sampling('abort ends within a token, and usage is told all the same', async () => {
  const { live } = backend.memory;
  const abort = new AbortController();
  let usage = { newTokens: -1, promptTokens: -1 };
  const options = { image, prompt, maxNewTokens: 50, temperature: 1, seed: 3, signal: abort.signal };
  let pieces = 0;
  for await (const _ of vlm.generate({ ...options, onUsage: (u) => (usage = u) })) if (++pieces === 2) abort.abort();
  assert.ok(usage.newTokens <= 4, `${usage.newTokens} tokens`);
  assert.ok(usage.promptTokens > 4);
  assert.is(backend.memory.live, live);
});

sampling('a signal that aborts from outside is heard between tokens, also on the CPU', async () => {
  const controller = new AbortController();
  let made = 0;
  for await (const _ of generateIds(model, [1, 2, 3], null, { maxNewTokens: 60, signal: controller.signal })) {
    if (++made === 1) setTimeout(() => controller.abort(), 0);
    const end = performance.now() + 5;
    while (performance.now() < end);
  }
  assert.ok(made < 30, `${made} tokens`);
});

sampling.run();
