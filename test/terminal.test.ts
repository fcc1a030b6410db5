// What reaches the terminal: nothing that it would obey, and no loss of work where it is gone.
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { printable, printableLine } from '../models/matvlm/app/printable.ts';
import { CLI, cli, type CliOptions, type Ended, MICRO_FLAGS, workFolder } from './support/cli.ts';

const cwd = workFolder();
const path = (...parts: string[]) => join(cwd, ...parts);
const run = (args: readonly string[], options: Partial<CliOptions> = {}) => cli(args, { cwd, ...options });
const TRAIN = ['train', '--model', 'micro.json', ...MICRO_FLAGS, '--warmup', '1'];

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
  harmless(await run(['info', `no${ATTACK}such`]), 'no\\u001b]52;c;eA==\\u0007\\u001b]0;x');
  harmless(await run([...TRAIN, '--name', ATTACK]), 'run name "\\u001b]52');
  harmless(await run([...TRAIN, `--${ATTACK}`]), 'unknown option');
  writeFileSync(path('bad.yaml'), `${JSON.stringify(`st${ATTACK}eps`)}: 3\n`);
  harmless(await run(['train', '-c', 'bad.yaml']), 'unknown key "st\\u001b]52');
  const forged = await run(['info', 'x\nwarning: forged']);
  assert.is(forged.stderr.split('\n').length, 2, 'an error is one line');
});

filter('from a model folder: configuration, tokenizer and generated text', async () => {
  assert.is((await run([...TRAIN, '--steps', '2', '--name', 'model'])).code, 0);
  const folder = path('runs', 'model', 'checkpoint-2');
  const spoil = (file: string, change: (json: Record<string, any>) => void) => {
    const copy = path(`spoiled-${file}`);
    cpSync(folder, copy, { recursive: true });
    const json = JSON.parse(readFileSync(join(copy, file), 'utf8')) as Record<string, any>;
    change(json);
    writeFileSync(join(copy, file), JSON.stringify(json));
    return copy;
  };
  const config = spoil('config.json', (json) => (json.conv_version = ATTACK));
  harmless(await run(['eval', config, '--images', '1', '--backend', 'wasm']), 'conv_version');
  const tokenizer = spoil('tokenizer.json', (json) => {
    const { vocab } = json.model as { vocab: Record<string, number> };
    const words = Object.entries(vocab).map(([word, id]) => [id < 2 ? word : `${ATTACK}${id}`, id]);
    json.model.vocab = Object.fromEntries(words);
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
/** With results on stdout at the end. */
const MEASURED = TRAIN.filter((flag) => flag !== '--no-final-eval');
const STEPS = ['--steps', '40', '--save-every', '40', '--eval-every', '20', '--eval-images', '1'];

/** The run was done and saved to its end, and let go of. */
function whole(name: string): void {
  const entries = readdirSync(path('runs', name)).sort();
  assert.equal(entries, ['checkpoint-40', 'config.yaml', 'metrics.jsonl', 'report.html', 'samples'], name);
  const lines = readFileSync(path('runs', name, 'metrics.jsonl'), 'utf8').trim().split('\n');
  assert.is(lines.filter((line) => 'train/loss' in (JSON.parse(line) as object)).length, 40);
}

for (const [closed, flags] of [['stderr', TRAIN], ['stdout', MEASURED]] as const) {
  lost(`to a pipe on ${closed} that closes costs no step`, async () => {
    const { code } = await run([...flags, ...STEPS, '--name', closed], {
      // The first line of all comes on stderr.
      watch: (child) => child.stderr!.once('data', () => child[closed]!.destroy()),
    });
    assert.is(code, 0);
    whole(closed);
  });
}

lost('to a full disk costs no step, and is told at the end', async () => {
  const results = await run([...MEASURED, ...STEPS, '--name', 'results'], { redirect: '>/dev/full' });
  assert.is(results.code, 1, results.stderr);
  assert.match(results.stderr, /error: cannot write the results to standard output: the disk is full.*\n$/);
  whole('results');
  // Without results there is nothing to lose.
  assert.is((await run([...TRAIN, ...STEPS, '--name', 'progress'], { redirect: '2>/dev/full >/dev/full' })).code, 0);
  whole('progress');
  const help = await run(['--help'], { redirect: '>/dev/full' });
  assert.is(help.code, 1);
  assert.match(help.stderr, /^error: cannot write.*\n$/);
});

const hasScript = spawnSync('script', ['-qec', 'true', '/dev/null']).status === 0;

(hasScript ? lost : lost.skip)('to a terminal that closes ends the run as Ctrl-C does (needs script of util-linux)', async () => {
  const steps = [...TRAIN, '--steps', '1000000', '--save-every', '1000000', '--name', 'terminal'];
  const line = [process.execPath, CLI, ...steps].join(' ');
  // The shell is told that the terminal closes, as one that is used by hand is, and tells its jobs.
  const shell = `${line} & job=$!; trap "kill -HUP $job" HUP; wait $job; wait $job; echo $? > ended; mv ended code`;
  const terminal = spawn('script', ['-qefc', shell, '/dev/null'], { cwd });
  let output = '';
  terminal.stdout.on('data', (text) => {
    if (/loss/.test((output += text))) terminal.kill('SIGKILL');
  });
  await new Promise((done) => terminal.on('close', done));
  for (let i = 0; i < 1500 && !existsSync(path('code')); i++) await new Promise((done) => setTimeout(done, 20));
  assert.is(readFileSync(path('code'), 'utf8'), '0\n', output);
  const entries = readdirSync(path('runs', 'terminal'));
  assert.ok(entries.some((name) => /^checkpoint-\d+$/.test(name)) && !entries.includes('run.lock'), `${entries}`);
});

lost('to a reader that has seen enough is no error', async () => {
  const { code, stderr } = await run(['info', 'runs/results'], { watch: (child) => child.stdout!.destroy() });
  assert.is(code, 0, stderr);
});

for (const tests of [filter, lost]) tests.run();
