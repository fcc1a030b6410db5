// The command line from end to end on a tiny configuration, run as a user runs it: the built file in a process.
import { cpSync, existsSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { latestCheckpoint } from '../models/matvlm/app/store/checkpoints.ts';
import { encodePng } from '../models/matvlm/app/node/encode-png.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { cli, type CliOptions, type Ended, interruptAt, MICRO_FLAGS, workFolder } from './support/cli.ts';

const cwd = workFolder();
const run = (args: string, options: Partial<CliOptions> = {}) => cli(args.split(' '), { cwd, ...options });
const path = (...parts: string[]) => join(cwd, ...parts);

/** The command's stdout, after checking that it ended well. */
async function ok(args: string): Promise<string> {
  const ended = await run(args);
  assert.is(ended.code, 0, `matvlm ${args}: ${ended.stderr}`);
  return ended.stdout;
}

/** A log without what differs between runs: the time it took. */
function log(name: string): Record<string, unknown>[] {
  const lines = readFileSync(path('runs', name, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n');
  return lines.map((line) => ({ ...(JSON.parse(line) as Record<string, unknown>), tokens_per_second: 0 }));
}

function sameFile(a: string, b: string, file: string): void {
  assert.ok(
    readFileSync(path('runs', a, file)).equals(readFileSync(path('runs', b, file))),
    `${file} of ${a} and ${b}`,
  );
}

/** Drops the checkpoints after `step` from a copy of a run, as if it had been killed. */
function killedAfter(from: string, to: string, step: number): void {
  cpSync(path('runs', from), path('runs', to), { recursive: true });
  for (const name of readdirSync(path('runs', to))) {
    const [, number] = /^checkpoint-(\d+)$/.exec(name) ?? [];
    if (Number(number) > step) rmSync(path('runs', to, name), { recursive: true });
  }
}

const micro = MICRO_FLAGS.join(' ');
const train = suite('train');

train('makes a run folder with all that is promised', async () => {
  await ok(`train --model micro.json ${micro} --steps 7 --warmup 1 --save-every 2 --eval-every 4 --eval-images 2`);
  const entries = readdirSync(path('runs', 'train')).sort();
  assert.equal(entries, [
    ...['checkpoint-4', 'checkpoint-6', 'checkpoint-7', 'config.yaml', 'metrics.jsonl', 'report.html', 'samples'],
  ]);
  assert.equal(readdirSync(path('runs', 'train', 'checkpoint-7')).sort(), [
    ...['README.md', '_SUCCESS', 'config.json', 'model.safetensors', 'optimizer.safetensors', 'rng_state.json'],
    ...['tokenizer.json', 'tokenizer_config.json', 'trainer_state.json'],
  ]);
  const lines = log('train');
  assert.equal(
    lines.map(({ step }) => step),
    [0, 1, 2, 3, 4, 4, 5, 6, 7, 7],
  );
  assert.ok(Number(lines[8]['train/loss']) < Number(lines[1]['train/loss']), 'the loss goes down');
  for (const point of [0, 5, 9]) {
    assert.is(lines[point]['eval/questions'], 40, 'every point of the curves asks the same');
    assert.type(lines[point]['eval/accuracy/relational'], 'number');
  }
  assert.match(readFileSync(path('runs', 'train', 'config.yaml'), 'utf8'), /\nsave-every: 2\n/);
  assert.match(readFileSync(path('runs', 'train', 'report.html'), 'utf8'), '<svg');
});

train('goes on after a kill to the same numbers, bit for bit, log and all', async () => {
  killedAfter('train', 'killed', 4);
  await ok('train --resume runs/killed');
  assert.equal(log('killed'), log('train'));
  for (const file of ['model', 'optimizer']) sameFile('train', 'killed', `checkpoint-7/${file}.safetensors`);
  for (const file of ['trainer_state', 'rng_state']) sameFile('train', 'killed', `checkpoint-7/${file}.json`);
});

train('goes on from an older checkpoint in a new folder', async () => {
  await ok('train --resume runs/train/checkpoint-4');
  assert.equal(log('train-2'), log('train'));
  sameFile('train', 'train-2', 'checkpoint-7/model.safetensors');
});

train('falls back over a broken checkpoint with a warning', async () => {
  cpSync(path('runs', 'train'), path('runs', 'broken'), { recursive: true });
  writeFileSync(path('runs', 'broken', 'checkpoint-7', 'model.safetensors'), 'x');
  const { code, stderr } = await run('train --resume runs/broken');
  assert.is(code, 0, stderr);
  assert.match(stderr, /warning: .*checkpoint-7: passed over/);
  assert.equal(log('broken'), log('train'));
});

train('falls back over a trainer state that lacks fields, and refuses it where it is named', async () => {
  cpSync(path('runs', 'train'), path('runs', 'hollow'), { recursive: true });
  writeFileSync(path('runs', 'hollow', 'checkpoint-7', 'trainer_state.json'), '{}');
  const named = await run('train --resume runs/hollow/checkpoint-7');
  assert.is(named.code, 1);
  assert.match(named.stderr, /trainer_state.json: state is undefined, expected/);
  const { code, stderr } = await run('train --resume runs/hollow');
  assert.is(code, 0, stderr);
  assert.match(stderr, /warning: .*checkpoint-7: passed over: .*trainer_state.json: state/);
  assert.equal(log('hollow'), log('train'));
});

/** A resume that must be refused, and leave the run's settings as they were. */
async function refusedResume(name: string, args: string, says: RegExp): Promise<void> {
  const before = readFileSync(path('runs', name, 'config.yaml'), 'utf8');
  const { code, stderr } = await run(args);
  assert.is(code, 2, `${args}: ${stderr}`);
  assert.match(stderr, says);
  assert.is(readFileSync(path('runs', name, 'config.yaml'), 'utf8'), before);
}

train('what a resumed run cannot change is refused, what would change it needs --override', async () => {
  killedAfter('train', 'changed', 6);
  const resume = 'train --resume runs/changed';
  await refusedResume('changed', `${resume} --steps 3`, /--steps: 3, but the run is at step 6 already/);
  await refusedResume('changed', `${resume} --steps 3 --dry-run`, /--steps: 3, but the run is at step 6 already/);
  await refusedResume('changed', `${resume} --seed 5`, /--seed: the run .*changed has 0, got 5.*begin a new run/);
  await refusedResume('changed', `${resume} --model tiny`, /--model: the run .* has \S*micro.json, got tiny/);
  await refusedResume('changed', `${resume} --batch 4`, /--batch: the run .* has 2, got 4.*after step 6 with --override/);
  await ok(`${resume} --batch 4 --lr 0.002 --override`);
  const lines = log('changed');
  const at = lines.findIndex((line) => 'override' in line);
  assert.equal(lines[at].override, { batch: { from: 2, to: 4 }, lr: { from: 0.001, to: 0.002 } });
  const rate = (name: string) => Number(log(name).find((line) => line.step === 7 && 'lr' in line)!.lr);
  assert.is(lines[at].step, 6);
  assert.is(rate('changed'), 2 * rate('train'));
  const yaml = readFileSync(path('runs', 'changed', 'config.yaml'), 'utf8');
  assert.match(yaml, /^# .*made with other settings before: batch 2 up to step 6, lr 0.001 up to step 6\n/);
  assert.match(yaml, /\nbatch: 4\n/);
  assert.match(readFileSync(path('runs', 'changed', 'report.html'), 'utf8'), '0.002; 0.001 up to step 6');
});

/** Changes a setting in a run's folder by hand. */
function edit(name: string, from: string | RegExp, to: string): void {
  const file = path('runs', name, 'config.yaml');
  const text = readFileSync(file, 'utf8');
  assert.match(text, from);
  writeFileSync(file, text.replace(from, to));
}

train("what is edited in a run's config.yaml is compared as a flag is", async () => {
  killedAfter('train', 'edited', 6);
  edit('edited', '\nlr: 0.001\n', '\nlr: 0.003\n');
  const resume = 'train --resume runs/edited';
  const told = /edited\/config.yaml:\d+: lr: the run .*edited has 0.001, got 0.003; put it back.*step 6 with --override/;
  await refusedResume('edited', `${resume} --dry-run`, told);
  edit('edited', '\nseed: 0\n', '\nseed: 5\n');
  await refusedResume('edited', `${resume} --lr 1e-3 --override`, /config.yaml:\d+: seed: .* has 0, got 5, and this cannot/);
  edit('edited', '\nseed: 5\n', '\n');
  edit('edited', /\nbatch: 2\n/, '\n');
  edit('edited', '\nsteps: 7\n', '\nsteps: 8\n');
  await ok(`${resume} --override`);
  const lines = log('edited');
  assert.equal(lines.find((line) => 'override' in line), {
    ...{ step: 6, override: { lr: { from: 0.001, to: 0.003 } }, tokens_per_second: 0 },
  });
  assert.is(lines.at(-1)!.step, 8, 'steps may change, in the file too');
  assert.match(readFileSync(path('runs', 'edited', 'config.yaml'), 'utf8'), /\nbatch: 2\n/);
  // What was overridden stands in the folder's settings, and is no edit where an older checkpoint is resumed.
  await ok('train --resume runs/edited/checkpoint-6 --steps 7');
  assert.equal(log('edited-2'), log('train'));
});

/** Every file of a run by its path, with its bytes. */
function contents(run: string): Map<string, string> {
  const files = readdirSync(path('runs', run), { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
  return new Map(files.map((f) => [join(f.parentPath, f.name), readFileSync(join(f.parentPath, f.name), 'base64')]));
}

train('a finished run that is resumed trains nothing and rewrites nothing', async () => {
  const before = contents('train');
  for (const flags of ['', ' --save-every 3 --eval-every 0', ' --lr 1 --override']) {
    const { code, stderr } = await run(`train --resume runs/train${flags}`);
    assert.is(code, 0, stderr);
    assert.match(stderr, /runs\/train is finished: 7 of 7 steps; nothing was changed/);
    assert.equal(contents('train'), before);
  }
  await refusedResume('train', 'train --resume runs/train --lr 1', /--lr: the run .* has 0.001, got 1/);
});

train('an override without a step made under it leaves no trace', async () => {
  cpSync(path('runs', 'changed'), path('runs', 'undone'), { recursive: true });
  rmSync(path('runs', 'undone', 'checkpoint-7'), { recursive: true });
  await ok('train --resume runs/undone');
  assert.equal(log('undone'), log('train'));
  assert.match(readFileSync(path('runs', 'undone', 'config.yaml'), 'utf8'), /^# npx matvlm train -c config.yaml does the same/);
});

train('the settings of a resumed run name the run itself', async () => {
  const yaml = readFileSync(path('runs', 'killed', 'config.yaml'), 'utf8');
  assert.match(yaml, /\nname: killed\n/);
  assert.match(yaml, `\nruns: ${realpathSync(path('runs'))}\n`);
});

train('saves and exits with 0 on Ctrl-C, and goes on as if nothing had been', async () => {
  const flags = `train --model micro.json ${micro} --accumulate 2 --warmup 1 --save-every 1000`;
  const stopped = await run(`${flags} --name stopped --steps 60`, { preload: interruptAt(/^train \d/m) });
  assert.is(stopped.code, 0, stopped.stderr);
  const [checkpoint] = readdirSync(path('runs', 'stopped')).filter((name) => name.startsWith('checkpoint-'));
  const step = Number(checkpoint.slice('checkpoint-'.length));
  assert.ok(step > 0 && step < 60, `stopped at ${step}`);
  await ok('train --resume --name stopped');
  await ok(`${flags} --name whole --steps 60`);
  assert.equal(log('stopped'), log('whole'));
  sameFile('stopped', 'whole', 'checkpoint-60/model.safetensors');
});

/** Makes saving slow after the first Ctrl-C, so that there is time for a second. */
const SLOW_DISK = `
import { open } from 'node:fs/promises';
const handle = await open(process.execPath, 'r');
const slow = () => new Promise((done) => setTimeout(done, 5000));
process.on('SIGINT', () => (Object.getPrototypeOf(handle).sync = slow));
await handle.close();`;

train('a second Ctrl-C quits at once with 130, and the checkpoint before stays', async () => {
  cpSync(path('runs', 'train'), path('runs', 'twice'), { recursive: true });
  const flags = ['--steps', '100000', '--save-every', '100000', '--warmup', '1'];
  const ended = await cli(['train', '--resume', 'runs/twice', ...flags], {
    cwd,
    preload: SLOW_DISK,
    watch: (child) =>
      child.stderr!.on('data', (text) => {
        if (/^train \d|Stopping/m.test(String(text))) child.kill('SIGINT');
      }),
  });
  assert.is(ended.code, 130, ended.stderr);
  assert.is((await latestCheckpoint(path('runs', 'twice')))!.step, 7);
});

train('tells one line before it begins, and all settings with --verbose', async () => {
  const flags = `train --model micro.json ${micro} --steps 1 --name told`;
  const { stderr } = await run(flags);
  const [first, second] = stderr.split('\n');
  assert.match(first, /^run runs\/told: 1 step of 2 images on wasm; settings in config.yaml$/);
  assert.match(second, /^train 1\/1 /);
  const { stderr: verbose } = await run(`${flags} --verbose`);
  for (const line of [/^configuration micro.json$/m, /^  weight-decay      0.05$/m]) assert.match(verbose, line);
});

train('settings from a file, flags over it, and the run can be repeated from its own', async () => {
  writeFileSync(path('run.yaml'), 'model: micro.json\nsteps: 3\nimages: 8\nbatch: 2\nlr: 0.5\nwarmup: 1\n');
  await ok('train -c run.yaml --lr 1e-3 --backend wasm --no-final-eval --name file');
  await ok('train -c runs/file/config.yaml');
  assert.match(readFileSync(path('runs', 'file', 'config.yaml'), 'utf8'), /\nlr: 0.001\n/);
  assert.equal(log('file-2'), log('file'));
});

train('--dry-run tells parameters, memory, steps and time and leaves nothing', async () => {
  const before = readdirSync(path('runs'));
  const out = await ok('train --dry-run --name dry --backend wasm');
  assert.match(out, /all\s+2,461,638\s+2,461,638/);
  assert.match(out, /memory\s+39.4 MB/);
  assert.match(out, /steps\s+15,000 of 64 images/);
  assert.match(out, /time\s+at least [\d:]+: 23\d GFLOP a step .* at [\d.]+ GFLOP\/s \(WebAssembly/);
  assert.equal(readdirSync(path('runs')), before);
});

const hybrid = suite('init and distill');

hybrid('init copies what stays and takes the mixers from attention', async () => {
  await ok('init runs/train student --layers 1');
  assert.ok(existsSync(path('student', 'mamba_config.json')));
  const facts = JSON.parse(await ok('info student --json')) as { parts: Record<string, number>; trainable: number };
  assert.is(facts.parts.mamba, 1574);
  assert.is(facts.trainable, 2118);
});

hybrid('distill from a student folder is distill with the same initialisation', async () => {
  const flags = `--teacher runs/train ${micro} --steps 4 --warmup 0 --lr 1e-3 --accumulate 2 --save-every 2`;
  await ok(`distill ${flags} --layers 1`);
  await ok(`distill ${flags} --student student --name from-folder`);
  assert.equal(log('distill'), log('from-folder'));
  sameFile('distill', 'from-folder', 'checkpoint-4/model.safetensors');
  const lines = log('distill');
  assert.ok(lines.every((line) => Number(line['train/kl']) > 0 && Number(line['train/layer']) > 0));
  assert.ok(Number(lines[3]['train/layer']) < Number(lines[0]['train/layer']), 'the layers come nearer');
});

hybrid('a killed distillation goes on to the same numbers', async () => {
  killedAfter('distill', 'distill-killed', 2);
  await ok('distill --resume runs/distill-killed');
  assert.equal(log('distill-killed'), log('distill'));
  sameFile('distill', 'distill-killed', 'checkpoint-4/optimizer.safetensors');
});

hybrid('layers and teacher of a resumed distillation stay', async () => {
  killedAfter('distill', 'distill-changed', 2);
  const resume = 'distill --resume runs/distill-changed';
  await refusedResume('distill-changed', `${resume} --layers 0`, /--layers: the run .* has 1, got 0.*begin a new run/);
  await ok(`init runs/train other --layers 0`);
  await refusedResume('distill-changed', `${resume} --teacher other`, /--teacher: the run .*checkpoint-7, got other/);
  await ok(`${resume} --teacher runs/train`);
});

hybrid('the stored path of a teacher holds in any folder', async () => {
  const yaml = readFileSync(path('runs', 'distill', 'config.yaml'), 'utf8');
  assert.match(yaml, `\nteacher: ${realpathSync(path('runs', 'train', 'checkpoint-7'))}\n`);
});

hybrid('attention is a better start than chance', async () => {
  await ok(`distill --teacher runs/train ${micro} --steps 1 --warmup 0 --layers 1 --init random --name chance`);
  const evaluated = '--eval-every 1 --eval-images 1 --name attention';
  await ok(`distill --teacher runs/train ${micro} --steps 1 --warmup 0 --layers 1 ${evaluated}`);
  const report = readFileSync(path('runs', 'attention', 'report.html'), 'utf8');
  for (const model of ['teacher', 'attention']) assert.match(report, `data-of="${model}"`, 'the answers of both');
  assert.ok(Number(log('attention')[1]['train/layer']) < Number(log('chance')[0]['train/layer']));
});

const use = suite('eval, generate, info, start');

use('eval counts by kind, and tells every answer', async () => {
  const json = JSON.parse(await ok('eval runs/distill --images 3 --backend wasm --json --out answers.json')) as {
    total: number;
    correct: number;
    byKind: Record<string, { total: number; correct: number }>;
  };
  assert.is(json.total, 60);
  assert.equal(Object.keys(json.byKind), ['non-relational', 'relational']);
  const { samples } = JSON.parse(readFileSync(path('answers.json'), 'utf8')) as {
    samples: { answer: string; predicted: string; id: string }[];
  };
  assert.is(samples.length, 60);
  assert.is(samples.filter(({ answer, predicted }) => answer === predicted).length, json.correct);
  assert.match(await ok('eval runs/distill --images 2 --backend wasm'), /relational +\d+\.\d % +20/);
});

use('generate answers, the same for the same seed, and tells what it cost', async () => {
  const { image } = new SortOfClevr('test').get(0);
  writeFileSync(path('scene.png'), await encodePng(await image()));
  const ask = (flags: string): Promise<Ended> => {
    const prompt = ['--prompt', 'what shape is the red object?', '--backend', 'wasm'];
    return cli(['generate', 'runs/distill', '--image', 'scene.png', ...prompt, ...flags.split(' ')], { cwd });
  };
  const sampled = '--temperature 2 --top-k 20 --top-p 0.95 --repetition-penalty 1.1 --max-new-tokens 9 --json --seed';
  const [a, b, c] = [await ask(`${sampled} 1`), await ask(`${sampled} 1`), await ask(`${sampled} 2`)];
  const answerOf = ({ stdout }: Ended) => (JSON.parse(stdout) as { answer: string }).answer;
  assert.is(answerOf(a), answerOf(b));
  assert.is.not(answerOf(a), answerOf(c));
  const { usage } = JSON.parse(a.stdout) as { usage: { promptTokens: number; newTokens: number } };
  // "user :", four image tokens, and "what shape is the red object ? assistant :".
  assert.is(usage.promptTokens, 15);
  const plain = await ask('--max-new-tokens 3');
  assert.is(plain.code, 0, plain.stderr);
  assert.match(plain.stderr, /15 \+ \d tokens, the first after \d+ ms/);
});

use('info compares the cache with that of attention alone', async () => {
  const { cache } = JSON.parse(await ok('info runs/distill --json --context 100')) as {
    cache: { length: number; bytes: number; attention: number }[];
  };
  // Keys and values of one layer, and a mixer's three columns of 48 channels and two states of 8 × 8.
  assert.equal(cache, [{ length: 100, bytes: 4 * (2 * 16 * 100 + 3 * 48 + 2 * 64), attention: 4 * 2 * 2 * 16 * 100 }]);
});

use('start distils, compares and reports', async () => {
  writeFileSync(
    path('start.yaml'),
    'layers: [1]\nsteps: 4\nimages: 8\nbatch: 2\naccumulate: 1\nwarmup: 1\nlr: 0.001\neval-every: 2\neval-images: 1\n',
  );
  const out = await ok('start --teacher runs/train --recipe start.yaml --test-images 2 --no-serve --backend wasm');
  assert.match(out, /questions +teacher +student, undistilled +student +asked/);
  assert.equal(
    log('start').map(({ step }) => step),
    [0, 0, 1, 2, 2, 3, 4, 4, 4],
  );
  const points = ['start', join('start', 'random-init')].map((name) => log(name).filter((line) => 'eval/kl' in line));
  for (const run of points) {
    assert.equal(run.map((line) => [line.step, line['eval/questions'], line['eval/images']]), [
      ...[[0, 20, 1], [2, 20, 1], [4, 20, 1]],
    ]);
  }
  assert.equal(log('start').map((line) => line['test/questions'] ?? 0), [40, 0, 0, 0, 0, 0, 0, 40, 0]);
  assert.is.not(points[0][0]['eval/kl'], points[1][0]['eval/kl'], 'they begin apart');
  assert.equal(log(join('start', 'random-init')).map(({ step }) => step), [0, 1, 2, 2, 3, 4, 4]);
  const report = readFileSync(path('runs', 'start', 'report.html'), 'utf8');
  assert.match(
    readFileSync(path('runs', 'start', 'checkpoint-4', 'README.md'), 'utf8'),
    /Accuracy, relational: \d+\.\d %/,
  );
  for (const part of ['from attention', 'from random', 'Relation network', 'data:image/png', /0\.1\.0(, commit \w{40})?/])
    assert.match(report, part);
  assert.match(report, 'the same 20 questions about the same image ');
});

use('serve serves the models until Ctrl-C', async () => {
  let shown = '';
  let listed: { models: { name: string; role: string }[] } | null = null;
  const ended = await run('serve runs/train runs/distill --port 0', {
    watch: (child) => {
      child.stdout!.on('data', async (text) => {
        shown += String(text);
        const [url] = /http:\S+/.exec(shown) ?? [];
        if (!url || listed) return;
        listed = { models: [] };
        listed = (await (await fetch(`${url}api/models.json`)).json()) as typeof listed;
        child.kill('SIGINT');
      });
    },
  });
  assert.is(ended.code, 0, ended.stderr);
  assert.equal(
    listed!.models.map(({ name, role }) => [name, role]),
    [
      ['runs/train', 'teacher'],
      ['runs/distill', 'student'],
    ],
  );
});

for (const tests of [train, hybrid, use]) tests.run();
