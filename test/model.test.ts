import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { ArgumentError, ConfigError, DataError } from '../engine/errors.ts';
import { scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../engine/tensor.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { distillPlain, distillVqa, type LossParts, setTrainable, vqaLoss } from '../models/matvlm/distill.ts';
import { decodeStep, prefill } from '../models/matvlm/generate.ts';
import { type LossOptions, nextTokenLoss, publishedLosses } from '../models/matvlm/losses.ts';
import type { MaTVLM } from '../models/matvlm/model.ts';
import { isTrainable } from '../models/matvlm/names.ts';
import type { TokenBatch } from '../models/matvlm/splice.ts';
import { createStudent } from '../models/matvlm/student.ts';
import { evaluate } from '../models/matvlm/train/evaluate.ts';
import { BatchLoader } from '../models/matvlm/train/loader.ts';
import {
  distillTask,
  pretrainTask,
  type StepReport,
  Trainer,
  type TrainSettings,
  type TrainTask,
} from '../models/matvlm/train/loop.ts';
import { planSchedule, wsd } from '../models/nn/schedule.ts';
import { Vlm } from '../models/matvlm/vlm.ts';
import { disposeModel } from '../models/matvlm/weights.ts';
import { nextLabels, uploadVqa, type VqaBatch, type VqaInputs } from '../models/matvlm/vqa-batch.ts';
import { Dropout } from '../models/nn/dropout.ts';
import { Random } from '../models/nn/random.ts';
import { add, backward, reshape, slice, square, sum } from '../ops/index.ts';
import { norm, relativeError } from './support/golden-types.ts';
import { encoder, smallConfig, smallStudent, smallTeacher, tokenizer } from './support/tiny-model.ts';

const model = suite('model');
const isArgumentError = (error: Error) => error instanceof ArgumentError;
const double = new ReferenceBackend({ double: true });

function loader(seed = 1, questionsPerImage = 3, augment = false): BatchLoader {
  return new BatchLoader([new SortOfClevr('train', { length: 8 })], encoder, {
    imagesPerBatch: 2,
    questionsPerImage,
    augment,
    seed,
    imageSize: 16,
    aspect: 'square',
    padId: tokenizer.padId,
  });
}

/** The plain batch in which every question has a copy of its prefix and image. */
function unshared(batch: VqaBatch): { tokens: TokenBatch; pixels: Float32Array } {
  const rows = (data: Int32Array) =>
    Array.from({ length: batch.questions }, (_, i) => Array.from(data.subarray(i * batch.length, (i + 1) * batch.length)));
  const prefix = Array.from(batch.prefixIds);
  const image = batch.pixels.length / batch.images;
  const pixels = new Float32Array(batch.questions * image);
  batch.owner.forEach((o, i) => pixels.set(batch.pixels.subarray(o * image, (o + 1) * image), i * image));
  return {
    tokens: {
      ids: rows(batch.questionIds).map((row) => [...prefix, ...row]),
      labels: rows(batch.labels).map((row) => [...prefix.map(() => -100), ...row]),
    },
    pixels,
  };
}

/** Two images, the first with `counts[0]` questions, the other with `counts[1]`. */
function uneven(counts: readonly number[]): Promise<VqaBatch> {
  const set = new SortOfClevr('train', { length: 2 });
  const get = (i: number) => ({ ...set.get(i), questions: set.get(i).questions.slice(0, counts[i]) });
  const data = { name: 'uneven', split: 'train' as const, length: 2, get };
  const options = { imagesPerBatch: 2, seed: 1, imageSize: 16, aspect: 'square' as const, padId: tokenizer.padId };
  return new BatchLoader([data], encoder, options).batch(0);
}

async function gradients(m: MaTVLM): Promise<Map<string, ArrayLike<number>>> {
  const all = new Map<string, ArrayLike<number>>();
  for (const [name, tensor] of m.parameters) {
    if (!tensor.grad) continue;
    all.set(name, await tensor.grad.data());
    tensor.grad.dispose();
    tensor.grad = null;
  }
  return all;
}

function sameGradients(a: Map<string, ArrayLike<number>>, b: Map<string, ArrayLike<number>>, most: number): void {
  assert.equal([...a.keys()].sort(), [...b.keys()].sort());
  const floor = 1e-3 * norm([...b.values()].map(norm));
  for (const [name, want] of b) {
    const error = relativeError(a.get(name)!, want, floor);
    assert.ok(error < most, `${name} differs by ${error}`);
  }
}

async function lossAndGradients(m: MaTVLM, loss: () => Tensor) {
  const made = scope(() => {
    const l = loss();
    backward(l);
    return l;
  });
  const value = await made.item();
  made.dispose();
  return { value, grads: await gradients(m) };
}

model('the loader keeps images up to its bytes, and gives the same batches however few', async () => {
  const run = async (cacheBytes?: number) => {
    let drawn = 0;
    const data = new SortOfClevr('train', { length: 8 });
    const counted = {
      ...{ name: data.name, split: data.split, length: data.length },
      get: (i: number) => ({ ...data.get(i), image: () => (drawn++, data.get(i).image()) }),
    };
    const options = { imagesPerBatch: 2, seed: 1, imageSize: 16, aspect: 'square', padId: tokenizer.padId, cacheBytes } as const;
    const batches = new BatchLoader([counted], encoder, options);
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
  const { tokens, pixels } = unshared(batch);
  const plain = await lossAndGradients(teacher, () => {
    const out = teacher.forward(tokens, teacher.visionFeatures(fromData(double, pixels, [batch.questions, 3, 16, 16])));
    const { labels, batch: b, length } = out.spliced;
    const targets = fromData(double, nextLabels(labels, b, length), [b * (length - 1)], 'i32');
    return nextTokenLoss(teacher.decoder.logits(out.hidden.at(-1)!), targets);
  });
  assert.ok(Math.abs(shared.value - plain.value) < 1e-12);
  sameGradients(shared.grads, plain.grads, 1e-9);
  disposeModel(teacher);
  assert.is(double.memory.live, 0);
});

/** Distillation on a shared prefix against the plain batch: loss and gradients. */
async function compareDistillation(batch: VqaBatch, layers: readonly number[], loss: LossOptions): Promise<void> {
  const { live } = double.memory;
  const teacher = smallTeacher(double);
  const student = smallStudent(teacher, layers);
  setTrainable(teacher, () => false);
  setTrainable(student, isTrainable);
  const shared = await lossAndGradients(student, () => distillVqa(teacher, student, uploadVqa(student, batch), loss).total);
  const { tokens, pixels } = unshared(batch);
  const plain = await lossAndGradients(student, () => {
    const features = noGrad(() => student.visionFeatures(fromData(double, pixels, [batch.questions, 3, 16, 16])));
    return distillPlain(teacher, student, tokens, features, loss).total;
  });
  assert.ok(Math.abs(shared.value - plain.value) < 1e-9 * plain.value, `${shared.value} against ${plain.value}`);
  sameGradients(shared.grads, plain.grads, 1e-9);
  disposeModel(student, teacher);
  disposeModel(teacher);
  assert.is(double.memory.live, live);
}

for (const [layers, layerKind] of [[[0, 2], 'l2'], [[1], 'l2'], [[0, 2], 'sl'], [[0, 2], 'kl']] as const) {
  const loss = { ...publishedLosses, ceWeight: 0.5, temperature: 2, layerKind };
  model(`so does distillation, layers ${layers}, ${layerKind}`, async () => {
    await compareDistillation(await loader().batch(1), layers, loss);
  });
  model(`and with unlike numbers of questions, layers ${layers}, ${layerKind}`, async () => {
    await compareDistillation(await uneven([1, 5]), layers, loss);
  });
}

const CASES = [['sum', [3, 3]], ['sum', [5, 1]], ['sum', [0, 2]], ['mean', [5, 1]]] as const;
for (const kind of ['kl', 'reverse', 'jsd', 'ce', 'l2'] as const) {
  for (const [reduction, counts] of CASES) {
    model(`the loss ${kind}, ${reduction}, is that of the plain batch with ${counts} questions`, async () => {
      const loss = { ...publishedLosses, kind, reduction, layerWeight: 0, temperature: 2 };
      await compareDistillation(await uneven(counts), [0, 2], loss);
    });
  }
}

model('frozen tensors get no gradient, and teacher and student share them', async () => {
  const teacher = smallTeacher(double);
  const student = smallStudent(teacher, [0]);
  setTrainable(teacher, () => false);
  const trained = setTrainable(student, isTrainable);
  const batch = await loader().batch(0);
  const { grads } = await lossAndGradients(student, () => distillVqa(teacher, student, uploadVqa(student, batch), publishedLosses).total);
  assert.equal([...grads.keys()].sort(), [...trained.keys()].sort());
  for (const [name, tensor] of student.parameters) {
    assert.is(teacher.parameters.get(name) === tensor, !isTrainable(name), name);
  }
  disposeModel(student, teacher);
  disposeModel(teacher);
});

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

const drops = () => new Dropout(scalar(double, 3, 'u32'));

model('checkpointed layers give the same gradients, with dropout too', async () => {
  const teacher = smallTeacher(double, smallConfig({ resid_pdrop: 0.2 }));
  setTrainable(teacher, () => true);
  const batch = await loader().batch(0);
  const run = (checkpointing: boolean) =>
    lossAndGradients(teacher, () => vqaLoss(teacher, uploadVqa(teacher, batch), { checkpointing, dropout: drops() }));
  const [plain, recomputed] = [await run(false), await run(true)];
  assert.is(recomputed.value, plain.value);
  sameGradients(recomputed.grads, plain.grads, 1e-12);
  disposeModel(teacher);
});

for (const layerKind of ['l2', 'kl', 'sl'] as const) {
  model(`so do they in distillation, on shared prefixes and on plain batches, ${layerKind}`, async () => {
    const { live } = double.memory;
    const teacher = smallTeacher(double, smallConfig({ resid_pdrop: 0.2 }));
    const student = smallStudent(teacher, [0, 2]);
    distillTask(teacher, student, publishedLosses);
    const batch = await uneven([1, 3]);
    const { tokens, pixels } = unshared(batch);
    const loss = { ...publishedLosses, layerKind };
    const run = async (checkpointing: boolean) => {
      const options = () => ({ checkpointing, dropout: drops() });
      const shared = await lossAndGradients(student, () => {
        return distillVqa(teacher, student, uploadVqa(student, batch), loss, options()).total;
      });
      const plain = await lossAndGradients(student, () => {
        const features = noGrad(() => student.visionFeatures(fromData(double, pixels, [batch.questions, 3, 16, 16])));
        return distillPlain(teacher, student, tokens, features, loss, options()).total;
      });
      return [shared, plain];
    };
    const kept = await run(false);
    for (const [i, recomputed] of (await run(true)).entries()) {
      assert.is(recomputed.value, kept[i].value);
      sameGradients(recomputed.grads, kept[i].grads, 1e-12);
    }
    disposeModel(student, teacher);
    disposeModel(teacher);
    assert.is(double.memory.live, live);
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
  const backend = await openWasm();
  const teacher = smallTeacher(backend, smallConfig({ num_hidden_layers: 8 }));
  setTrainable(teacher, () => true);
  const batch = await loader(1, 16).batch(0);
  const pretrain = (checkpointing: boolean) => peakOf(teacher, () => vqaLoss(teacher, uploadVqa(teacher, batch), { checkpointing }));
  const [kept, recomputed] = [await pretrain(false), await pretrain(true)];
  assert.ok(recomputed < 0.4 * kept, `${kept} → ${recomputed} bytes`);

  const student = smallStudent(teacher, [0, 2, 4, 6]);
  const task = distillTask(teacher, student, publishedLosses);
  const distil = (checkpointing: boolean) => peakOf(student, () => task.loss(uploadVqa(student, batch), { checkpointing }).total);
  const [all, few] = [await distil(false), await distil(true)];
  assert.ok(few < 0.4 * all, `${all} → ${few} bytes`);
});

model('the schedule is that of the golden values', () => {
  const want = [0, 0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1.90097, 1.62349, 1.22252, 0.77748, 0.37651, 0.09903, 0, 0];
  want.forEach((w, step) => {
    assert.ok(Math.abs(2 * wsd(step, { warmup: 5, stable: 8, decay: 7 }) - w) < 1e-5, `step ${step}`);
  });
});

const SETTINGS: TrainSettings = {
  optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 },
  lr: 1e-3,
  schedule: { warmup: 2, stable: 50, decay: 10 },
  accumulate: 2,
  checkpointing: false,
  maxSkipped: 3,
  seed: 5,
};

async function weightsOf(m: MaTVLM): Promise<Map<string, Float32Array>> {
  const all = new Map<string, Float32Array>();
  for (const [name, tensor] of m.parameters) all.set(name, Float32Array.from(await tensor.data()));
  return all;
}

async function openWasm(): Promise<Backend> {
  return WasmBackend.create({ poison: true });
}

model('a run that is stopped and resumed gives the bits of one that is not', async () => {
  const whole: StepReport[] = [];
  const halves: StepReport[] = [];
  const onStep = (log: StepReport[]) => (r: StepReport) => void log.push({ ...r, milliseconds: 0 });
  const backend = await openWasm();
  const a = smallTeacher(backend);
  const one = new Trainer(pretrainTask(a), loader(), SETTINGS);
  await one.run({ until: 7, onStep: onStep(whole) });

  const b = smallTeacher(backend);
  const first = new Trainer(pretrainTask(b), loader(), SETTINGS);
  const abort = new AbortController();
  await first.run({
    until: 7,
    signal: abort.signal,
    onStep: (r) => {
      onStep(halves)(r);
      abort.abort();
    },
  });
  assert.ok(first.state.step < 7, 'was stopped early');
  const snapshot = JSON.parse(JSON.stringify(first.snapshot()));
  const tensors = new Map<string, Float32Array>();
  for (const [name, t] of first.optimiserTensors()) tensors.set(name, Float32Array.from(await t.data()));
  const weights = await weightsOf(b);

  const c = smallTeacher(backend);
  for (const [name, t] of c.parameters) backend.write(t.buffer, weights.get(name)!);
  const second = new Trainer(pretrainTask(c), loader(), SETTINGS);
  second.restore(snapshot, tensors);
  await second.run({ until: 7, onStep: onStep(halves) });
  assert.equal(halves, whole);
  assert.equal(await weightsOf(c), await weightsOf(a));
});

model('live bytes are the same after 100 steps', async () => {
  const backend = await openWasm();
  const teacher = smallTeacher(backend);
  const student = smallStudent(teacher, [0, 2]);
  const trainer = new Trainer(distillTask(teacher, student, publishedLosses), loader(), { ...SETTINGS, accumulate: 1 });
  await trainer.run({ until: 2 });
  const { live, buffers } = backend.memory;
  await trainer.run({ until: 102 });
  assert.is(backend.memory.live, live);
  assert.is(backend.memory.buffers, buffers);
  trainer.dispose();
  disposeModel(student, teacher);
  disposeModel(teacher);
  assert.is(backend.memory.live, 0);
});

model('a step with a non-finite gradient changes nothing; many in a row stop the run and name the weight', async () => {
  const backend = await openWasm();
  const teacher = smallTeacher(backend);
  const source = loader();
  const poisoned = {
    batch: async (k: number): Promise<VqaBatch> => {
      const batch = await source.batch(k);
      return k === 2 ? { ...batch, pixels: batch.pixels.map(() => NaN) } : batch;
    },
  };
  const reports: StepReport[] = [];
  const trainer = new Trainer(pretrainTask(teacher), poisoned, { ...SETTINGS, accumulate: 1 });
  await trainer.run({ until: 5, onStep: (r) => void reports.push(r) });
  assert.equal(reports.map((r) => r.skipped), [false, false, true, false, false]);
  assert.is(trainer.state.skipped, 1);
  for (const [name, t] of await weightsOf(teacher)) assert.ok(t.every(Number.isFinite), name);

  const bad = 'language_model.lm_head.weight';
  const head = teacher.parameters.get(bad)!;
  backend.write(head.buffer, new Float32Array(head.size).fill(NaN, 0, 1));
  try {
    await trainer.run({ until: 20 });
    assert.unreachable('the run went on');
  } catch (error) {
    assert.match((error as Error).message, /step 8: .*3 steps in a row.*lm_head\.weight/);
  }
});

/** One weight w = (2), whose loss is Σ w² + the first pixel, and batches with those there. */
function squareTask(backend: Backend, pixel: (batch: number) => number) {
  const source = loader();
  const w = fromData(backend, [2], [1]);
  w.requiresGrad = true;
  const loss = ({ pixels }: VqaInputs): LossParts => {
    const first = slice(reshape(pixels, [pixels.size]), 0, 0, 1);
    return { total: sum(add(square(w), first)), kl: null, layer: null, ce: null };
  };
  const batch = async (k: number): Promise<VqaBatch> => {
    const made = await source.batch(k);
    return { ...made, pixels: made.pixels.fill(pixel(k), 0, 1) };
  };
  const task: TrainTask = { model: smallTeacher(backend), parameters: new Map([['w', w]]), loss };
  return { task, w, source: { batch } };
}

model('a step with a non-finite loss is skipped and counted, also where its gradient is finite', async () => {
  for (const backend of [await openWasm(), new ReferenceBackend()]) {
    const { task, w, source } = squareTask(backend, (step) => [0, Infinity, NaN, 0, -Infinity][step] ?? Infinity);
    const trainer = new Trainer(task, source, { ...SETTINGS, accumulate: 1 });
    const seen: [boolean, number][] = [];
    const run = (until: number) => trainer.run({ until, onStep: (r) => void seen.push([r.skipped, r.gradNorm]) });
    await run(1);
    const [before] = await w.data();
    await run(3);
    assert.is((await w.data())[0], before);
    await run(4);
    assert.is.not((await w.data())[0], before);
    assert.equal(seen.map(([skipped]) => skipped), [false, true, true, false]);
    assert.ok(seen.every(([, norm]) => Number.isFinite(norm)), 'the gradients were finite');
    try {
      await run(20);
      assert.unreachable('the run went on');
    } catch (error) {
      assert.match((error as Error).message, /step 7: the loss is Infinity, 3 steps in a row; all weights are finite/);
    }
    assert.is(trainer.state.skipped, 5);
  }
});

model('an infinite loss of one batch of several skips the whole step', async () => {
  const { task, source } = squareTask(await openWasm(), (batch) => (batch === 1 ? Infinity : 0));
  const trainer = new Trainer(task, source, SETTINGS);
  await trainer.run({ until: 3 });
  assert.is(trainer.state.skipped, 1);
});

model('data that fails while the device is busy ends the run with its own error', async () => {
  const unhandled: unknown[] = [];
  const note = (error: unknown) => void unhandled.push(error);
  process.on('unhandledRejection', note);
  const source = loader();
  const broken = {
    batch: async (k: number): Promise<VqaBatch> => {
      if (k === 6) throw new DataError('image 6 is broken');
      return source.batch(k);
    },
  };
  const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 5));
  const trainer = new Trainer(pretrainTask(smallTeacher(await openWasm())), broken, { ...SETTINGS, accumulate: 1 });
  try {
    await trainer.run({ until: 20, onStep: turn });
    assert.unreachable('the run went on');
  } catch (error) {
    assert.instance(error, DataError);
  } finally {
    process.off('unhandledRejection', note);
  }
  assert.equal(unhandled, []);
});

model('the phases of a schedule add up to its steps', () => {
  assert.equal(planSchedule(100, 10, 1), { warmup: 10, stable: 0, decay: 90 });
  assert.equal(planSchedule(100, 10, 0.2), { warmup: 10, stable: 70, decay: 20 });
  assert.equal(planSchedule(0, 0, 0.2), { warmup: 0, stable: 0, decay: 0 });
  assert.is(wsd(100, planSchedule(100, 10, 1)), 0);
  for (const share of [-0.1, 1.1, NaN]) assert.throws(() => planSchedule(100, 10, share), isArgumentError);
});

model('a loss without a weight and a student without a mixer are refused', async () => {
  const teacher = smallTeacher(double);
  const batch = await loader().batch(0);
  const none = { ...publishedLosses, klWeight: 0, layerWeight: 0, ceWeight: 0 };
  const student = smallStudent(teacher, [0]);
  assert.throws(() => distillVqa(teacher, student, uploadVqa(student, batch), none), isArgumentError);
  const same = smallStudent(teacher, []);
  assert.throws(() => distillVqa(teacher, same, uploadVqa(same, batch), publishedLosses), isArgumentError);
  const options = { layers: [], bias: false, from: 'random', identityConv: false } as const;
  try {
    await createStudent(teacher, options, new Random(1));
    assert.unreachable('a student was made');
  } catch (error) {
    assert.instance(error, ConfigError);
  }
});

model('a batch about whose images nothing is asked names them', async () => {
  try {
    await uneven([0, 0]);
    assert.unreachable('a batch was made');
  } catch (error) {
    assert.instance(error, DataError);
    assert.match((error as Error).message, /batch 0 .*sort-of-clevr\/train\/\d, sort-of-clevr\/train\/\d/);
  }
});

model('a question longer than the context is refused by name, in training and in evaluation', async () => {
  const teacher = smallTeacher(double, smallConfig({ max_position_embeddings: 16 }));
  const set = new SortOfClevr('train', { length: 1 });
  const [first] = set.get(0).questions;
  const ask = (words: number) => {
    const questions = [{ ...first, question: 'red '.repeat(words) }];
    const data = { name: 'long', split: 'train' as const, length: 1, get: (i: number) => ({ ...set.get(i), questions }) };
    const options = { imagesPerBatch: 1, seed: 1, imageSize: 16, aspect: 'square' as const, padId: tokenizer.padId };
    return { data, batch: () => new BatchLoader([data], encoder, options).batch(0) };
  };
  const refused = (e: Error) => e instanceof DataError && /"red red .*(17|18|19) positions .* context has 16/.test(e.message);
  // Prefix 2, image 4, "assistant :" 2, the answer and the end of text 2.
  const fits = await ask(6).batch();
  assert.not.throws(() => vqaLoss(teacher, uploadVqa(teacher, fits)));
  const long = await ask(7).batch();
  assert.throws(() => uploadVqa(teacher, long), refused);
  const vlm = new Vlm(teacher, tokenizer);
  assert.is((await evaluate(vlm, ask(8).data, { maxNewTokens: 50 })).total, 1);
  try {
    await evaluate(vlm, ask(9).data);
    assert.unreachable('was evaluated');
  } catch (error) {
    assert.ok(refused(error as Error), (error as Error).message);
  }
});

model('augmented batches are the same for a seed, and hold other images in every epoch', async () => {
  const [one, again] = [loader(1, 3, true), loader(1, 3, true)];
  const bytes = async (from: BatchLoader, k: number) => Buffer.from((await from.batch(k)).pixels.buffer);
  await one.batch(2);
  assert.ok((await bytes(one, 5)).equals(await bytes(again, 5)));
  const image = 3 * 16 * 16 * 4;
  const epoch = async (from: BatchLoader, first: number): Promise<Set<string>> => {
    const seen = new Set<string>();
    for (let k = first; k < first + 4; k++) {
      const all = await bytes(from, k);
      for (let at = 0; at < all.length; at += image) seen.add(all.subarray(at, at + image).toString('base64'));
    }
    return seen;
  };
  assert.is(new Set([...(await epoch(one, 0)), ...(await epoch(one, 4))]).size, 16);
  const plain = loader(1, 3);
  assert.is(new Set([...(await epoch(plain, 0)), ...(await epoch(plain, 4))]).size, 8);
});

model('training lowers the loss', async () => {
  const backend = await openWasm();
  const reports: StepReport[] = [];
  const trainer = new Trainer(pretrainTask(smallTeacher(backend)), loader(1, 20), { ...SETTINGS, accumulate: 1, lr: 3e-3 });
  await trainer.run({ until: 40, onStep: (r) => void reports.push(r) });
  assert.ok(reports.at(-1)!.loss < 0.6 * reports[0].loss, `${reports[0].loss} → ${reports.at(-1)!.loss}`);
});

model.run();
