// The command line from end to end on a tiny configuration, run as a user runs it: the built file in a process.
import { cpSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { latestCheckpoint } from '../../models/matvlm/app/store/checkpoints.ts';
import { encodePng } from '../../models/matvlm/app/node/encode-png.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { interruptAt, MICRO_FLAGS, TRAIN, workplace } from '../support/cli.ts';

const { path, read, write, has, run, ok, refused, log, checkpoints } = workplace();
const config = (name: string) => read('runs', name, 'config.yaml');
const report = (name: string) => read('runs', name, 'report.html');
const steps = (...run: string[]) => log(...run).map(({ step }) => step);

function sameFile(a: string, b: string, file: string): void {
  const [one, other] = [a, b].map((run) => readFileSync(path('runs', run, file)));
  assert.ok(one.equals(other), `${file} of ${a} and ${b}`);
}

/** A copy of a run as if it had been killed after the checkpoint of `step`. */
function killedAfter(from: string, to: string, step: number): void {
  cpSync(path('runs', from), path('runs', to), { recursive: true });
  for (const name of checkpoints(to)) {
    if (Number(name.slice('checkpoint-'.length)) > step) rmSync(path('runs', to, name), { recursive: true });
  }
}

const train = suite('train');

train('makes a run folder with all that is promised', async () => {
  await ok(`${TRAIN} --steps 7 --save-every 2 --eval-every 4 --eval-images 2`);
  assert.equal(readdirSync(path('runs', 'train')).sort(), [
    ...['checkpoint-4', 'checkpoint-6', 'checkpoint-7', 'config.yaml', 'metrics.jsonl', 'report.html', 'samples'],
  ]);
  assert.equal(readdirSync(path('runs', 'train', 'checkpoint-7')).sort(), [
    ...['README.md', '_SUCCESS', 'config.json', 'model.safetensors', 'optimizer.safetensors', 'rng_state.json'],
    ...['tokenizer.json', 'tokenizer_config.json', 'trainer_state.json'],
  ]);
  assert.equal(steps('train'), [0, 1, 2, 3, 4, 4, 5, 6, 7, 7]);
  const lines = log('train');
  assert.ok(Number(lines[8]['train/loss']) < Number(lines[1]['train/loss']), 'the loss goes down');
  for (const point of [0, 5, 9]) {
    assert.is(lines[point]['eval/questions'], 40, 'every point of the curves asks the same');
    assert.type(lines[point]['eval/accuracy/relational'], 'number');
  }
  assert.match(config('train'), /\nsave-every: 2\n/);
  assert.match(report('train'), '<svg');
});

train('goes on after a kill to the same numbers, bit for bit, log and all, and names the run itself', async () => {
  killedAfter('train', 'killed', 4);
  await ok('train --resume runs/killed');
  assert.equal(log('killed'), log('train'));
  for (const file of ['model.safetensors', 'optimizer.safetensors', 'trainer_state.json', 'rng_state.json']) {
    sameFile('train', 'killed', `checkpoint-7/${file}`);
  }
  assert.match(config('killed'), /\nname: killed\n/);
  assert.match(config('killed'), `\nruns: ${realpathSync(path('runs'))}\n`);
});

train('falls back over a broken checkpoint with a warning, and refuses it where it is named', async () => {
  const broken: [file: string, content: string, says: RegExp][] = [
    ['model.safetensors', 'x', /checkpoint-7.*model.safetensors/],
    ['trainer_state.json', '{}', /trainer_state.json: state is undefined, expected/],
  ];
  for (const [i, [file, content, says]] of broken.entries()) {
    cpSync(path('runs', 'train'), path('runs', `broken-${i}`), { recursive: true });
    write(`runs/broken-${i}/checkpoint-7/${file}`, content);
    await refused(`train --resume runs/broken-${i}/checkpoint-7`, says);
    const { stderr } = await ok(`train --resume runs/broken-${i}`);
    assert.match(stderr, new RegExp(`warning: .*checkpoint-7: passed over.*${says.source}`));
    assert.equal(log(`broken-${i}`), log('train'));
  }
});

/** A resume that must be refused, and leave the run's settings as they were. */
async function refusedResume(name: string, args: string, says: RegExp): Promise<void> {
  const before = config(name);
  await refused(args, says, 2);
  assert.is(config(name), before);
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
  const override = { batch: { from: 2, to: 4 }, lr: { from: 0.001, to: 0.002 } };
  assert.equal(log('changed').find((line) => 'override' in line), { step: 6, override, tokens_per_second: 0 });
  const rate = (name: string) => Number(log(name).find((line) => line.step === 7 && 'lr' in line)!.lr);
  assert.is(rate('changed'), 2 * rate('train'));
  const told = /^# .*made with other settings before: batch 2 up to step 6, lr 0.001 up to step 6\n[^]*\nbatch: 4\n/;
  assert.match(config('changed'), told);
  assert.match(report('changed'), '0.002; 0.001 up to step 6');
});

/** Changes a setting in a run's folder by hand. */
function edit(name: string, from: string, to: string): void {
  assert.match(config(name), from);
  write(`runs/${name}/config.yaml`, config(name).replace(from, to));
}

train("what is edited in a run's config.yaml is compared as a flag is", async () => {
  killedAfter('train', 'edited', 6);
  edit('edited', '\nlr: 0.001\n', '\nlr: 0.003\n');
  const resume = 'train --resume runs/edited';
  const told = /edited\/config.yaml:\d+: lr: the run .*edited has 0.001, got 0.003; put it back.*step 6 with --override/;
  await refusedResume('edited', `${resume} --dry-run`, told);
  edit('edited', '\nseed: 0\n', '\nseed: 5\n');
  const seed = /config.yaml:\d+: seed: .* has 0, got 5, and this cannot/;
  await refusedResume('edited', `${resume} --lr 1e-3 --override`, seed);
  edit('edited', '\nseed: 5\n', '\n');
  edit('edited', '\nbatch: 2\n', '\n');
  edit('edited', '\nsteps: 7\n', '\nsteps: 8\n');
  await ok(`${resume} --override`);
  const override = { lr: { from: 0.001, to: 0.003 } };
  assert.equal(log('edited').find((line) => 'override' in line), { step: 6, override, tokens_per_second: 0 });
  assert.is(steps('edited').at(-1), 8, 'steps may change, in the file too');
  assert.match(config('edited'), /\nbatch: 2\n/);
  // An older checkpoint goes on in a new folder. What was overridden stands in the settings of the old one, and is no edit.
  await ok('train --resume runs/edited/checkpoint-6 --steps 7');
  assert.equal(log('edited-2'), log('train'));
  sameFile('train', 'edited-2', 'checkpoint-7/model.safetensors');
});

/** Every file of a run by its path, with its bytes. */
function contents(run: string): Map<string, string> {
  const files = readdirSync(path('runs', run), { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
  return new Map(files.map((f) => [join(f.parentPath, f.name), readFileSync(join(f.parentPath, f.name), 'base64')]));
}

train('a finished run that is resumed trains nothing and rewrites nothing', async () => {
  const before = contents('train');
  for (const flags of ['', ' --save-every 3 --eval-every 0', ' --lr 1 --override']) {
    const { stderr } = await ok(`train --resume runs/train${flags}`);
    assert.match(stderr, /runs\/train is finished: 7 of 7 steps; nothing was changed/);
    assert.equal(contents('train'), before);
  }
  await refusedResume('train', 'train --resume runs/train --lr 1', /--lr: the run .* has 0.001, got 1/);
});

train('an override without a step made under it leaves no trace', async () => {
  killedAfter('changed', 'undone', 6);
  await ok('train --resume runs/undone');
  assert.equal(log('undone'), log('train'));
  assert.match(config('undone'), /^# npx matvlm train -c config.yaml does the same/);
});

train('saves and exits with 0 on Ctrl-C, and goes on as if nothing had been', async () => {
  const flags = `${TRAIN} --accumulate 2 --save-every 1000 --steps 60`;
  await ok(`${flags} --name stopped`, { preload: interruptAt(/^train \d/m) });
  const step = Number(checkpoints('stopped')[0].slice('checkpoint-'.length));
  assert.ok(step > 0 && step < 60, `stopped at ${step}`);
  await ok('train --resume --name stopped');
  await ok(`${flags} --name whole`);
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
  const ended = await run('train --resume runs/twice --steps 100000 --save-every 100000 --warmup 1', {
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
  const flags = `${TRAIN.replace(' --warmup 1', '')} --steps 1 --name told`;
  const { stderr } = await ok(flags);
  assert.match(stderr, /^run runs\/told: 1 step of 2 images on wasm; settings in config.yaml\ntrain 1\/1 /);
  const { stderr: verbose } = await ok(`${flags} --verbose`);
  for (const line of [/^configuration micro.json$/m, /^  weight-decay      0.05$/m]) assert.match(verbose, line);
});

train('settings from a file, flags over it, and the run can be repeated from its own', async () => {
  write('run.yaml', 'model: micro.json\nsteps: 3\nimages: 8\nbatch: 2\nlr: 0.5\nwarmup: 1\n');
  await ok('train -c run.yaml --lr 1e-3 --backend wasm --no-final-eval --name file');
  await ok('train -c runs/file/config.yaml');
  assert.match(config('file'), /\nlr: 0.001\n/);
  assert.equal(log('file-2'), log('file'));
});

train('--dry-run tells parameters, memory, steps and time and leaves nothing', async () => {
  const before = readdirSync(path('runs'));
  const { stdout } = await ok('train --dry-run --name dry --backend wasm');
  assert.match(stdout, /all\s+2,461,638\s+2,461,638/);
  assert.match(stdout, /memory\s+39.4 MB/);
  assert.match(stdout, /steps\s+15,000 of 64 images/);
  assert.match(stdout, /time\s+at least [\d:]+: 23\d GFLOP a step .* at [\d.]+ GFLOP\/s \(WebAssembly/);
  assert.equal(readdirSync(path('runs')), before);
});

const hybrid = suite('init and distill');

hybrid('init copies what stays and takes the mixers from attention', async () => {
  await ok('init runs/train student --layers 1');
  assert.ok(has('student', 'mamba_config.json'));
  const facts = JSON.parse((await ok('info student --json')).stdout) as { parts: { mamba: number }; trainable: number };
  assert.equal([facts.parts.mamba, facts.trainable], [1574, 2118]);
});

hybrid('distill from a student folder is distill with the same initialisation', async () => {
  const flags = `--teacher runs/train ${MICRO_FLAGS} --steps 4 --warmup 0 --lr 1e-3 --accumulate 2 --save-every 2`;
  await ok(`distill ${flags} --layers 1`);
  await ok(`distill ${flags} --student student --name from-folder`);
  assert.equal(log('distill'), log('from-folder'));
  sameFile('distill', 'from-folder', 'checkpoint-4/model.safetensors');
  const lines = log('distill');
  assert.ok(lines.every((line) => Number(line['train/kl']) > 0 && Number(line['train/layer']) > 0));
  assert.ok(Number(lines[3]['train/layer']) < Number(lines[0]['train/layer']), 'the layers come nearer');
  const teacher = realpathSync(path('runs', 'train', 'checkpoint-7'));
  assert.match(config('distill'), `\nteacher: ${teacher}\n`, 'a path that holds in any folder');
});

hybrid('a killed distillation goes on to the same numbers, its layers and teacher stay', async () => {
  killedAfter('distill', 'distill-killed', 2);
  const resume = 'distill --resume runs/distill-killed';
  await refusedResume('distill-killed', `${resume} --layers 0`, /--layers: the run .* has 1, got 0.*begin a new run/);
  await ok('init runs/train other --layers 0');
  await refusedResume('distill-killed', `${resume} --teacher other`, /--teacher: the run .*checkpoint-7, got other/);
  await ok(`${resume} --teacher runs/train`);
  assert.equal(log('distill-killed'), log('distill'));
  sameFile('distill', 'distill-killed', 'checkpoint-4/optimizer.safetensors');
});

hybrid('attention is a better start than chance', async () => {
  const flags = `distill --teacher runs/train ${MICRO_FLAGS} --steps 1 --warmup 0 --layers 1`;
  await ok(`${flags} --init random --name chance`);
  await ok(`${flags} --eval-every 1 --eval-images 1 --name attention`);
  for (const model of ['teacher', 'attention']) assert.match(report('attention'), `data-of="${model}"`, 'answers of both');
  assert.ok(Number(log('attention')[1]['train/layer']) < Number(log('chance')[0]['train/layer']));
});

const use = suite('eval, generate, info, start');

use('eval counts by kind, and tells every answer', async () => {
  const { stdout } = await ok('eval runs/distill --images 3 --backend wasm --json --out answers.json');
  const { total, correct, byKind } = JSON.parse(stdout) as { total: number; correct: number; byKind: object };
  assert.equal([total, Object.keys(byKind)], [60, ['non-relational', 'relational']]);
  const { samples } = JSON.parse(read('answers.json')) as { samples: { answer: string; predicted: string }[] };
  assert.is(samples.length, 60);
  assert.is(samples.filter(({ answer, predicted }) => answer === predicted).length, correct);
  assert.match((await ok('eval runs/distill --images 2 --backend wasm')).stdout, /relational +\d+\.\d % +20/);
});

use('generate answers, the same for the same seed, and tells what it cost', async () => {
  write('scene.png', await encodePng(await new SortOfClevr('test').get(0).image()));
  const asked = ['generate', 'runs/distill', '--image', 'scene.png', '--prompt', 'what shape is the red object?'];
  const ask = (flags: string) => ok([...asked, '--backend', 'wasm', ...flags.split(' ')]);
  const sampled = '--temperature 2 --top-k 20 --top-p 0.95 --repetition-penalty 1.1 --max-new-tokens 9 --json --seed';
  const said = async (seed: number) =>
    JSON.parse((await ask(`${sampled} ${seed}`)).stdout) as { answer: string; usage: { promptTokens: number } };
  const { answer, usage } = await said(1);
  assert.is((await said(1)).answer, answer);
  assert.is.not((await said(2)).answer, answer);
  // "user :", four image tokens, and "what shape is the red object ? assistant :".
  assert.is(usage.promptTokens, 15);
  assert.match((await ask('--max-new-tokens 3')).stderr, /15 \+ \d tokens, the first after \d+ ms/);
});

use('info compares the cache with that of attention alone', async () => {
  const { cache } = JSON.parse((await ok('info runs/distill --json --context 100')).stdout) as { cache: unknown };
  // Keys and values of one layer, and a mixer's three columns of 48 channels and two states of 8 × 8.
  assert.equal(cache, [{ length: 100, bytes: 4 * (2 * 16 * 100 + 3 * 48 + 2 * 64), attention: 4 * 2 * 2 * 16 * 100 }]);
});

use('start distils, compares and reports', async () => {
  const recipe = 'layers: [1]\nsteps: 4\nimages: 8\nbatch: 2\naccumulate: 1\nwarmup: 1\nlr: 0.001\n';
  write('start.yaml', `${recipe}eval-every: 2\neval-images: 1\n`);
  const { stdout } = await ok('start --teacher runs/train --recipe start.yaml --test-images 2 --no-serve --backend wasm');
  assert.match(stdout, /questions +teacher +student, undistilled +student +asked/);
  assert.equal(steps('start'), [0, 0, 1, 2, 2, 3, 4, 4, 4]);
  assert.equal(steps('start', 'random-init'), [0, 1, 2, 2, 3, 4, 4]);
  const [own, random] = [['start'], ['start', 'random-init']].map((run) => log(...run).filter((line) => 'eval/kl' in line));
  for (const run of [own, random]) {
    const asked = run.map((line) => [line.step, line['eval/questions'], line['eval/images']]);
    assert.equal(asked, [0, 2, 4].map((step) => [step, 20, 1]));
  }
  assert.is.not(own[0]['eval/kl'], random[0]['eval/kl'], 'they begin apart');
  assert.equal(log('start').map((line) => line['test/questions'] ?? 0), [40, 0, 0, 0, 0, 0, 0, 40, 0]);
  assert.match(read('runs', 'start', 'checkpoint-4', 'README.md'), /Accuracy, relational: \d+\.\d %/);
  const parts = ['from attention', 'from random', 'Relation network', 'data:image/png', /0\.1\.0(, commit \w{40})?/];
  for (const part of [...parts, 'the same 20 questions about the same image ']) assert.match(report('start'), part);
});

use('serve serves the models until Ctrl-C', async () => {
  let shown = '';
  let listed: { models: { name: string; role: string }[] } | null = null;
  await ok('serve runs/train runs/distill --port 0', {
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
  const models = listed!.models.map(({ name, role }) => [name, role]);
  assert.equal(models, [['runs/train', 'teacher'], ['runs/distill', 'student']]);
});

for (const tests of [train, hybrid, use]) tests.run();
