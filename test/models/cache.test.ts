import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { ArgumentError, OutOfMemoryError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { decodeStep, prefill } from '../../models/matvlm/generate.ts';
import type { MaTVLM } from '../../models/matvlm/model.ts';
import { TokenStream, type TokenStreamOptions } from '../../models/matvlm/token-stream.ts';
import type { DecoderCache } from '../../models/nn/cache.ts';
import { failingAllocations } from '../support/backends.ts';
import { throws } from '../support/expect.ts';
import { relativeError } from '../support/golden-types.ts';
import { encoder, smallPair, smallTeacher } from '../support/tiny-model.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('caches and captured decoding');

const IDS = Array.from(encoder.questionIds('what shape is the red object?').ids);

/** Runs `body` on a teacher and on a student with a state-space layer; nothing may stay on the backend. */
async function eachModel(backend: Backend, body: (model: MaTVLM, name: string) => Promise<void>): Promise<void> {
  const { teacher, student, dispose } = smallPair(backend, [1]);
  const { live } = backend.memory;
  await body(teacher, `teacher on ${backend.kind}`);
  await body(student, `student on ${backend.kind}`);
  assert.is(backend.memory.live, live, `live bytes on ${backend.kind}`);
  dispose();
}

/** A cache that holds a prompt, and the logits behind it. */
function prompted(model: MaTVLM, ids = IDS): { cache: DecoderCache; logits: Tensor } {
  const cache = model.decoder.cache();
  return { cache, logits: prefill(model, ids, null, cache) };
}

async function take(tokens: TokenStream, count: number): Promise<number[]> {
  const ids: number[] = [];
  for (let left = count; left > 0; left--) ids.push((await tokens.next(left))![0]);
  return ids;
}

async function tokensOf(model: MaTVLM, options: TokenStreamOptions, room?: number): Promise<number[]> {
  const { cache, logits } = scope(() => {
    const made = prompted(model);
    return { cache: made.cache, logits: made.logits.alias(made.logits.shape) };
  });
  if (room) cache.reserve(IDS.length + room, 1);
  const tokens = new TokenStream(model.decoder, cache, logits, options);
  const ids = await take(tokens, options.maxNewTokens);
  await tokens.dispose();
  cache.dispose();
  logits.dispose();
  return ids;
}

for (const backend of backends) {
  test(`a pass that fails leaves the cache as it was, or says how to go back: ${backend.kind}`, () =>
    eachModel(backend, async (model, name) => {
      const fail = failingAllocations(backend);
      const { cache, logits } = prompted(model);
      const want = [...(await logits.data())];
      cache.dispose();
      logits.dispose();
      for (let at = 1, failed = true; failed; at += 5) {
        const again = model.decoder.cache();
        fail(at);
        failed = false;
        try {
          scope(() => void prefill(model, IDS, null, again));
        } catch (error) {
          assert.instance(error, OutOfMemoryError);
          failed = true;
        }
        fail();
        const recurrent = name.startsWith('student');
        if (failed && recurrent && at > 100) throws(() => prefill(model, IDS, null, again), ArgumentError, /truncate\(0\)/);
        if (!failed || recurrent) again.truncate(0);
        const got = scope(() => prefill(model, IDS, null, again));
        assert.ok(relativeError([...(await got.data())], want) < 1e-5, `${name}, allocation ${at}`);
        got.dispose();
        again.dispose();
      }
    }));

  test(`replayed steps choose what single steps choose, also where room moves: ${backend.kind}`, () =>
    eachModel(backend, async (model, name) => {
      const { cache, logits } = prompted(model);
      const want: number[] = [];
      let values = [...(await logits.data())];
      for (let i = 0; i < 12; i++) {
        want.push(values.indexOf(Math.max(...values)));
        const next = decodeStep(model, [want[i]], cache);
        values = [...(await next.data())];
        next.dispose();
      }
      logits.dispose();
      cache.dispose();
      for (const ahead of [1, 3]) assert.equal(await tokensOf(model, { maxNewTokens: 12, ahead }), want, name);
      assert.equal(await tokensOf(model, { maxNewTokens: 12 }, 5), want, `${name}, with room for 5 at first`);
    }));

  test(`drawn tokens are a seed's, however many are computed ahead: ${backend.kind}`, () =>
    eachModel(backend, async (model, name) => {
      const picked = { temperature: 2, topK: 30, topP: 0.95, repetitionPenalty: 1.3 };
      const options = { ...picked, maxNewTokens: 20, prompts: [IDS] };
      const drawn = (seed: number, ahead?: number) => tokensOf(model, { ...options, seed, ahead });
      const [one, same, other] = [await drawn(1, 1), await drawn(1, 3), await drawn(2)];
      assert.equal(one, same, name);
      assert.not.equal(one, other, name);
      assert.ok(new Set(one).size > 10, `${name}: ${one}`);
    }));

  test(`a snapshot brings back what was, as often as wanted: ${backend.kind}`, () =>
    eachModel(backend, async (model, name) => {
      const { cache, logits } = prompted(model);
      logits.dispose();
      const run = async (ids: readonly number[]) => {
        const steps = ids.map((id) => decodeStep(model, [id], cache));
        const data = await steps.at(-1)!.data();
        for (const t of steps) t.dispose();
        return data;
      };
      const before = cache.snapshot();
      const first = await run([5, 9]);
      const between = cache.snapshot();
      const { bytes } = cache;
      const second = await run([3, 7]);
      cache.restore(between);
      assert.equal(await run([3, 7]), second, name);
      cache.restore(before);
      throws(() => cache.restore(between), ArgumentError, /behind a truncation/);
      assert.is(cache.length, IDS.length);
      assert.equal(await run([5, 9]), first, name);
      assert.is(cache.bytes, bytes, 'bytes do not grow with tokens');
      cache.dispose();
    }));
}

test('truncating forgets the last positions where all layers are attention, and is refused elsewhere', () => {
  const [backend] = backends;
  return eachModel(backend, async (model, name) => {
    const { cache, logits } = prompted(model);
    const [a, b] = [decodeStep(model, [5], cache), decodeStep(model, [9], cache)];
    const refused = (length: number, why: RegExp) => throws(() => cache.truncate(length), ArgumentError, why);
    if (name.startsWith('student')) refused(IDS.length, /state-space layer/);
    else {
      cache.truncate(IDS.length);
      const again = decodeStep(model, [5], cache);
      assert.equal(await again.data(), await a.data());
      again.dispose();
    }
    refused(-1, /-1/);
    refused(1000, /1000/);
    cache.truncate(0);
    const anew = prefill(model, IDS, null, cache);
    assert.ok(relativeError(await anew.data(), await logits.data()) < 1e-6, name);
    for (const t of [logits, a, b, anew]) t.dispose();
    cache.dispose();
  });
});

test('rows of a batch go on apart, each from the end of its own', async () => {
  for (const backend of backends) {
    await eachModel(backend, async (model, name) => {
      const cache = model.decoder.cache();
      const rows = [IDS, [...IDS].reverse()];
      const stream = scope(() => {
        const ids = fromData(backend, rows.flat(), [2, IDS.length], 'i32');
        const logits = model.decoder.next(model.decoder.embed(ids), cache);
        return { tokens: new TokenStream(model.decoder, cache, logits, { maxNewTokens: 6 }) };
      }).tokens;
      const both: ArrayLike<number>[] = [];
      for (let left = 6; left > 0; left--) both.push((await stream.next(left))!);
      await stream.dispose();
      cache.dispose();
      for (const [b, ids] of rows.entries()) {
        const own = prompted(model, ids);
        const tokens = new TokenStream(model.decoder, own.cache, own.logits, { maxNewTokens: 6 });
        assert.equal(both.map((row) => row[b]), await take(tokens, 6), `${name}, row ${b}`);
        await tokens.dispose();
        own.logits.dispose();
        own.cache.dispose();
      }
    });
  }
});

test('the context is the end: tokens up to it, and no room beyond', async () => {
  const model = smallTeacher(backends[1]);
  const { cache, logits } = prompted(model);
  const tokens = new TokenStream(model.decoder, cache, logits, { maxNewTokens: 1000, ahead: 3 });
  let count = 0;
  while (await tokens.next(Infinity)) count++;
  assert.is(count, cache.context - IDS.length + 1);
  assert.throws(() => cache.reserve(cache.context + 1), /129 positions are more than the context of 128/);
  assert.throws(() => decodeStep(model, [3], cache), /129 positions/);
  await tokens.dispose();
});

test.run();
