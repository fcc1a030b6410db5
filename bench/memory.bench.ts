/**
 * Memory: live bytes over 1,000 distillation steps on WASM, and what `matvlm info` takes to open a checkpoint of 6 GB.
 * `node build.mjs && node dist/bench/memory.bench.js`; ends with 1 when something grows.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { publishedLosses } from '../models/matvlm/losses.ts';
import { closeBackend, openBackend } from '../models/matvlm/app/node/backend.ts';
import { packageRoot } from '../models/matvlm/app/node/package-root.ts';
import { BatchLoader } from '../models/matvlm/train/loader.ts';
import { distillTask, Trainer } from '../models/matvlm/train/loop.ts';
import { disposeModel } from '../models/matvlm/weights.ts';
import { encoder, smallStudent, smallTeacher, tokenizer } from '../test/support/tiny-model.ts';
import { measureChild } from './child.ts';
import { describeMachine, readMachine } from './machine.ts';
import { align } from './results.ts';
import { writeSparseCheckpoint } from './sparse-checkpoint.ts';

const STEPS = 1000;
const EVERY = 200;
/** Steps after which every shape has occurred. */
const SETTLED = 100;

const kilobytes = (n: number) => `${(n / 1e3).toFixed(1)} kB`;

/** Steps of a small model, with what is live on the backend and on the JavaScript heap. @returns whether it is flat */
async function training(): Promise<boolean> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const backend = await openBackend('wasm');
  const teacher = smallTeacher(backend);
  const student = smallStudent(teacher, [0, 2]);
  const data = new SortOfClevr('train', { length: 16 });
  const options = { imagesPerBatch: 2, questionsPerImage: 3, seed: 1, imageSize: 16, aspect: 'square' as const };
  const loader = new BatchLoader([data], encoder, { ...options, padId: tokenizer.padId });
  const trainer = new Trainer(distillTask(teacher, student, publishedLosses), loader, {
    optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 },
    lr: 1e-4,
    schedule: { warmup: 10, stable: STEPS, decay: 10 },
    ...{ accumulate: 1, checkpointing: false, maxSkipped: 3, seed: 1 },
  });
  const rows = [['step', 'live', 'buffers', 'WASM memory', 'JS heap']];
  const live = new Set<number>();
  for (let step = SETTLED; step <= STEPS; step = step === SETTLED ? EVERY : step + EVERY) {
    await trainer.run({ until: step });
    collect();
    const { memory } = backend;
    live.add(memory.live);
    const cells = [memory.live, memory.reserved, process.memoryUsage().heapUsed].map(kilobytes);
    rows.push([String(step), cells[0], String(memory.buffers), cells[1], cells[2]]);
  }
  trainer.dispose();
  disposeModel(student, teacher);
  disposeModel(teacher);
  const left = backend.memory.live;
  closeBackend(backend);
  console.log(`distillation of a small model on WASM\n${align(rows, 0)}\n${left} bytes live after all was disposed\n`);
  return live.size === 1 && left === 0;
}

/** Opens 6 GB with the built command line. */
async function opening(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'matvlm-6gb-'));
  try {
    const { bytes, tensors, shards } = await writeSparseCheckpoint(folder);
    console.log(`info on ${(bytes / 1e9).toFixed(2)} GB: ${tensors} tensors in ${shards} shards (sparse files)`);
    const cli = join(packageRoot(), 'dist', 'cli.js');
    for (let i = 0; i < 3; i++) {
      const { milliseconds, peak } = await measureChild([cli, 'info', folder, '--json']);
      console.log(`  ${(milliseconds / 1000).toFixed(2)} s, ${(peak / 1e6).toFixed(0)} MB resident at most`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

for (const line of describeMachine(readMachine())) console.log(line);
console.log();
const flat = await training();
await opening();
if (!flat) {
  console.error('live bytes grew');
  process.exitCode = 1;
}
