import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { ArgumentError, OutOfMemoryError } from '../../engine/errors.ts';
import { DataError } from '../../models/nn/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, scalar } from '../../engine/tensor.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { type LossOptions, publishedLosses } from '../../models/matvlm/losses.ts';
import {
  distillTask,
  pretrainTask,
  type StepReport,
  Trainer,
  type TrainSettings,
  type TrainTask,
} from '../../models/matvlm/train/loop.ts';
import { sharesOf, uploadVqa, type VqaBatch } from '../../models/matvlm/vqa-batch.ts';
import { Dropout } from '../../models/nn/dropout.ts';
import { AdamW } from '../../models/nn/optimiser.ts';
import { Random } from '../../models/nn/random.ts';
import { planSchedule, wsd } from '../../models/nn/schedule.ts';
import { add, backward, reshape, slice, square, sum } from '../../ops/index.ts';
import { failingAllocations } from '../support/backends.ts';
import { rejects, throws } from '../support/expect.ts';
import { norm } from '../support/golden-types.ts';
import { takeGradients, valueOf, weightsOf } from '../support/losses.ts';
import { suiteOnBackends } from '../support/suite.ts';
import { batchesOf, drawings, SETTINGS, smallConfig, smallPair, smallTeacher } from '../support/tiny-model.ts';

const double = new ReferenceBackend({ double: true });
const { test, reference, wasm, gpu } = await suiteOnBackends('training');

/** Three images with 1, 4 and 2 questions in batches of `size`. */
const uneven = (size: number) => batchesOf(drawings([1, 4, 2]), { imagesPerBatch: size });
const whole = [await uneven(3).batch(0)];
const parts = [await uneven(1).batch(0), await uneven(1).batch(1), await uneven(1).batch(2)];
const many = (questionsPerImage = 3) => batchesOf(new SortOfClevr('train', { length: 8 }), { questionsPerImage });

/** A task on a small model: pre-training, or distillation with those losses. */
function taskOn(backend: Backend, losses: LossOptions | null, resid_pdrop = 0): { task: TrainTask; dispose(): void } {
  const { teacher, student, dispose } = smallPair(backend, [0, 2], smallConfig({ resid_pdrop }));
  return { task: losses ? distillTask(teacher, student, losses) : pretrainTask(teacher), dispose };
}

interface Source {
  batch(k: number): Promise<VqaBatch>;
}

/** A trainer of a task, and what it tells of its steps but for their time. */
function trainerOf(task: TrainTask, source: Source, settings: Partial<TrainSettings> = {}) {
  const trainer = new Trainer(task, source, { ...SETTINGS, ...settings });
  const reports: StepReport[] = [];
  const onStep = (report: StepReport) => void reports.push({ ...report, milliseconds: 0 });
  return { trainer, reports, run: (until: number) => trainer.run({ until, onStep }) };
}

/** What the trainer tells of one step of those batches. */
async function reportOf(task: TrainTask, batches: readonly VqaBatch[]): Promise<StepReport> {
  const settings = { accumulate: batches.length, lr: 0 };
  const { trainer, reports, run } = trainerOf(task, { batch: async (k) => batches[k] }, settings);
  await run(1);
  trainer.dispose();
  return reports[0];
}

/** The loss of a step of those batches, and its gradients. */
async function gradientsOf(task: TrainTask, batches: readonly VqaBatch[]): Promise<HostArray[]> {
  const shares = sharesOf(batches);
  let loss = 0;
  for (const [i, batch] of batches.entries()) {
    loss += await valueOf(() => task.loss(uploadVqa(task.model, batch, shares[i]), {}).total);
  }
  return [Float64Array.of(loss), ...(await takeGradients(task.parameters)).values()];
}

const mean: LossOptions = { ...publishedLosses, reduction: 'mean', layerWeight: 0, ceWeight: 0.5, temperature: 2 };
const MEANS: Record<string, LossOptions | null> = {
  'pre-training': null,
  'distillation by answer tokens': mean,
  'distillation summed over positions, as published, with the layer-wise KL': { ...publishedLosses, layerKind: 'kl' },
};

for (const [name, losses] of Object.entries(MEANS)) {
  test(`three batches of 1, 4 and 2 questions are one batch of them all: ${name}`, async () => {
    for (const [backend, most] of [[double, 1e-9], [wasm, 2e-5]] as const) {
      const { task, dispose } = taskOn(backend, losses);
      const [want, got] = [await gradientsOf(task, whole), await gradientsOf(task, parts)];
      const length = norm(want.map(norm));
      got.forEach((g, i) => {
        const off = norm(Array.from(g, (v, k) => v - want[i][k]));
        assert.ok(off <= most * length, `${backend.kind}: result ${i} is ${off} off, the norm is ${length}`);
      });
      if (backend === wasm) {
        const [one, all] = [await reportOf(task, parts), await reportOf(task, whole)];
        for (const key of ['loss', 'gradNorm', 'kl', 'layer', 'ce', 'tokens'] as const) {
          const [g, w] = [one[key], all[key]];
          assert.ok(g === w || Math.abs(g! - w!) <= most * w!, `${key} is ${g}, expected ${w}`);
        }
      }
      dispose();
    }
  });
}

test('the published norms of layers, which are no means, are averaged over the batches of a step', async () => {
  const { task, dispose } = taskOn(double, { ...publishedLosses, klWeight: 0 });
  const lossOf = (batch: VqaBatch) => valueOf(() => task.loss(uploadVqa(task.model, batch), {}).total, false);
  const alone = [await lossOf(parts[0]), await lossOf(parts[1]), await lossOf(parts[2])];
  const { loss } = await reportOf(task, parts);
  assert.ok(Math.abs(loss - alone.reduce((a, b) => a + b) / 3) < 1e-9 * loss);
  dispose();
});

test('batches without answers count for nothing in means over answers', () => {
  const batch = (labels: number[], questions: number) => ({ labels: Int32Array.from(labels), questions, length: 4 });
  const silent = batch([7, -100, -100, -100], 1);
  const shares = sharesOf([batch([-100, -100, 1, 2, -100, 3, -100, -100], 2), silent, batch([-100, -100, -100, 4], 1)]);
  assert.equal(shares.map((s) => s.answers), [0.75, 0, 0.25]);
  assert.equal(shares.map((s) => s.questions), [0.5, 0.25, 0.25]);
  assert.equal(sharesOf([silent, silent]).map((s) => s.answers), [0, 0]);
});

for (const [name, losses, checkpointing] of [
  ['pre-training', null, false],
  ['distillation', { ...publishedLosses, ceWeight: 1 }, true],
] as const) {
  test(`a step that runs out of memory, wherever, is as if it had not begun: ${name}`, async () => {
    const fail = failingAllocations(wasm);
    const go = async (failing: number | null) => {
      const { task, dispose } = taskOn(wasm, losses);
      const { trainer, reports, run } = trainerOf(task, uneven(1), { accumulate: 2, checkpointing });
      const { live } = wasm.memory;
      await run(1);
      fail(failing ?? Infinity);
      if (failing === null) await run(2);
      else {
        await rejects(run(2), OutOfMemoryError);
        assert.is(trainer.state.step, 1, `failed at ${failing}`);
        assert.is(wasm.memory.live, live, `live bytes after failing at ${failing}`);
      }
      const allocations = fail();
      await run(3);
      const result = { reports, weights: await weightsOf(task.model), state: { ...trainer.state } };
      trainer.dispose();
      dispose();
      return { ...result, allocations };
    };
    const { allocations, ...want } = await go(null);
    const places = new Set(Array.from({ length: 5 }, (_, i) => 1 + Math.floor((i * allocations) / 5)));
    for (let n = allocations - 2; n <= allocations; n++) places.add(n);
    for (const place of places) {
      const { allocations: _, ...got } = await go(place);
      assert.equal(got, want, `failed at ${place} of ${allocations}`);
    }
  });
}

/** Steps as the trainer takes them, each by itself and nothing replayed. @returns the optimiser's numbers of each */
async function eagerSteps(task: TrainTask, batches: (k: number) => VqaBatch, s: TrainSettings, steps: number) {
  const { backend } = task.model;
  const optimiser = new AdamW(task.parameters, s.optimiser);
  const numbers: HostArray[] = [];
  for (let step = 0; step < steps; step++) {
    const own = Array.from({ length: s.accumulate }, (_, i) => batches(step * s.accumulate + i));
    const shares = own.length > 1 ? sharesOf(own) : [];
    const result = scope(() => {
      const dropout = new Dropout(scalar(backend, Random.stream(s.seed + 2, step).u32(), 'u32'));
      const losses = own.map((batch, i) => {
        const options = { dropout, checkpointing: s.checkpointing };
        const { total } = task.loss(uploadVqa(task.model, batch, shares[i]), options);
        backward(total);
        return total.detach();
      });
      const total = losses.reduce(add);
      return optimiser.step(scalar(backend, s.lr * wsd(step, s.schedule)), total, [total]);
    });
    numbers.push(await result.data());
    result.dispose();
  }
  optimiser.dispose();
  return numbers;
}

/** Batches of the same shapes, whose pixels and labels differ. */
const altered = (of: readonly VqaBatch[]) => (k: number): VqaBatch => {
  const batch = of[k % of.length];
  const answer = batch.labels.findIndex((label) => label !== -100);
  const labels = k % 2 === 0 ? batch.labels : batch.labels.map((label, i) => (i === answer ? -100 : label));
  return { ...batch, labels, pixels: batch.pixels.map((v) => v * Math.cos(k)) };
};

interface Replayed {
  readonly losses: LossOptions | null;
  readonly batches: readonly VqaBatch[];
  readonly accumulate: number;
  readonly checkpointing?: boolean;
  /** Steps of four whose batches have other shapes than those of the step before. */
  readonly shapes: number;
}

const twice = [parts[0], parts[0], parts[1], parts[1]];
const threeBatches = { batches: parts, accumulate: 3, shapes: 1 };
const REPLAYED: Readonly<Record<string, Replayed>> = {
  'pre-training on three batches a step': { ...threeBatches, losses: null, checkpointing: true },
  'distillation by answer tokens on three batches a step': { ...threeBatches, losses: { ...mean, layerWeight: 1 } },
  'distillation as published': { losses: publishedLosses, batches: whole, accumulate: 1, shapes: 1 },
  'distillation on batches of other shapes': { losses: publishedLosses, batches: twice, accumulate: 1, shapes: 2 },
};

for (const backend of [reference, wasm, gpu]) {
  for (const [name, { losses, batches, accumulate, checkpointing = false, shapes }] of Object.entries(REPLAYED)) {
    test(`replayed steps, with dropout, give the bits of eager ones, on ${backend.kind}: ${name}`, async () => {
      const { live } = backend.memory;
      const settings = { ...SETTINGS, schedule: { warmup: 2, stable: 2, decay: 2 }, accumulate, checkpointing };
      const eager = taskOn(backend, losses, 0.2);
      const want = await eagerSteps(eager.task, altered(batches), settings, 4);
      const { task, dispose } = taskOn(backend, losses, 0.2);
      let calls = 0;
      const counted: TrainTask = { ...task, loss: (...args) => (calls++, task.loss(...args)) };
      const { trainer, reports, run } = trainerOf(counted, { batch: async (k) => altered(batches)(k) }, settings);
      await run(4);
      assert.is(calls, shapes * accumulate, 'the loss is formed for the first step of a shape alone');
      assert.equal(reports.map((r) => [r.gradNorm, r.loss]), want.map((own) => [own[0], own[3]]));
      assert.equal(await weightsOf(task.model), await weightsOf(eager.task.model));
      trainer.dispose();
      for (const done of [dispose, eager.dispose]) done();
      assert.is(backend.memory.live, live);
    });
  }
}

if (gpu instanceof WebGpuBackend) {
  test('a replayed step is one write, and one submit for 1,024 dispatches at the least', async () => {
    const { task, dispose } = taskOn(gpu, publishedLosses);
    const { trainer, run } = trainerOf(task, { batch: async (k) => altered(parts)(k) }, { accumulate: 3 });
    await run(1);
    const count = { submit: 0, writeBuffer: 0, dispatchWorkgroups: 0 };
    const undo: (() => void)[] = [];
    const counting = (target: object, name: keyof typeof count) => {
      const own = target as Record<string, (...args: unknown[]) => unknown>;
      const method = own[name];
      own[name] = (...args) => (count[name]++, method.apply(target, args));
      undo.push(() => (own[name] = method));
    };
    const { device } = gpu;
    counting(device.queue, 'submit');
    counting(device.queue, 'writeBuffer');
    const { createCommandEncoder } = device;
    device.createCommandEncoder = () => {
      const encoder = createCommandEncoder.call(device);
      const { beginComputePass } = encoder;
      encoder.beginComputePass = (descriptor) => {
        const pass = beginComputePass.call(encoder, descriptor);
        counting(pass, 'dispatchWorkgroups');
        return pass;
      };
      return encoder;
    };
    await run(2);
    undo.forEach((restore) => restore());
    device.createCommandEncoder = createCommandEncoder;
    const { dispatchWorkgroups } = count;
    assert.ok(dispatchWorkgroups > 1024, `${dispatchWorkgroups} dispatches`);
    assert.equal(count, { submit: Math.ceil(dispatchWorkgroups / 1024), writeBuffer: 1, dispatchWorkgroups });
    trainer.dispose();
    dispose();
  });
}

test('steps under way when a later one fails are told', async () => {
  const { task, dispose } = taskOn(wasm, null);
  let calls = 0;
  const failing: TrainTask['loss'] = (...args) => {
    if (++calls === 3) throw new OutOfMemoryError('no room left');
    return task.loss(...args);
  };
  const { trainer, reports, run } = trainerOf({ ...task, loss: failing }, uneven(1));
  await rejects(run(5), OutOfMemoryError);
  const steps = () => reports.map(({ step }) => step);
  assert.equal(steps(), [1, 2]);
  await run(4);
  assert.equal(steps(), [1, 2, 3, 4]);
  trainer.dispose();
  dispose();
});

test('data that fails while the device is busy ends the run with its own error', async () => {
  const unhandled: unknown[] = [];
  const note = (error: unknown) => void unhandled.push(error);
  process.on('unhandledRejection', note);
  const source = many();
  const batch = async (k: number) => {
    if (k === 6) throw new DataError('image 6 is broken');
    return source.batch(k);
  };
  const { trainer } = trainerOf(pretrainTask(smallTeacher(wasm)), { batch });
  const onStep = () => new Promise<void>((resolve) => setTimeout(resolve, 5));
  await rejects(trainer.run({ until: 20, onStep }), DataError, 'image 6');
  process.off('unhandledRejection', note);
  assert.equal(unhandled, []);
});

test('the schedule is that of the golden values, and its phases add up to its steps', () => {
  const decay = [1.90097, 1.62349, 1.22252, 0.77748, 0.37651, 0.09903, 0, 0];
  const want = [0, 0.4, 0.8, 1.2, 1.6, ...new Array<number>(9).fill(2), ...decay];
  want.forEach((w, step) => {
    assert.ok(Math.abs(2 * wsd(step, { warmup: 5, stable: 8, decay: 7 }) - w) < 1e-5, `step ${step}`);
  });
  assert.equal(planSchedule(100, 10, 1), { warmup: 10, stable: 0, decay: 90 });
  assert.equal(planSchedule(100, 10, 0.2), { warmup: 10, stable: 70, decay: 20 });
  assert.equal(planSchedule(0, 0, 0.2), { warmup: 0, stable: 0, decay: 0 });
  assert.is(wsd(100, planSchedule(100, 10, 1)), 0);
  for (const share of [-0.1, 1.1, NaN]) throws(() => planSchedule(100, 10, share), ArgumentError);
});

test('live bytes are the same after 100 steps', async () => {
  const { live } = wasm.memory;
  const { task, dispose } = taskOn(wasm, publishedLosses);
  const { trainer, run } = trainerOf(task, many());
  await run(2);
  const before = { ...wasm.memory };
  await run(102);
  assert.equal([wasm.memory.live, wasm.memory.buffers], [before.live, before.buffers]);
  trainer.dispose();
  dispose();
  assert.is(wasm.memory.live, live);
});

test('training lowers the loss', async () => {
  const { reports, run } = trainerOf(pretrainTask(smallTeacher(wasm)), many(20), { lr: 3e-3 });
  await run(40);
  assert.ok(reports.at(-1)!.loss < 0.6 * reports[0].loss, `${reports[0].loss} → ${reports.at(-1)!.loss}`);
});

test('a step with a non-finite gradient changes nothing; many in a row stop the run and name the weight', async () => {
  const teacher = smallTeacher(wasm);
  const source = many();
  const batch = async (k: number): Promise<VqaBatch> => {
    const made = await source.batch(k);
    return k === 2 ? { ...made, pixels: made.pixels.map(() => NaN) } : made;
  };
  const { trainer, reports, run } = trainerOf(pretrainTask(teacher), { batch });
  await run(5);
  assert.equal(reports.map((r) => r.skipped), [false, false, true, false, false]);
  assert.is(trainer.state.skipped, 1);
  for (const [name, values] of await weightsOf(teacher)) assert.ok(values.every(Number.isFinite), name);
  const head = teacher.parameters.get('language_model.lm_head.weight')!;
  wasm.write([head.buffer], [new Float32Array(head.size).fill(NaN, 0, 1)]);
  await rejects(run(20), Error, /step 8: .*3 steps in a row.*lm_head\.weight/);
});

/** One weight w = (2), whose loss is Σ w² + the first pixel, and batches with those there. */
function squareTask(backend: Backend, pixel: (batch: number) => number) {
  const w = fromData(backend, [2], [1]);
  w.requiresGrad = true;
  const loss: TrainTask['loss'] = ({ pixels }) => {
    const first = slice(reshape(pixels, [pixels.size]), 0, 0, 1);
    return { total: sum(add(square(w), first)), kl: null, layer: null, ce: null };
  };
  const [one] = whole;
  const batch = async (k: number) => ({ ...one, pixels: one.pixels.slice().fill(pixel(k), 0, 1) });
  const task: TrainTask = { model: smallTeacher(backend), parameters: new Map([['w', w]]), loss };
  return { task, w, source: { batch } };
}

test('a step with a non-finite loss is skipped and counted, also where its gradient is finite', async () => {
  for (const backend of [wasm, reference]) {
    const { task, w, source } = squareTask(backend, (step) => [0, Infinity, NaN, 0, -Infinity][step] ?? Infinity);
    const { trainer, reports, run } = trainerOf(task, source);
    await run(1);
    const [before] = await w.data();
    await run(3);
    assert.is((await w.data())[0], before);
    await run(4);
    assert.is.not((await w.data())[0], before);
    assert.equal(reports.map(({ skipped }) => skipped), [false, true, true, false]);
    assert.ok(reports.every(({ gradNorm }) => Number.isFinite(gradNorm)), 'the gradients were finite');
    await rejects(run(20), Error, /step 7: the loss is Infinity, 3 steps in a row; all weights are finite/);
    assert.is(trainer.state.skipped, 5);
  }
  const ofTwo = squareTask(wasm, (batch) => (batch === 1 ? Infinity : 0));
  const { trainer, run } = trainerOf(ofTwo.task, ofTwo.source, { accumulate: 2 });
  await run(3);
  assert.is(trainer.state.skipped, 1, 'an infinite loss of one batch of several skips the whole step');
});

test.run();
