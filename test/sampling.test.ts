import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../engine/errors.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { generateIds } from '../models/matvlm/generate.ts';
import type { RgbImage } from '../models/nn/image/image.ts';
import { checkSampling, type SamplingOptions } from '../models/nn/sampling.ts';
import { IMAGE_ID, type Turn } from '../models/matvlm/template.ts';
import { Vlm } from '../models/matvlm/vlm.ts';
import { smallTeacher, tokenizer } from './support/tiny-model.ts';

const sampling = suite('sampling and streaming');
sampling('options out of range are refused by name', () => {
  const bad: SamplingOptions[] = [
    { temperature: -1 },
    { temperature: NaN },
    { topP: 0 },
    { topK: 1.5 },
    { repetitionPenalty: 0 },
    { repetitionPenalty: 1e-300 },
  ];
  for (const options of bad) assert.throws(() => checkSampling(options), new RegExp(Object.keys(options)[0]));
});

const image: RgbImage = { width: 4, height: 4, data: new Uint8Array(48).fill(90) };
const prompt = 'what shape is the red object?';

sampling('pieces join to the answer; a stop string ends it and is not given out; live bytes return', async () => {
  const backend = await WasmBackend.create();
  const vlm = new Vlm(smallTeacher(backend), tokenizer);
  const { live } = backend.memory;
  const options = { image, prompt, maxNewTokens: 12, temperature: 1, seed: 3 };
  const pieces: string[] = [];
  for await (const piece of vlm.generate(options)) pieces.push(piece);
  assert.ok(pieces.length > 3);
  const whole = pieces.join('');
  assert.is(whole.trim(), await vlm.answer(options));
  const stop = whole.slice(5, 9);
  const cut = await vlm.answer({ ...options, stop: [stop] });
  assert.is(cut, whole.slice(0, whole.indexOf(stop)).trim());
  assert.is(backend.memory.live, live);
});

sampling('earlier turns count, with an image and without', async () => {
  const vlm = new Vlm(smallTeacher(await WasmBackend.create()), tokenizer);
  const history = [{ question: 'what color?', answer: 'red' }, { question: 'is it red?', answer: '' }];
  for (const about of [image, null]) {
    const promptTokens = async (turns: Turn[]): Promise<number> => {
      let tokens = 0;
      await vlm.answer({ image: about, prompt, history: turns, maxNewTokens: 1, onUsage: (u) => (tokens = u.promptTokens) });
      return tokens;
    };
    const length = (turns: Turn[]) => vlm.encoder.encodeTextOnly([...turns, { question: prompt }]).ids.length;
    assert.is((await promptTokens(history)) - (await promptTokens([])), length(history) - length([]));
    assert.ok(length(history) > length([]) + 8);
  }
});

sampling('ids and pixels that do not belong together are refused', async () => {
  const model = smallTeacher(await WasmBackend.create());
  const pixels = new Float32Array(3 * 16 * 16);
  const cases: [number[], Float32Array | null, RegExp][] = [
    [[3, IMAGE_ID, 4], null, /give its pixels/],
    [[3, 4], pixels, /no place for the image/],
    [[3, tokenizer.size], null, /holds id/],
    [[3, -1], null, /holds id -1/],
    [[], null, /no token/],
  ];
  for (const [ids, image, why] of cases) {
    try {
      await generateIds(model, ids, image).next();
      assert.unreachable(`[${ids}] was answered`);
    } catch (error) {
      assert.instance(error, ArgumentError);
      assert.match((error as Error).message, why);
    }
  }
  assert.is(typeof (await generateIds(model, [3, IMAGE_ID, 4], pixels).next()).value, 'number');
});

sampling('nothing runs where nothing is wanted: aborted before the start, or no new tokens', async () => {
  const backend = await WasmBackend.create();
  const model = smallTeacher(backend);
  const count = backend.memory.buffers;
  let most = count;
  const alloc = backend.alloc.bind(backend);
  backend.alloc = (...args) => {
    most++;
    return alloc(...args);
  };
  for await (const _ of generateIds(model, [3, 4], null, { signal: AbortSignal.abort() })) assert.unreachable();
  for await (const _ of generateIds(model, [3, 4], null, { maxNewTokens: 0 })) assert.unreachable();
  assert.is(most, count);
  for await (const _ of generateIds(model, [3, 4], null, { maxNewTokens: 1 }));
  assert.ok(most > count);
});

sampling('abort ends within a token, and usage is told all the same', async () => {
  const backend = await WasmBackend.create();
  const vlm = new Vlm(smallTeacher(backend), tokenizer);
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

sampling('a prompt longer than the context is refused with both lengths', async () => {
  const vlm = new Vlm(smallTeacher(await WasmBackend.create()), tokenizer);
  try {
    await vlm.answer({ image, prompt: 'red '.repeat(200) });
    assert.unreachable('was answered');
  } catch (error) {
    assert.match((error as Error).message, /\d{3} positions, the model's context 128/);
  }
});

sampling('a signal that aborts from outside is heard between tokens, also on the CPU', async () => {
  const model = smallTeacher(await WasmBackend.create());
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
