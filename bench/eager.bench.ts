/**
 * CPU time of one eager op on Dawn's null backend, which runs nothing: what JavaScript and Dawn take to enqueue a
 * dispatch when pipelines and bind groups are cached. `node dist/bench/eager.bench.js`
 */
import type { Recording } from '../engine/backend.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { dawnGpu, releaseDawn } from '../engine/node/dawn.ts';
import { scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { add, layerNorm, linear, mulScalar, silu } from '../ops/index.ts';
import { describeMachine, readMachine } from './machine.ts';
import { type ModelCase, modelCases } from './model-cases.ts';

/** Dependent ops in one scope, as in a forward pass. */
const CHAIN = 500;
const WARM_MS = 600;
const ROUNDS = 200;
const STEPS = 20;

type Link = (x: Tensor) => Tensor;

/** Microseconds an op: the best and the median of all rounds. */
async function time(backend: WebGpuBackend, x: Tensor, link: Link): Promise<{ best: number; median: number }> {
  const chain = () =>
    scope(() => {
      let y = x;
      for (let i = 0; i < CHAIN; i++) y = link(y);
    });
  for (const start = performance.now(); performance.now() - start < WARM_MS; await backend.sync()) chain();
  const times: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const start = performance.now();
    chain();
    backend.flush();
    times.push((1000 * (performance.now() - start)) / CHAIN);
    await backend.sync();
  }
  times.sort((a, b) => a - b);
  return { best: times[0], median: times[ROUNDS / 2] };
}

/** The latest recording's replay, submit included: what JavaScript and Dawn take for it. */
function timeReplay(name: string, { replay }: Recording): void {
  const times: number[] = [];
  for (let i = 0; i < 4 * ROUNDS; i++) {
    const start = performance.now();
    replay();
    backend.flush();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  console.log(`${`${name}, replayed`.padEnd(64)}${times[2 * ROUNDS].toFixed(3).padStart(9)} ms, best ${times[0].toFixed(3)}`);
}

/** A whole step as the product runs it, reading its results included. */
async function timeStep({ name, open }: ModelCase): Promise<void> {
  const { run, close } = await open(backend);
  let recording: Recording | null = null;
  const record = backend.record;
  backend.record = () => {
    const end = record.call(backend);
    return () => (recording = end());
  };
  await run(5);
  backend.record = record;
  if (recording) timeReplay(name, recording);
  let ops = 0;
  const counted = backend.dispatch;
  backend.dispatch = (plan, buffers) => (ops++, counted.call(backend, plan, buffers));
  await run(1);
  backend.dispatch = counted;
  const times: number[] = [];
  for (let i = 0; i < STEPS; i++) {
    const start = performance.now();
    await run(1);
    times.push(performance.now() - start);
  }
  await close();
  if (ops === 0) return;
  times.sort((a, b) => a - b);
  const [best, median] = [times[0], times[STEPS / 2]];
  const each = (ms: number) => ((1000 * ms) / ops).toFixed(2).padStart(8);
  console.log(`${name.padEnd(54)}${String(ops).padStart(6)} ops ${median.toFixed(2).padStart(8)} ms${each(best)}${each(median)}`);
}

const backend = await WebGpuBackend.create(await dawnGpu({ backend: 'null' }));
const ones = (...shape: number[]) => fromData(backend, new Float32Array(shape.reduce((a, b) => a * b)).fill(1), shape);
const x = ones(4, 64);
const [weight, matrix] = [ones(64), ones(64, 64)];
const links: Record<string, Link> = {
  'silu, 1 input': silu,
  'add, 2 inputs': (y) => add(y, x),
  'add, a row broadcast': (y) => add(y, weight),
  'mulScalar': (y) => mulScalar(y, 0.5),
  'layer_norm, 3 inputs': (y) => layerNorm(y, weight, weight),
  'linear, 3 inputs': (y) => linear(y, matrix, weight),
};

for (const line of describeMachine(readMachine())) console.log(line);
console.log(`µs an op, chains of ${CHAIN} dependent ops in one scope, ${ROUNDS} rounds after ${WARM_MS} ms of warm-up\n`);
console.log(`${'op'.padEnd(24)}${'best'.padStart(8)}${'median'.padStart(9)}`);
const row = (name: string, { best, median }: { best: number; median: number }) =>
  console.log(`${name.padEnd(24)}${best.toFixed(2).padStart(8)}${median.toFixed(2).padStart(9)}`);
for (const [name, link] of Object.entries(links)) row(name, await noGrad(() => time(backend, x, link)));
x.requiresGrad = true;
row('add, recorded', await time(backend, x, links['add, 2 inputs']));
for (const step of modelCases(4, 20, Infinity)) await timeStep(step);
backend.dispose();
releaseDawn();
