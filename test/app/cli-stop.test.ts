// Ctrl-C before there is anything to save, within long work on the CPU, and where one run has another beside it.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { evaluate } from '../../models/matvlm/train/evaluate.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { type CliOptions, failing, interruptAt, TRAIN, workplace } from '../support/cli.ts';
import { rejects } from '../support/expect.ts';
import { smallTeacher, tokenizer } from '../support/tiny-model.ts';

const { path, read, write, has, run, ok, refused, log, checkpoints } = workplace();
const stop = suite('stopping');

/** A run of `start` that only Ctrl-C or an error ends. */
const START = 'start --teacher runs/train --recipe endless.yaml --test-images 1 --no-serve --backend wasm';
const recipe = 'layers: [1]\nsteps: 1000000\nimages: 8\nbatch: 2\naccumulate: 1\nwarmup: 1\nlr: 0.001\n';
write('endless.yaml', `${recipe}save-every: 20\neval-every: 0\n`);

const beside = (run: string, file: string) => path('runs', run, 'random-init', file);

/** Sends a signal as soon as the folder of the process is so. */
const sendWhen = (condition: () => boolean, send: (pid: number) => void): CliOptions['watch'] => (child) => {
  const timer = setInterval(() => {
    if (!condition()) return;
    clearInterval(timer);
    send(child.pid!);
  }, 5);
  child.on('exit', () => clearInterval(timer));
};

stop('before the first step there is nothing to save, and nothing is left', async () => {
  const { stderr } = await ok(`${TRAIN} --steps 40`, { preload: interruptAt(/^run /m) });
  assert.match(stderr, 'stopped before the first step; nothing to save');
  assert.not.match(stderr, /saved in|--resume/);
  assert.equal(readdirSync(path('runs')), []);
});

for (const signal of ['SIGTERM', 'SIGHUP'] as const) {
  stop(`${signal} saves as Ctrl-C does, however often it comes`, async () => {
    let sent = 0;
    const { stderr } = await ok(`${TRAIN} --steps 1000000 --save-every 1000000 --name ${signal}`, {
      watch: (child) =>
        child.stderr!.on('data', (text) => {
          if (/^train \d|^Stopping/m.test(String(text)) && sent++ < 2) child.kill(signal);
        }),
    });
    assert.ok(sent >= 2, 'it came twice');
    const [, saved] = /stopped at step \d+ of 1000000, saved in (\S*checkpoint-\d+)\n/.exec(stderr) ?? [];
    assert.ok(saved && has(saved, '_SUCCESS'), stderr);
    assert.not.ok(has('runs', signal, 'run.lock'));
  });
}

stop('in the first evaluation of start too', async () => {
  await ok(`${TRAIN} --steps 2`);
  const { stderr } = await ok(START, { preload: interruptAt(/^run /m) });
  assert.not.match(stderr, /saved in|--resume|error/);
  assert.not.ok(has('runs', 'start'));
});

stop('within an evaluation, the steps before it are saved', async () => {
  const flags = '--steps 40 --save-every 40 --eval-every 2 --name within';
  const { stderr } = await ok(`${TRAIN} ${flags}`, { preload: interruptAt(/^train \d[^]*^eval \d/m) });
  assert.match(stderr, /stopped at step 2 of 40, saved in \S*checkpoint-2\n/);
  assert.ok(has('runs', 'within', 'checkpoint-2', '_SUCCESS'));
  const parts = ['Stopped at step 2 of 40: this is how far it came. Answers and accuracy are those at step 0'];
  for (const part of [...parts, 'Throughput', 'Gradient norm', 'data:image/png']) {
    assert.match(read('runs', 'within', 'report.html'), part);
  }
});

stop('eval hears Ctrl-C within its work', async () => {
  const { stderr, stdout } = await ok('eval runs/train --backend wasm --batch 1', { preload: interruptAt(/^eval \d/m) });
  assert.match(stderr, 'Stopping without a result');
  assert.is(stdout, '');
});

stop('an evaluation sees its signal abort from outside and frees what it made', async () => {
  const backend = await WasmBackend.create();
  const vlm = new Vlm(smallTeacher(backend), tokenizer);
  const before = backend.memory.buffers;
  const controller = new AbortController();
  const reason = new Error('enough');
  setTimeout(() => controller.abort(reason), 30);
  assert.is(await rejects(evaluate(vlm, new SortOfClevr('test'), { signal: controller.signal }), Error), reason);
  assert.is(backend.memory.buffers, before);
});

stop('start, stopped by a terminal, takes the comparison along', async () => {
  const saved = () => has('runs', 'start', 'random-init') && checkpoints('start', 'random-init').length > 0;
  const { stderr } = await ok(START, { group: true, watch: sendWhen(saved, (pid) => process.kill(-pid, 'SIGINT')) });
  assert.match(stderr, /stopped at step \d+ of 1000000, saved in/);
  assert.not.match(stderr, /comparison/);
  assert.not.ok(existsSync(beside('start', 'run.lock')));
  for (const part of ['Stopped at step', 'from random', 'trained here']) {
    assert.match(read('runs', 'start', 'report.html'), part);
  }
  assert.ok(saved());
});

stop('what was stopped goes on with the comparison, to the same step', async () => {
  const last = (...run: string[]) => log(...run).at(-1)!.step as number;
  const steps = Math.max(last('start'), last('start', 'random-init')) + 2;
  const { stderr } = await ok(`distill --resume runs/start --steps ${steps} --no-final-eval --lr 0.002 --override`);
  assert.not.match(stderr, /warning/);
  for (const run of [['start'], ['start', 'random-init']]) {
    assert.is(last(...run), steps);
    assert.match(read('runs', ...run, 'config.yaml'), '\nlr: 0.002\n');
  }
  for (const part of ['from attention', 'from random']) assert.match(read('runs', 'start', 'report.html'), part);
});

stop('start, killed, ends the comparison too, which saves', async () => {
  const folder = path('killed', 'start', 'random-init');
  const begun = () => (statSync(join(folder, 'metrics.jsonl'), { throwIfNoEntry: false })?.size ?? 0) > 0;
  await run(`${START} --runs killed`, { watch: sendWhen(begun, (pid) => process.kill(pid, 'SIGKILL')) });
  for (let i = 0; i < 2000 && existsSync(join(folder, 'run.lock')); i++) await sleep(20);
  const left = readdirSync(folder);
  assert.ok(!left.includes('run.lock') && left.some((name) => /^checkpoint-\d+$/.test(name)), `${left}`);
});

/** Once the comparison is under way checkpoints of the main run fail. */
const UNDER_WAY = `/checkpoint-/.test(args[0]) && existsSync(${JSON.stringify(beside('start-2', 'metrics.jsonl'))})`;

stop('start, ended by an error, ends the comparison too', async () => {
  const { stderr } = await refused(START, /the disk is full/, 1, { preload: failing('mkdir', 'ENOSPC', UNDER_WAY) });
  assert.not.match(stderr, /comparison/);
  const { length } = log('start-2', 'random-init');
  assert.not.ok(existsSync(beside('start-2', 'run.lock')));
  await sleep(200);
  assert.is(log('start-2', 'random-init').length, length, 'it writes no more');
});

stop.run();
