import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { ConfigError, DataError } from '../../models/nn/errors.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { distillPlain, distillVqa, setTrainable, vqaLoss } from '../../models/matvlm/distill.ts';
import { decodeStep, prefill } from '../../models/matvlm/generate.ts';
import type { PassOptions } from '../../models/matvlm/layers/decoder.ts';
import { type LossOptions, nextTokenLoss, publishedLosses } from '../../models/matvlm/losses.ts';
import type { MaTVLM } from '../../models/matvlm/model.ts';
import { isTrainable } from '../../models/matvlm/names.ts';
import type { TokenBatch } from '../../models/matvlm/splice.ts';
import { createStudent } from '../../models/matvlm/student.ts';
import { evaluate } from '../../models/matvlm/train/evaluate.ts';
import { BatchLoader, type LoaderOptions } from '../../models/matvlm/train/loader.ts';
import { distillTask } from '../../models/matvlm/train/loop.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { nextLabels, uploadVqa, type VqaBatch } from '../../models/matvlm/vqa-batch.ts';
import { Dropout } from '../../models/nn/dropout.ts';
import { Random } from '../../models/nn/random.ts';
import { rejects, throws } from '../support/expect.ts';
import { relativeError } from '../support/golden-types.ts';
import { lossAndGradients, sameGradients } from '../support/losses.ts';
import {
  batchesOf,
  drawings,
  encoder,
  smallConfig,
  smallPair,
  smallStudent,
  smallTeacher,
  tokenizer,
} from '../support/tiny-model.ts';

const model = suite('model');
const double = new ReferenceBackend({ double: true });
const EIGHT = new SortOfClevr('train', { length: 8 });

const loader = (options: Partial<LoaderOptions> = {}) => batchesOf(EIGHT, { questionsPerImage: 3, ...options });
/** One batch of two images with those numbers of questions. */
const questions = (counts: readonly number[]): Promise<VqaBatch> => batchesOf(drawings(counts)).batch(0);

/** The plain batch in which every question has a copy of its prefix and image. */
function unshared(batch: VqaBatch): { tokens: TokenBatch; pixels: Tensor } {
  const { length } = batch;
  const rows = (data: Int32Array) =>
    Array.from({ length: batch.questions }, (_, i) => Array.from(data.subarray(i * length, (i + 1) * length)));
  const prefix = Array.from(batch.prefixIds);
  const image = batch.pixels.length / batch.images;
  const pixels = Array.from(batch.owner, (o) => [...batch.pixels.subarray(o * image, (o + 1) * image)]);
  return {
    tokens: {
      ids: rows(batch.questionIds).map((row) => [...prefix, ...row]),
      labels: rows(batch.labels).map((row) => [...prefix.map(() => -100), ...row]),
    },
    pixels: fromData(double, pixels.flat(), [batch.questions, 3, 16, 16]),
  };
}

model('the loader keeps images up to its bytes, and gives the same batches however few', async () => {
  const run = async (cacheBytes?: number) => {
    let drawn = 0;
    const counted = {
      ...{ name: EIGHT.name, split: EIGHT.split, length: EIGHT.length },
      get: (i: number) => ({ ...EIGHT.get(i), image: () => (drawn++, EIGHT.get(i).image()) }),
    };
    const batches = batchesOf(counted, { cacheBytes });
    const pixels: Float32Array[] = [];
    for (let k = 0; k < 12; k++) pixels.push((await batches.batch(k)).pixels);
    return { pixels, drawn };
  };
  const [all, few, none] = [await run(), await run(2 * 16 * 16 * 3), await run(0)];
  assert.equal(few.pixels, all.pixels);
  assert.equal(none.pixels, all.pixels);
  assert.equal([all.drawn, none.drawn], [8, 24]);
  assert.ok(few.drawn > 8 && few.drawn <= 24, `${few.drawn}`);
});

model('a shared prefix gives the loss and gradients of the plain batch', async () => {
  const teacher = smallTeacher(double);
  setTrainable(teacher, () => true);
  const batch = await loader().batch(0);
  const shared = await lossAndGradients(teacher, () => vqaLoss(teacher, uploadVqa(teacher, batch)));
  const plain = await lossAndGradients(teacher, () => {
    const { tokens, pixels } = unshared(batch);
    const out = teacher.forward(tokens, teacher.visionFeatures(pixels));
    const { labels, batch: b, length } = out.spliced;
    const targets = fromData(double, nextLabels(labels, b, length), [b * (length - 1)], 'i32');
    return nextTokenLoss(teacher.decoder.logits(out.hidden.at(-1)!), targets);
  });
  assert.ok(Math.abs(shared.value - plain.value) < 1e-12);
  sameGradients(shared.grads, plain.grads, 1e-9);
});

/** Loss and gradients of a distillation, on shared prefixes and on the plain batch. */
async function bothWays(
  { teacher, student }: { teacher: MaTVLM; student: MaTVLM },
  batch: VqaBatch,
  loss: LossOptions,
  options: () => PassOptions = () => ({}),
) {
  const shared = await lossAndGradients(student, () => {
    return distillVqa(teacher, student, uploadVqa(student, batch), loss, options()).total;
  });
  const plain = await lossAndGradients(student, () => {
    const { tokens, pixels } = unshared(batch);
    const features = noGrad(() => student.visionFeatures(pixels));
    return distillPlain(teacher, student, tokens, features, loss, options()).total;
  });
  return [shared, plain] as const;
}

type Counts = readonly number[];
type Distillation = readonly [what: string, counts: Counts, layers: readonly number[], loss: Partial<LossOptions>];

const DISTILLATIONS = [
  ...([[[0, 2], 'l2'], [[1], 'l2'], [[0, 2], 'sl'], [[0, 2], 'kl']] as const).flatMap(([layers, layerKind]) =>
    [[3, 3], [1, 5]].map((counts): Distillation => {
      return [`layers by ${layerKind}`, counts, layers, { layerKind, ceWeight: 0.5 }];
    }),
  ),
  ...(['kl', 'reverse', 'jsd', 'ce', 'l2'] as const).flatMap((kind) =>
    ([['sum', [3, 3]], ['sum', [5, 1]], ['sum', [0, 2]], ['mean', [5, 1]]] as const).map(
      ([reduction, counts]): Distillation => {
        return [`${kind}, ${reduction}`, counts, [0, 2], { kind, reduction, layerWeight: 0 }];
      },
    ),
  ),
];
for (const [what, counts, layers, loss] of DISTILLATIONS) {
  model(`so does distillation: ${what}, layers ${layers}, ${counts} questions; frozen tensors are shared`, async () => {
    const { live } = double.memory;
    const pair = smallPair(double, layers);
    setTrainable(pair.teacher, () => false);
    const trained = setTrainable(pair.student, isTrainable);
    const losses = { ...publishedLosses, temperature: 2, ...loss };
    const [shared, plain] = await bothWays(pair, await questions(counts), losses);
    assert.ok(Math.abs(shared.value - plain.value) < 1e-9 * plain.value, `${shared.value} against ${plain.value}`);
    assert.equal([...plain.grads.keys()].sort(), [...trained.keys()].sort());
    sameGradients(shared.grads, plain.grads, 1e-9);
    for (const [name, tensor] of pair.student.parameters) {
      assert.is(pair.teacher.parameters.get(name) === tensor, !isTrainable(name), `${name} is shared`);
    }
    pair.dispose();
    assert.is(double.memory.live, live);
  });
}

model('cached decoding gives the logits of the full pass, token by token', async () => {
  const teacher = smallTeacher(double);
  for (const m of [teacher, smallStudent(teacher, [0, 2]), smallStudent(teacher, [1])]) {
    const ids = [...encoder.prefixIds(), ...encoder.questionIds('what shape is the red object?').ids];
    const pixels = fromData(double, Float32Array.from({ length: 768 }, (_, i) => Math.sin(i)), [1, 3, 16, 16]);
    const cache = m.decoder.cache();
    prefill(m, ids, pixels, cache);
    for (const next of [5, 9, 11, 7, 3]) {
      const cached = decodeStep(m, [next], cache);
      ids.push(next);
      const full = prefill(m, ids, pixels, m.decoder.cache());
      assert.ok(relativeError(await cached.data(), await full.data()) < 1e-12);
    }
  }
});

for (const layerKind of ['none', 'l2', 'kl', 'sl'] as const) {
  model(`checkpointed layers give the same gradients, with dropout too: layer-wise loss ${layerKind}`, async () => {
    const pair = smallPair(double, [0, 2], smallConfig({ resid_pdrop: 0.2 }));
    const { teacher } = pair;
    const batch = await questions([1, 3]);
    const run = async (checkpointing: boolean) => {
      const options = () => ({ checkpointing, dropout: new Dropout(scalar(double, 3, 'u32')) });
      if (layerKind !== 'none') return bothWays(pair, batch, { ...publishedLosses, layerKind }, options);
      return [await lossAndGradients(teacher, () => vqaLoss(teacher, uploadVqa(teacher, batch), options()))];
    };
    if (layerKind === 'none') setTrainable(teacher, () => true);
    else distillTask(teacher, pair.student, publishedLosses);
    const kept = await run(false);
    for (const [i, recomputed] of (await run(true)).entries()) {
      assert.is(recomputed.value, kept[i].value);
      sameGradients(recomputed.grads, kept[i].grads, 1e-12);
    }
    pair.dispose();
  });
}

/** Bytes that a loss and its backward take at most, beside what was there before. */
async function peakOf(m: MaTVLM, loss: () => Tensor): Promise<number> {
  const { memory } = m.backend;
  const { live } = memory;
  memory.peak = live;
  await lossAndGradients(m, loss);
  assert.is(memory.live, live, 'everything is free again');
  return memory.peak - live;
}

model('checkpointing needs far less memory, in pre-training and in distillation', async () => {
  const teacher = smallTeacher(await WasmBackend.create({ poison: true }), smallConfig({ num_hidden_layers: 8 }));
  setTrainable(teacher, () => true);
  const batch = await loader({ questionsPerImage: 16 }).batch(0);
  const far = async (peak: (checkpointing: boolean) => Promise<number>) => {
    const [kept, recomputed] = [await peak(false), await peak(true)];
    assert.ok(recomputed < 0.4 * kept, `${kept} → ${recomputed} bytes`);
  };
  await far((checkpointing) => peakOf(teacher, () => vqaLoss(teacher, uploadVqa(teacher, batch), { checkpointing })));
  const student = smallStudent(teacher, [0, 2, 4, 6]);
  const task = distillTask(teacher, student, publishedLosses);
  await far((checkpointing) => peakOf(student, () => task.loss(uploadVqa(student, batch), { checkpointing }).total));
});

model('a loss without a weight and a student without a mixer are refused', async () => {
  const teacher = smallTeacher(double);
  const batch = await loader().batch(0);
  const distil = (student: MaTVLM, loss: Partial<LossOptions>) => () =>
    distillVqa(teacher, student, uploadVqa(student, batch), { ...publishedLosses, ...loss });
  throws(distil(smallStudent(teacher, [0]), { klWeight: 0, layerWeight: 0, ceWeight: 0 }), ArgumentError);
  throws(distil(smallStudent(teacher, []), {}), ArgumentError);
  const options = { layers: [], bias: false, from: 'random', identityConv: false } as const;
  await rejects(createStudent(teacher, options, new Random(1)), ConfigError);
});

model('a batch about whose images nothing is asked names them', async () => {
  await rejects(questions([0, 0]), DataError, /batch 0 .*sort-of-clevr\/train\/\d, sort-of-clevr\/train\/\d/);
});

model('a question longer than the context is refused by name, in training and in evaluation', async () => {
  const teacher = smallTeacher(double, smallConfig({ max_position_embeddings: 16 }));
  const image = EIGHT.get(0);
  const ask = (words: number) => {
    const asked = [{ ...image.questions[0], question: 'red '.repeat(words) }];
    return { name: 'long', split: 'train' as const, length: 1, get: () => ({ ...image, questions: asked }) };
  };
  const batch = (words: number) => batchesOf(ask(words), { imagesPerBatch: 1 }).batch(0);
  const says = /"red red .*(17|18|19) positions .* context has 16/;
  // Prefix 2, image 4, "assistant :" 2, the answer and the end of text 2.
  const [fits, long] = [await batch(6), await batch(7)];
  assert.not.throws(() => vqaLoss(teacher, uploadVqa(teacher, fits)));
  throws(() => uploadVqa(teacher, long), DataError, says);
  const vlm = new Vlm(teacher, tokenizer);
  assert.is((await evaluate(vlm, ask(8), { maxNewTokens: 50 })).total, 1);
  await rejects(evaluate(vlm, ask(9)), DataError, says);
});

model('augmented batches are the same for a seed, and hold other images in every epoch', async () => {
  const [one, again, plain] = [loader({ augment: true }), loader({ augment: true }), loader()];
  const bytes = async (from: BatchLoader, k: number) => Buffer.from((await from.batch(k)).pixels.buffer);
  await one.batch(2);
  assert.ok((await bytes(one, 5)).equals(await bytes(again, 5)));
  const image = 3 * 16 * 16 * 4;
  const differentIn = async (from: BatchLoader, batches: number): Promise<number> => {
    const seen = new Set<string>();
    for (let k = 0; k < batches; k++) {
      const all = await bytes(from, k);
      for (let at = 0; at < all.length; at += image) seen.add(all.subarray(at, at + image).toString('base64'));
    }
    return seen.size;
  };
  assert.equal([await differentIn(one, 8), await differentIn(plain, 8)], [16, 8]);
});

model.run();
