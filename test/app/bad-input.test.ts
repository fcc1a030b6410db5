// Bad input to the command line: exit code ≠ 0, one line that names the thing, no stack, nothing half-written.
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { diskFolder } from '../../engine/node/source.ts';
import { Checkpoint } from '../../engine/safetensors/index.ts';
import type { SafeTensor } from '../../models/matvlm/app/store/index.ts';
import { writeSafetensors } from '../../models/matvlm/app/store/index.ts';
import { latestCheckpoint, verifyCheckpoint } from '../../models/matvlm/app/store/checkpoints.ts';
import { acquireLock } from '../../models/matvlm/app/store/lock.ts';
import { failing, MICRO_FLAGS, TRAIN, workplace } from '../support/cli.ts';
import { fileOf } from '../support/safetensors-bytes.ts';

const { path, read, write, has, run, ok, refused, log, checkpoints } = workplace();
const ask = (model: string) => ['generate', model, '--prompt', 'what shape is the red object?', '--backend', 'wasm'];

const usage = suite('usage');

const USAGE: readonly (readonly [args: string, says: RegExp, code?: number])[] = [
  ['trian', /unknown command "trian"; did you mean "train"/, 2],
  ['train --stepz 3', /unknown option --stepz; did you mean --steps\?/, 2],
  ['train --lr fast', /--lr: expected a number above 0, got "fast"/, 2],
  ['generate', /missing required argument 'model'/, 2],
  ['generate good', /--prompt is missing/, 2],
  ['train --backend webgl', /--backend: expected webgpu, wasm, reference.*got "webgl"/, 2],
  ['train -c typo.yaml', /typo.yaml:3: unknown key "weight_decai"; did you mean "weight-decay"/, 2],
  ['train -c nowhere.yaml', /no file nowhere.yaml/, 2],
  ['train --name ../up', /--name: run name "..\/up"/, 2],
  ['train --name ../up --dry-run', /--name: run name "..\/up"/, 2],
  ['train --data clevr', /"clevr" is no data set; known are sort-of-clevr/],
  ['train --data easy-vqa=nowhere', /nowhere.*cannot be read/],
  ['train --steps 10 --warmup 10', /warmup of 10 steps does not fit a run of 10/],
  ['train --images 3 --batch 4', /3 images, a batch takes 4/],
  ['train --resume', /no run with a checkpoint to resume/],
  ['distill --kl-weight 0 --layer-weight 0', /there is no loss/, 2],
  ['serve good --port 70000', /--port: expected a whole number from 0 to 65535/, 2],
];
usage('flags and files: what, where, and what was meant', async () => {
  write('typo.yaml', 'lr: 0.1\n\nweight_decai: 3\n');
  for (const [args, says, code] of USAGE) await refused(args, says, code);
});

const folders = suite('checkpoint folders');

folders.before(async () => {
  await ok(`train --model micro.json ${MICRO_FLAGS} --steps 2 --name good`);
  cpSync(path('runs', 'good', 'checkpoint-2'), path('good'), { recursive: true });
});

/** A copy of the good folder, changed. */
function spoilt(name: string, change: (folder: string) => void): string {
  cpSync(path('good'), path(name), { recursive: true });
  change(path(name));
  return name;
}

/** A copy of the good folder whose weights are changed, one tensor at a time; null leaves one out. */
async function reweighted(
  name: string,
  change: (tensor: SafeTensor, data: Float32Array) => SafeTensor | null,
): Promise<string> {
  spoilt(name, () => {});
  const checkpoint = await Checkpoint.open(diskFolder(path('good')));
  const tensors: SafeTensor[] = [];
  for (const key of checkpoint.keys()) {
    const data = await checkpoint.readAs(key, 'f32');
    const changed = change({ name: key, dtype: 'F32', shape: checkpoint.spec(key).shape, data }, data);
    if (changed) tensors.push(changed);
  }
  await checkpoint.close();
  await writeSafetensors(path(name, 'model.safetensors'), tensors);
  return name;
}

folders('missing, a file, empty', async () => {
  mkdirSync(path('empty'));
  await refused(ask('nowhere'), /nowhere: there is no such folder/);
  await refused(ask('micro.json'), /micro.json: is a file, expected the folder of a model/);
  await refused(ask('/dev/zero'), /\/dev\/zero: is a file, expected the folder of a model/);
  await refused('info empty', /empty: no config.json/);
});

folders('devices and pipes where files belong', async () => {
  const device = /cannot read .*: it is a device or pipe, expected a file/;
  await refused(`train --model /dev/zero ${MICRO_FLAGS}`, device);
  for (const file of ['config.json', 'tokenizer.json']) {
    const name = spoilt(`device-${file}`, (folder) => {
      rmSync(join(folder, file));
      symlinkSync('/dev/zero', join(folder, file));
    });
    await refused(ask(name), device);
    if (file === 'tokenizer.json') await refused(`train --tokenizer ${name} ${MICRO_FLAGS}`, device);
  }
});

folders('weights that are hostile, cut off, of other keys or not finite', async () => {
  const twice = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}';
  const hostile = spoilt('hostile', (folder) => writeFileSync(join(folder, 'model.safetensors'), fileOf(twice, 8)));
  await refused(`info ${hostile}`, /hostile\/model.safetensors: .*duplicate/);
  const cut = spoilt('cut', (folder) => truncateSync(join(folder, 'model.safetensors'), 20_000));
  await refused(ask(cut), /cut\/model.safetensors: /);
  await refused(`serve ${cut} --port 0`, /cut.model.safetensors/);
  const fields = { num_hidden_layers: [1, /unexpected "language_model.model.layers.1\./], vocab_size: [99, /vocab_size 99/] };
  for (const [key, [value, says]] of Object.entries(fields)) {
    const other = spoilt(key, (folder) => {
      const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as { text_config: object };
      const text = { ...config.text_config, [key]: value };
      writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, text_config: text }));
    });
    await refused(ask(other), says as RegExp);
  }
  const fc1 = 'language_model.model.layers.1.mlp.fc1.weight';
  const missing = /missing "language_model.model.layers.1.mlp.fc1.weight"/;
  await refused(ask(await reweighted('missing', (t) => (t.name === fc1 ? null : t))), missing);
  await refused(ask(await reweighted('more', (t) => (t.name === fc1 ? { ...t, name: `${fc1}s` } : t))), missing);
  const nan = await reweighted('nan', (t, data) => (t.name === fc1 ? { ...t, data: data.fill(NaN, 3, 4) } : t));
  await refused(ask(nan), /nan: "language_model.model.layers.1.mlp.fc1.weight" holds NaN at element 3/);
});

folders('a configuration that the tokenizer does not fit leaves no run', async () => {
  write('poor.json', read('micro.json').replace('"vocab_size":70', '"vocab_size":7'));
  await refused(`train --model poor.json ${MICRO_FLAGS} --name poor`, /70 ids.* 7 rows/);
  assert.not(has('runs', 'poor'));
});

folders('a teacher that a student does not fit', async () => {
  await ok('init good student --layers 1');
  await refused('init good student --layers 1', /student exists already/);
  await refused('init student again', /is a student already/);
  await refused('init good again --layers 2', /2 is no layer of a decoder with 2 layers/);
  assert.not(has('again'));
  const other = await reweighted('other', (t, data) => ({ ...t, data: data.map((x) => x + 1) }));
  const flags = `${MICRO_FLAGS} --accumulate 1 --steps 1`;
  await refused(`distill --teacher ${other} --student student ${flags}`, /is not the teacher's/);
  await refused(`distill --teacher good --student good ${MICRO_FLAGS}`, /it is no student/, 2);
});

folders('settings that cannot work leave no run, and a dry run tells them too', async () => {
  const flags = `distill --teacher good --layers 1 ${MICRO_FLAGS} --steps 4 --name unfit`;
  await refused(`${flags} --warmup 10 --dry-run`, /warmup of 10 steps does not fit a run of 4/);
  await refused(`${flags} --warmup 10`, /warmup of 10 steps does not fit a run of 4/);
  assert.not(has('runs', 'unfit'));
});

folders('no model: not served', async () => {
  mkdirSync(path('hollow'), { recursive: true });
  const { stdout } = await refused('serve hollow --port 0', /hollow.*config.json/);
  assert.is(stdout, '');
  const bare = spoilt('bare', (folder) => rmSync(join(folder, 'tokenizer.json')));
  await refused(`serve good ${bare} --port 0`, /tokenizer.json/);
});

folders('images that are none, questions that cannot be asked', async () => {
  write('text.png', 'no image at all');
  await refused([...ask('good'), '--image', 'text.png'], /text.png: .*no PNG, JPEG, GIF, WebP or AVIF/);
  await refused([...ask('good'), '--image', 'nowhere.png'], /cannot read nowhere.png: there is no such file: check the path/);
  const question = (text: string) => ['generate', 'good', '--backend', 'wasm', '--prompt', text];
  await refused(question('red '.repeat(100)), /the prompt has \d+ positions, the model's context 64/);
  await refused(question(' '), /question is empty/);
  await refused(question('say <|endoftext|>'), /endoftext/);
});

const numbers = suite('numbers that are not finite');

numbers('a teacher that overflows: steps are skipped, then the run stops', async () => {
  const sick = 'language_model.model.layers.1.mlp.fc1.weight';
  const teacher = await reweighted('sick', (t, data) => (t.name === sick ? { ...t, data: data.fill(3e38) } : t));
  const flags = `${MICRO_FLAGS} --accumulate 1 --max-skipped 3 --steps 9 --name sick-run`;
  await refused(`distill --teacher ${teacher} ${flags}`, /step 3: the loss is NaN, 3 steps in a row/);
  assert.ok(log('sick-run').slice(0, 3).every(({ skipped }) => skipped === true));
  assert.equal(checkpoints('sick-run'), []);
  await refused(ask('sick'), /a logit is not finite/);
});

numbers('a run that skipped all of its steps has no result', async () => {
  const flags = `${MICRO_FLAGS} --accumulate 1 --steps 4 --save-every 2 --name idle`;
  await refused(`distill --teacher sick ${flags}`, /all 4 steps were skipped.*nothing was saved/);
  assert.equal(checkpoints('idle'), []);
});

numbers('a rate that blows up: the last good checkpoint stays', async () => {
  const flags = '--steps 60 --save-every 2 --warmup 50 --clip 0 --lr 1e38 --max-skipped 4 --name blown';
  await refused(`train --model micro.json ${MICRO_FLAGS} ${flags}`, /is not finite|the loss is|holds (NaN|-?Infinity)/);
  const latest = await latestCheckpoint(path('runs', 'blown'));
  const weights = await Checkpoint.open(diskFolder(latest!.path));
  for (const key of weights.keys()) assert.ok((await weights.readAs(key, 'f32')).every(Number.isFinite), key);
  await weights.close();
});

const system = suite('the operating system refuses');

system('a full disk: the checkpoint before stays whole, and the run goes on from it', async () => {
  const train = `${TRAIN} --steps 6 --save-every 2 --name`;
  // One checkpoint with its optimiser takes some 180 kB.
  const preload = failing('write', 'ENOSPC', 'written > 250_000');
  await refused(`${train} full`, /checkpoint-4.*the disk is full.*ENOSPC/, 1, { preload });
  assert.equal(checkpoints('full'), ['checkpoint-2']);
  await verifyCheckpoint(path('runs', 'full', 'checkpoint-2'));
  await ok('train --resume runs/full');
  await ok(`${train} roomy`);
  const model = (name: string) => readFileSync(path('runs', name, 'checkpoint-6', 'model.safetensors'));
  assert.ok(model('full').equals(model('roomy')));
});

system('a read-only folder, a folder that is a file', async () => {
  const preload = failing('mkdir', 'EROFS', 'true');
  const train = `train --model micro.json ${MICRO_FLAGS} --steps 1`;
  await refused(train, /cannot create runs.train\S*: the file system is read-only.*EROFS/, 1, { preload });
  const absent = /cannot create absent.runs: the file system is read-only.*EROFS/;
  await refused(`${train} --runs absent/runs`, absent, 1, { preload });
  await refused(`${train} --runs micro.json/runs`, /cannot create micro.json\/runs: .*ENOTDIR/);
  await refused(`${train} --runs micro.json`, /cannot create micro.json: .*is a file, expected a folder/);
  await refused('init good micro.json/student', /micro.json\/student/);
  await refused('eval good --images 1 --backend wasm --out micro.json/x', /micro.json\/x/);
  for (const out of ['nowhere/x.json', 'runs']) {
    const { stderr } = await refused(`eval good --backend wasm --out ${out}`, new RegExp(`cannot write ${out}`));
    assert.is(stderr.trim().split('\n').length, 1, 'refused before the work');
  }
});

system('a run that another process writes', async () => {
  const lock = await acquireLock(path('runs', 'good'));
  await refused('train --resume runs/good --steps 3', new RegExp(`process ${process.pid} is writing this run`));
  await lock.release();
});

system('a port in use', async () => {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number };
  await refused(`serve good --port ${port}`, new RegExp(`port ${port} of 127.0.0.1 is in use.*--port`));
  server.close();
});

system('no GPU', async () => {
  const none = path('no-driver.json');
  const env = { VK_DRIVER_FILES: none, VK_ICD_FILENAMES: none };
  const { stderr } = await refused('generate good --prompt red? --backend webgpu', /no WebGPU adapter/, 1, { env });
  assert.is(stderr.trim().split('\n').length, 1, stderr);
  const train = 'train --model micro.json --backend webgpu --name gpu --batch 2 --steps 1';
  await refused(train, /no WebGPU adapter/, 1, { env });
  assert.not(has('runs', 'gpu'), 'no run folder is left');
  const chosen = await ok('generate good --prompt red? --max-new-tokens 1', { env });
  assert.match(chosen.stderr, /^backend wasm: .*no WebGPU adapter was found/);
});

system('--debug shows the stack', async () => {
  const { code, stderr } = await run('info nowhere --debug');
  assert.is(code, 1);
  assert.match(stderr, /^error: CheckpointError: nowhere: .* at .*\.js/);
});

for (const tests of [usage, folders, numbers, system]) tests.run();
