// Ctrl-C before there is anything to save, within long work on the CPU, and where one run has another beside it.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { evaluate } from '../models/matvlm/train/evaluate.ts';
import { Vlm } from '../models/matvlm/vlm.ts';
import { cli, type CliOptions, interruptAt, MICRO_FLAGS, workFolder } from './support/cli.ts';
import { smallTeacher, tokenizer } from './support/tiny-model.ts';

const cwd = workFolder();
const path = (...parts: string[]) => join(cwd, ...parts);
const run = (args: string, options: Partial<CliOptions> = {}) => cli(args.split(' '), { cwd, ...options });
const micro = MICRO_FLAGS.join(' ');
const stop = suite('stopping');

/** A recipe that only Ctrl-C or an error ends. */
function endlessRecipe(): void {
  const lines = ['layers: [1]', 'steps: 1000000', 'images: 8', 'batch: 2', 'accumulate: 1', 'warmup: 1', 'lr: 0.001'];
  writeFileSync(path('endless.yaml'), `${lines.join('\n')}\nsave-every: 20\neval-every: 0\n`);
}

const START = 'start --teacher runs/train --recipe endless.yaml --test-images 1 --no-serve --backend wasm';
const hasCheckpoint = (folder: string) => readdirSync(folder).some((name) => /^checkpoint-\d+$/.test(name));
const beside = (run: string, ...parts: string[]) => path('runs', run, 'random-init', ...parts);

stop('before the first step there is nothing to save, and nothing is left', async () => {
  const ended = await run(`train --model micro.json ${micro} --steps 40 --warmup 1`, { preload: interruptAt(/^run /m) });
  assert.is(ended.code, 0, ended.stderr);
  assert.match(ended.stderr, 'stopped before the first step; nothing to save');
  assert.not.match(ended.stderr, /saved in|--resume/);
  assert.equal(readdirSync(path('runs')), []);
});

for (const signal of ['SIGTERM', 'SIGHUP'] as const) {
  stop(`${signal} saves as Ctrl-C does, however often it comes`, async () => {
    const name = signal.toLowerCase();
    let sent = 0;
    const ended = await run(`train --model micro.json ${micro} --steps 1000000 --warmup 1 --save-every 1000000 --name ${name}`, {
      watch: (child) =>
        child.stderr!.on('data', (text) => {
          if (/^train \d|^Stopping/m.test(String(text)) && sent++ < 2) child.kill(signal);
        }),
    });
    assert.is(ended.code, 0, ended.stderr);
    assert.ok(sent >= 2, 'it came twice');
    const [, saved] = /stopped at step \d+ of 1000000, saved in (\S*checkpoint-\d+)\n/.exec(ended.stderr) ?? [];
    assert.ok(saved && existsSync(path(saved, '_SUCCESS')), ended.stderr);
    assert.not.ok(existsSync(path('runs', name, 'run.lock')));
  });
}

stop('in the first evaluation of start too', async () => {
  assert.is((await run(`train --model micro.json ${micro} --steps 2 --warmup 1`)).code, 0);
  endlessRecipe();
  const ended = await run(START, { preload: interruptAt(/^run /m) });
  assert.is(ended.code, 0, ended.stderr);
  assert.not.match(ended.stderr, /saved in|--resume|error/);
  assert.not.ok(existsSync(path('runs', 'start')));
});

stop('within an evaluation, the steps before it are saved', async () => {
  const flags = '--steps 40 --warmup 1 --save-every 40 --eval-every 2 --name within';
  const ended = await run(`train --model micro.json ${micro} ${flags}`, { preload: interruptAt(/^train \d[^]*^eval \d/m) });
  assert.is(ended.code, 0, ended.stderr);
  assert.match(ended.stderr, /stopped at step 2 of 40, saved in \S*checkpoint-2\n/);
  assert.ok(existsSync(path('runs', 'within', 'checkpoint-2', '_SUCCESS')));
  const report = readFileSync(path('runs', 'within', 'report.html'), 'utf8');
  assert.match(report, 'Stopped at step 2 of 40: this is how far it came. Answers and accuracy are those at step 0');
  for (const part of ['Throughput', 'Gradient norm', 'data:image/png']) assert.match(report, part);
});

stop('eval hears Ctrl-C within its work', async () => {
  let sent = false;
  const ended = await run('eval runs/train --backend wasm --batch 1', {
    watch: (child) =>
      child.stderr!.on('data', (text) => {
        if (!sent && /^eval \d/m.test(String(text))) sent = child.kill('SIGINT');
      }),
  });
  assert.is(ended.code, 0, ended.stderr);
  assert.match(ended.stderr, 'Stopping without a result');
  assert.is(ended.stdout, '');
});

stop('an evaluation sees its signal abort from outside and frees what it made', async () => {
  const backend = await WasmBackend.create();
  const vlm = new Vlm(smallTeacher(backend), tokenizer);
  const before = backend.memory.buffers;
  const controller = new AbortController();
  const reason = new Error('enough');
  setTimeout(() => controller.abort(reason), 30);
  const thrown = await evaluate(vlm, new SortOfClevr('test'), { signal: controller.signal }).catch((e: unknown) => e);
  assert.is(thrown, reason);
  assert.is(backend.memory.buffers, before);
});

stop('start, stopped by a terminal, takes the comparison along', async () => {
  const ended = await run(START, {
    group: true,
    watch: (child) => {
      const timer = setInterval(() => {
        if (!existsSync(beside('start')) || !hasCheckpoint(beside('start'))) return;
        clearInterval(timer);
        process.kill(-child.pid!, 'SIGINT');
      }, 5);
      child.on('exit', () => clearInterval(timer));
    },
  });
  assert.is(ended.code, 0, ended.stderr);
  assert.match(ended.stderr, /stopped at step \d+ of 1000000, saved in/);
  assert.not.match(ended.stderr, /comparison/);
  assert.not.ok(existsSync(beside('start', 'run.lock')));
  const report = readFileSync(path('runs', 'start', 'report.html'), 'utf8');
  for (const part of ['Stopped at step', 'from random', 'trained here']) assert.match(report, part);
  assert.ok(hasCheckpoint(beside('start')));
});

stop('what was stopped goes on with the comparison, to the same step', async () => {
  const stepOf = (folder: string) => {
    const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n');
    return (JSON.parse(lines.at(-1)!) as { step: number }).step;
  };
  const steps = Math.max(stepOf(path('runs', 'start')), stepOf(beside('start'))) + 2;
  const ended = await run(`distill --resume runs/start --steps ${steps} --no-final-eval --lr 0.002 --override`);
  assert.is(ended.code, 0, ended.stderr);
  assert.not.match(ended.stderr, /warning/);
  for (const folder of [path('runs', 'start'), beside('start')]) {
    assert.is(stepOf(folder), steps);
    assert.match(readFileSync(join(folder, 'config.yaml'), 'utf8'), '\nlr: 0.002\n');
  }
  const report = readFileSync(path('runs', 'start', 'report.html'), 'utf8');
  for (const part of ['from attention', 'from random']) assert.match(report, part);
});

stop('start, killed, ends the comparison too, which saves', async () => {
  const folder = path('killed', 'start', 'random-init');
  const steps = () => statSync(join(folder, 'metrics.jsonl'), { throwIfNoEntry: false })?.size ?? 0;
  await run(`${START} --runs killed`, {
    watch: (child) => {
      const timer = setInterval(() => steps() > 0 && child.kill('SIGKILL'), 5);
      child.on('exit', () => clearInterval(timer));
    },
  });
  for (let i = 0; i < 2000 && existsSync(join(folder, 'run.lock')); i++) await new Promise((done) => setTimeout(done, 20));
  assert.not.ok(existsSync(join(folder, 'run.lock')));
  assert.ok(hasCheckpoint(folder));
});

/** Makes checkpoints of the main run fail once the comparison is under way. */
const FULL = `
import fs from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
const { mkdir } = fs;
fs.mkdir = function (path, ...rest) {
  const full = /checkpoint-/.test(path) && existsSync(${JSON.stringify(beside('start-2', 'metrics.jsonl'))});
  return full ? Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })) : mkdir.call(this, path, ...rest);
};
syncBuiltinESMExports();`;

stop('start, ended by an error, ends the comparison too', async () => {
  const ended = await run(START, { preload: FULL });
  assert.is(ended.code, 1, ended.stderr);
  assert.match(ended.stderr, 'the disk is full');
  assert.not.match(ended.stderr, /comparison/);
  const log = () => readFileSync(beside('start-2', 'metrics.jsonl'), 'utf8').length;
  const length = log();
  assert.not.ok(existsSync(beside('start-2', 'run.lock')));
  await new Promise((done) => setTimeout(done, 200));
  assert.is(log(), length, 'it writes no more');
});

stop.run();
