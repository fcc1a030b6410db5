import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import type { HostArray } from '../engine/dtype.ts';
import { OutOfMemoryError } from '../engine/errors.ts';
import { scope } from '../engine/scope.ts';
import { scalar } from '../engine/tensor.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { type LossOptions, publishedLosses } from '../models/matvlm/losses.ts';
import type { MaTVLM } from '../models/matvlm/model.ts';
import { BatchLoader } from '../models/matvlm/train/loader.ts';
import {
  distillTask,
  pretrainTask,
  type StepReport,
  Trainer,
  type TrainSettings,
  type TrainTask,
} from '../models/matvlm/train/loop.ts';
import { sharesOf, uploadVqa, type VqaBatch } from '../models/matvlm/vqa-batch.ts';
import { disposeModel } from '../models/matvlm/weights.ts';
import { Dropout } from '../models/nn/dropout.ts';
import { AdamW } from '../models/nn/optimiser.ts';
import { Random } from '../models/nn/random.ts';
import { wsd } from '../models/nn/schedule.ts';
import { add, backward } from '../ops/index.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';
import { encoder, smallConfig, smallStudent, smallTeacher, tokenizer } from './support/tiny-model.ts';

const double = new ReferenceBackend({ double: true });
const wasm = await openBackend('wasm');
const gpu = await openGpu();
const test = suite('a training step');
test.after(() => closeBackend(gpu));

const SETTINGS: TrainSettings = {
  optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 },
  lr: 1e-3,
  schedule: { warmup: 0, stable: 50, decay: 0 },
  accumulate: 2,
  checkpointing: false,
  maxSkipped: 3,
  seed: 5,
};

/** Three images with 1, 4 and 2 questions in batches of `size`. */
function loader(size: number): BatchLoader {
  const set = new SortOfClevr('train', { length: 3 });
  const get = (i: number) => ({ ...set.get(i), questions: set.get(i).questions.slice(0, [1, 4, 2][i]) });
  const data = { name: 'uneven', split: 'train' as const, length: 3, get };
  const options = { imagesPerBatch: size, seed: 1, imageSize: 16, aspect: 'square' as const, padId: tokenizer.padId };
  return new BatchLoader([data], encoder, options);
}

const whole = [await loader(3).batch(0)];
const parts = [await loader(1).batch(0), await loader(1).batch(1), await loader(1).batch(2)];

/** A task on a small model: pre-training, or distillation with those losses. */
function taskOn(backend: Backend, losses: LossOptions | null, resid_pdrop = 0): { task: TrainTask; dispose: () => void } {
  const teacher = smallTeacher(backend, smallConfig({ resid_pdrop }));
  if (!losses) return { task: pretrainTask(teacher), dispose: () => disposeModel(teacher) };
  const student = smallStudent(teacher, [0, 2]);
  const dispose = () => {
    disposeModel(student, teacher);
    disposeModel(teacher);
  };
  return { task: distillTask(teacher, student, losses), dispose };
}

/** The loss of a step of those batches, and its gradients. */
async function gradientsOf(task: TrainTask, batches: readonly VqaBatch[]): Promise<HostArray[]> {
  const shares = sharesOf(batches);
  let loss = 0;
  for (const [i, batch] of batches.entries()) {
    const made = scope(() => {
      const { total } = task.loss(uploadVqa(task.model, batch, shares[i]), {});
      backward(total);
      return total;
    });
    loss += await made.item();
    made.dispose();
  }
  const all: HostArray[] = [Float64Array.of(loss)];
  for (const param of task.parameters.values()) {
    if (param.grad) all.push(await param.grad.data());
    param.grad?.dispose();
    param.grad = null;
  }
  return all;
}

/** What the trainer tells of one step of those batches. */
async function reportOf(task: TrainTask, batches: readonly VqaBatch[]): Promise<StepReport> {
  const reports: StepReport[] = [];
  const source = { batch: async (k: number) => batches[k % batches.length] };
  const trainer = new Trainer(task, source, { ...SETTINGS, accumulate: batches.length, lr: 0 });
  await trainer.run({ until: 1, onStep: (r) => void reports.push(r) });
  trainer.dispose();
  return reports[0];
}

function sameReports(got: StepReport, want: StepReport, most: number): void {
  for (const key of ['loss', 'gradNorm', 'kl', 'layer', 'ce'] as const) {
    const [g, w] = [got[key], want[key]];
    if (w === undefined) assert.is(g, w, key);
    else assert.ok(Math.abs(g! - w) <= most * w, `${key} is ${g}, expected ${w}`);
  }
  assert.is(got.tokens, want.tokens);
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
      const { live } = backend.memory;
      const { task, dispose } = taskOn(backend, losses);
      const want = await gradientsOf(task, whole);
      const got = await gradientsOf(task, parts);
      const norm = Math.hypot(...want.map((g) => Math.hypot(...g)));
      got.forEach((g, i) => {
        const off = Math.hypot(...Array.from(g, (v, k) => v - want[i][k]));
        assert.ok(off <= most * norm, `${backend.kind}: result ${i} is ${off} off, the norm is ${norm}`);
      });
      if (backend === wasm) sameReports(await reportOf(task, parts), await reportOf(task, whole), most);
      dispose();
      assert.is(backend.memory.live, live, backend.kind);
    }
  });
}

test('the published norms of layers, which are no means, are averaged over the batches of a step', async () => {
  const { task, dispose } = taskOn(double, { ...publishedLosses, klWeight: 0 });
  const alone = await Promise.all(parts.map((batch) => scope(() => task.loss(uploadVqa(task.model, batch), {}).total).item()));
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

async function weightsOf(model: MaTVLM): Promise<HostArray[]> {
  return Promise.all([...model.parameters.values()].map((t) => t.data()));
}

/** Lets the backend run out of memory at the n-th allocation from now on, once; gives the allocations so far. */
function failAt(backend: Backend, n: number): { made: () => number; heal: () => void } {
  const { alloc } = backend;
  let count = 0;
  backend.alloc = (size, dtype) => {
    if (++count === n) throw new OutOfMemoryError('no room left');
    return alloc.call(backend, size, dtype);
  };
  return { made: () => count, heal: () => (backend.alloc = alloc) };
}

for (const [name, losses, checkpointing] of [
  ['pre-training', null, false],
  ['distillation', { ...publishedLosses, ceWeight: 1 }, true],
] as const) {
  test(`a step that runs out of memory, wherever, is as if it had not begun: ${name}`, async () => {
    const settings = { ...SETTINGS, checkpointing };
    const run = async (failing: number | null) => {
      const { task, dispose } = taskOn(wasm, losses);
      const trainer = new Trainer(task, loader(1), settings);
      const { live } = wasm.memory;
      const reports: StepReport[] = [];
      const onStep = (r: StepReport) => void reports.push({ ...r, milliseconds: 0 });
      await trainer.run({ until: 1, onStep });
      const failure = failAt(wasm, failing ?? Infinity);
      const error = await trainer.run({ until: 2, onStep }).catch((e: unknown) => e);
      failure.heal();
      if (failing !== null) {
        assert.instance(error, OutOfMemoryError);
        assert.is(trainer.state.step, 1, `failed at ${failing}`);
        assert.is(wasm.memory.live, live, `live bytes after failing at ${failing}`);
      }
      await trainer.run({ until: 3, onStep });
      const result = { reports, weights: await weightsOf(task.model), state: { ...trainer.state } };
      trainer.dispose();
      dispose();
      return { ...result, allocations: failure.made() };
    };
    const { allocations, ...want } = await run(null);
    const places = new Set(Array.from({ length: 5 }, (_, i) => 1 + Math.floor((i * allocations) / 5)));
    for (let n = allocations - 2; n <= allocations; n++) places.add(n);
    for (const place of places) {
      const { allocations: _, ...got } = await run(place);
      assert.equal(got, want, `failed at ${place} of ${allocations}`);
    }
  });
}

/** Steps as the trainer takes them, but each by itself and nothing replayed. @returns the optimiser's numbers of each */
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

const REPLAYED: Readonly<Record<string, Replayed>> = {
  'pre-training on three batches a step': { losses: null, batches: parts, accumulate: 3, checkpointing: true, shapes: 1 },
  'distillation by answer tokens on three batches a step': {
    losses: { ...mean, layerWeight: 1 },
    batches: parts,
    accumulate: 3,
    shapes: 1,
  },
  'distillation as published': { losses: publishedLosses, batches: whole, accumulate: 1, shapes: 1 },
  'distillation on batches of other shapes by and by': {
    losses: publishedLosses,
    batches: twice,
    accumulate: 1,
    shapes: 2,
  },
};

for (const backend of [new ReferenceBackend(), wasm, gpu]) {
  for (const [name, { losses, batches, accumulate, checkpointing = false, shapes }] of Object.entries(REPLAYED)) {
    test(`replayed steps, with dropout, give the bits of eager ones, on ${backend.kind}: ${name}`, async () => {
      const { live } = backend.memory;
      const schedule = { warmup: 2, stable: 2, decay: 2 };
      const settings = { ...SETTINGS, schedule, accumulate, checkpointing };
      const eager = taskOn(backend, losses, 0.2);
      const want = await eagerSteps(eager.task, altered(batches), settings, 4);
      const { task, dispose } = taskOn(backend, losses, 0.2);
      let calls = 0;
      const counted: TrainTask = { ...task, loss: (...args) => (calls++, task.loss(...args)) };
      const trainer = new Trainer(counted, { batch: async (k) => altered(batches)(k) }, settings);
      const reports: StepReport[] = [];
      await trainer.run({ until: 4, onStep: (r) => void reports.push(r) });
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
    const trainer = new Trainer(task, { batch: async (k) => altered(parts)(k) }, { ...SETTINGS, accumulate: 3 });
    await trainer.run({ until: 1 });
    const { device, device: { queue } } = gpu;
    const count = { submits: 0, writes: 0, dispatches: 0 };
    const { submit, writeBuffer } = queue;
    queue.submit = (...args) => (count.submits++, submit.apply(queue, args));
    queue.writeBuffer = (...args: Parameters<typeof writeBuffer>) => (count.writes++, writeBuffer.apply(queue, args));
    const { createCommandEncoder } = device;
    device.createCommandEncoder = () => {
      const encoder = createCommandEncoder.call(device);
      const { beginComputePass } = encoder;
      encoder.beginComputePass = (descriptor) => {
        const pass = beginComputePass.call(encoder, descriptor);
        const { dispatchWorkgroups } = pass;
        pass.dispatchWorkgroups = (...grid) => (count.dispatches++, dispatchWorkgroups.apply(pass, grid));
        return pass;
      };
      return encoder;
    };
    await trainer.run({ until: 2 });
    Object.assign(queue, { submit, writeBuffer });
    Object.assign(device, { createCommandEncoder });
    const { dispatches } = count;
    assert.ok(dispatches > 1024, `${dispatches} dispatches`);
    assert.equal(count, { submits: Math.ceil(dispatches / 1024), writes: 1, dispatches });
    trainer.dispose();
    dispose();
  });
}

test('steps under way when a later one fails are told', async () => {
  const { task, dispose } = taskOn(wasm, null);
  const trainer = new Trainer(task, loader(1), { ...SETTINGS, accumulate: 1 });
  const steps: number[] = [];
  const onStep = (r: StepReport) => void steps.push(r.step);
  const { loss } = task;
  let calls = 0;
  const failing: TrainTask = Object.assign(task, {
    loss: (...args: Parameters<TrainTask['loss']>) => {
      if (++calls === 3) throw new OutOfMemoryError('no room left');
      return loss(...args);
    },
  });
  assert.is(failing, task);
  const error = await trainer.run({ until: 5, onStep }).catch((e: unknown) => e);
  assert.instance(error, OutOfMemoryError);
  assert.equal(steps, [1, 2]);
  await trainer.run({ until: 4, onStep });
  assert.equal(steps, [1, 2, 3, 4]);
  trainer.dispose();
  dispose();
});

test.run();
