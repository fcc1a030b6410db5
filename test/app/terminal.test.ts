// What reaches the terminal: nothing that it would obey, and no loss of work where it is gone.
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { printable, printableLine } from '../../models/matvlm/app/printable.ts';
import { CLI, type Ended, TRAIN, workplace } from '../support/cli.ts';

const { cwd, path, read, write, has, run, ok, refused, log } = workplace();

/** What a terminal obeys, spelled out: C0 but tab and line feed, DEL, C1, separators, marks of direction. */
const OBEYED = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
/** Writes the clipboard, names the window, clears the screen, in 7 and 8 bits; turns text around; breaks lines. */
const ATTACK = '\x1b]52;c;eA==\x07\x1b]0;x\x1b\\\x1b[2J\x9b2J\x9d0;x\x9c\x7f\r\b\u202egnp\u2069\u2028\u0085';

const filter = suite('text of unknown origin');

filter('loses what a terminal would obey, and nothing else', () => {
  const code = (c: string) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  for (let unit = 0; unit < 0xd800; unit++) {
    const c = String.fromCharCode(unit);
    assert.is(printable(c), OBEYED.test(c) ? code(c) : c);
    assert.is(printableLine(c), OBEYED.test(c) || c === '\n' || c === '\t' ? code(c) : c);
  }
});

filter('keeps JSON valid and its meaning', () => {
  const text = fc.string({ unit: fc.oneof(fc.constantFrom(...ATTACK, '\\', '"', '\n'), fc.string({ unit: 'grapheme' })) });
  fc.assert(
    fc.property(fc.dictionary(text, text), (value) => {
      const json = printable(JSON.stringify(value, null, 2));
      assert.not.match(json, OBEYED);
      assert.equal(JSON.parse(json), { ...value });
    }),
  );
});

/** Nothing of the attack came through, though its harmless part did. */
function harmless({ stdout, stderr }: Ended, says: string): void {
  assert.not.match(stdout + stderr, OBEYED);
  assert.match(stdout + stderr, says);
}

filter('from file and run names, settings and their keys', async () => {
  write('bad.yaml', `${JSON.stringify(`st${ATTACK}eps`)}: 3\n`);
  const said: [args: string[], says: string][] = [
    [['info', `no${ATTACK}such`], 'no\\u001b]52;c;eA==\\u0007\\u001b]0;x'],
    [[...TRAIN.split(' '), '--name', ATTACK], 'run name "\\u001b]52'],
    [[...TRAIN.split(' '), `--${ATTACK}`], 'unknown option'],
    [['train', '-c', 'bad.yaml'], 'unknown key "st\\u001b]52'],
  ];
  for (const [args, says] of said) harmless(await run(args), says);
  const { stderr } = await run(['info', 'x\nwarning: forged']);
  assert.is(stderr.split('\n').length, 2, 'an error is one line');
});

filter('from a model folder: configuration, tokenizer and generated text', async () => {
  await ok(`${TRAIN} --steps 2 --name model`);
  const folder = path('runs', 'model', 'checkpoint-2');
  const spoil = (file: string, change: (json: Record<string, any>) => void) => {
    cpSync(folder, path(file, 'model'), { recursive: true });
    const json = JSON.parse(read(file, 'model', file)) as Record<string, any>;
    change(json);
    write(`${file}/model/${file}`, JSON.stringify(json));
    return path(file, 'model');
  };
  const config = spoil('config.json', (json) => (json.conv_version = ATTACK));
  harmless(await run(['eval', config, '--images', '1', '--backend', 'wasm']), 'conv_version');
  const tokenizer = spoil('tokenizer.json', ({ model }) => {
    const words = Object.entries(model.vocab as Record<string, number>);
    model.vocab = Object.fromEntries(words.map(([word, id]) => [id < 2 ? word : `${ATTACK}${id}`, id]));
  });
  const ask = ['generate', tokenizer, '--prompt', 'what is it?', '--backend', 'wasm', '--max-new-tokens', '4'];
  harmless(await run(ask), '\\u001b]52;c;eA==\\u0007');
  const json = await run([...ask, '--json']);
  harmless(json, '\\u001b]52;c;eA==\\u0007');
  assert.match((JSON.parse(json.stdout) as { answer: string }).answer, ATTACK.trim().slice(0, 20));
  const moved = path(`model${ATTACK}`);
  cpSync(folder, moved, { recursive: true });
  harmless(await run(['info', moved]), 'transformer');
  assert.is((JSON.parse((await run(['info', moved, '--json'])).stdout) as { folder: string }).folder, moved);
});

const lost = suite('output that is lost');
const STEPS = '--steps 40 --save-every 40 --eval-every 20 --eval-images 1 --name';
/** With results on stdout at the end. */
const MEASURED = `${TRAIN.replace(' --no-final-eval', '')} ${STEPS}`;

/** The run was done and saved to its end, and let go of. */
function whole(name: string): void {
  const entries = readdirSync(path('runs', name)).sort();
  assert.equal(entries, ['checkpoint-40', 'config.yaml', 'metrics.jsonl', 'report.html', 'samples'], name);
  assert.is(log(name).filter((line) => 'train/loss' in line).length, 40);
}

for (const [closed, flags] of [['stderr', `${TRAIN} ${STEPS}`], ['stdout', MEASURED]] as const) {
  lost(`to a pipe on ${closed} that closes costs no step`, async () => {
    // The first line of all comes on stderr.
    await ok(`${flags} ${closed}`, { watch: (child) => child.stderr!.once('data', () => child[closed]!.destroy()) });
    whole(closed);
  });
}

lost('to a full disk costs no step, and is told at the end', async () => {
  const redirect = '>/dev/full';
  await refused(`${MEASURED} results`, /^error: cannot write the results to standard output: the disk is full/, 1, { redirect });
  whole('results');
  // Without results there is nothing to lose.
  await ok(`${TRAIN} ${STEPS} progress`, { redirect: `2>/dev/full ${redirect}` });
  whole('progress');
  assert.match((await refused('--help', /cannot write/, 1, { redirect })).stderr, /^error: .*\n$/);
});

const hasScript = spawnSync('script', ['-qec', 'true', '/dev/null']).status === 0;

(hasScript ? lost : lost.skip)('to a terminal that closes ends the run as Ctrl-C does (needs script of util-linux)', async () => {
  const line = `${process.execPath} ${CLI} ${TRAIN} --steps 1000000 --save-every 1000000 --name terminal`;
  // The shell is told that the terminal closes, as one that is used by hand is, and tells its jobs.
  const shell = `${line} & job=$!; trap "kill -HUP $job" HUP; wait $job; wait $job; echo $? > ended; mv ended code`;
  const terminal = spawn('script', ['-qefc', shell, '/dev/null'], { cwd });
  let output = '';
  terminal.stdout.on('data', (text) => {
    if (/loss/.test((output += text))) terminal.kill('SIGKILL');
  });
  await new Promise((done) => terminal.on('close', done));
  for (let i = 0; i < 1500 && !has('code'); i++) await sleep(20);
  assert.is(read('code'), '0\n', output);
  const entries = readdirSync(path('runs', 'terminal'));
  assert.ok(entries.some((name) => /^checkpoint-\d+$/.test(name)) && !entries.includes('run.lock'), `${entries}`);
});

lost('to a reader that has seen enough is no error', async () => {
  await ok('info runs/results', { watch: (child) => child.stdout!.destroy() });
});

for (const tests of [filter, lost]) tests.run();
