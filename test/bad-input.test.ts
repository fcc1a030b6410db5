// Bad input to the command line: exit code ≠ 0, one line that names the thing, no stack, nothing half-written.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { writeSafetensors } from '../models/matvlm/app/store/index.ts';
import { latestCheckpoint, verifyCheckpoint } from '../models/matvlm/app/store/checkpoints.ts';
import { acquireLock } from '../models/matvlm/app/store/lock.ts';
import { Checkpoint, type SafeTensor } from '../engine/safetensors/index.ts';
import { diskFolder } from '../engine/node/source.ts';
import { encodePng } from '../models/matvlm/app/node/encode-png.ts';
import { cli, type CliOptions, type Ended, MICRO_FLAGS, workFolder } from './support/cli.ts';

const cwd = workFolder();
const path = (...parts: string[]) => join(cwd, ...parts);
const run = (args: readonly string[] | string, options: Partial<CliOptions> = {}) =>
  cli(typeof args === 'string' ? args.split(' ') : args, { cwd, ...options });

/** Runs a command that must be refused with one line that matches `says`. */
async function refused(
  args: readonly string[] | string,
  says: RegExp,
  code = 1,
  options: Partial<CliOptions> = {},
): Promise<Ended> {
  const ended = await run(args, options);
  const what = `matvlm ${String(args)}: exit code ${ended.code}\n${ended.stderr}`;
  assert.is(ended.code, code, what);
  const errors = ended.stderr.split('\n').filter((line) => line.startsWith('error: '));
  assert.is(errors.length, 1, what);
  assert.match(errors[0], says);
  assert.is(ended.stderr.trimEnd().split('\n').at(-1), errors[0], 'the error is the last line');
  assert.not.match(ended.stderr, /^\s+at .*\.js/m, 'no stack');
  assert.not.match(ended.stderr, 'fault of matvlm', 'it is told as the mistake that it is');
  return ended;
}

const ASK = ['--prompt', 'what shape is the red object?', '--backend', 'wasm'];
const ask = (model: string) => ['generate', model, ...ASK];

const usage = suite('usage');

usage('flags and files: what, where, and what was meant', async () => {
  await refused('trian', /unknown command "trian"; did you mean "train"/, 2);
  await refused('train --stepz 3', /unknown option --stepz; did you mean --steps\?/, 2);
  await refused('train --steps 1.5', /--steps: expected a whole number from 1, got 1.5/, 2);
  await refused('train --lr fast', /--lr: expected a number above 0, got "fast"/, 2);
  await refused('generate', /missing required argument 'model'/, 2);
  await refused('train --backend webgl', /--backend: expected webgpu, wasm, reference.*got "webgl"/, 2);
  writeFileSync(path('typo.yaml'), 'lr: 0.1\n\nweight_decai: 3\n');
  await refused('train -c typo.yaml', /typo.yaml:3: unknown key "weight_decai"; did you mean "weight-decay"/, 2);
  writeFileSync(path('value.yaml'), 'lr: 0.1\nbatch: many\n');
  await refused('train -c value.yaml', /value.yaml:2: batch: expected a whole number from 1, got "many"/, 2);
  writeFileSync(path('twice.yaml'), 'lr: 0.1\nlr: 0.2\n');
  await refused('train -c twice.yaml', /twice.yaml:2: "lr" is given twice/, 2);
  writeFileSync(path('broken.yaml'), 'lr: [0.1\n');
  await refused('train -c broken.yaml', /broken.yaml:\d+: /, 2);
  await refused('train -c nowhere.yaml', /no file nowhere.yaml/, 2);
  await refused('train --name ../up', /--name: run name "..\/up"/, 2);
  await refused('train --name ../up --dry-run', /--name: run name "..\/up"/, 2);
  await refused('train --data clevr', /"clevr" is no data set; known are sort-of-clevr/);
  await refused('train --data easy-vqa=nowhere', /nowhere.*cannot be read/);
  await refused('train --steps 10 --warmup 10', /warmup of 10 steps does not fit a run of 10/);
  await refused('train --images 3 --batch 4', /3 images, a batch takes 4/);
  await refused('train --resume', /no run with a checkpoint to resume/);
  await refused('distill --kl-weight 0 --layer-weight 0', /there is no loss/, 2);
});

usage('YAML: aliases stand for their values, a bomb of them and a second document are refused', async () => {
  writeFileSync(path('alias.yaml'), 'images: 8\nbatch: &n 3\nsteps: *n\n');
  const dry = await run('train -c alias.yaml --model micro.json --backend wasm --dry-run');
  assert.is(dry.code, 0, dry.stderr);
  assert.match(dry.stdout, /steps +3 of 3 images/);
  const levels = Array.from({ length: 9 }, (_, i) => `&l${i + 1} [${Array(9).fill(`*l${i}`).join(', ')}]`);
  writeFileSync(path('bomb.yaml'), `data: [&l0 [x], ${levels.join(', ')}]\n`);
  await refused('train -c bomb.yaml', /bomb.yaml:1: data: expected a value or a list of values/, 2);
  writeFileSync(path('two.yaml'), 'batch: 2\n---\nbatch: 3\n');
  const { stderr } = await refused('train -c two.yaml', /two.yaml:2: a second document begins; expected one/, 2);
  assert.not.match(stderr, 'parseAllDocuments');
});

const folders = suite('checkpoint folders');

folders.before(async () => {
  const made = await run(['train', '--model', 'micro.json', ...MICRO_FLAGS, '--steps', '2', '--name', 'good']);
  assert.is(made.code, 0, made.stderr);
  cpSync(path('runs', 'good', 'checkpoint-2'), path('good'), { recursive: true });
});

/** A copy of the good folder, changed. */
function spoilt(name: string, change: (folder: string) => void): string {
  cpSync(path('good'), path(name), { recursive: true });
  change(path(name));
  return name;
}

/** Sets one field, such as `text_config.vocab_size`, of a JSON file. */
function setField(file: string, field: string, value: unknown): (folder: string) => void {
  return (folder) => {
    const json = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Record<string, unknown>;
    const [last, ...parents] = field.split('.').reverse();
    const target = parents.reverse().reduce((object, key) => object[key] as Record<string, unknown>, json);
    target[last] = value;
    writeFileSync(join(folder, file), JSON.stringify(json));
  };
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

/** A safetensors file with any header at all. */
function header(json: string, data = 8): Uint8Array {
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(new TextEncoder().encode(json), 8);
  return bytes;
}

folders('missing, a file, empty', async () => {
  await refused(ask('nowhere'), /nowhere: there is no such folder/);
  await refused(ask('micro.json'), /micro.json: is a file, expected the folder of a model/);
  mkdirSync(path('empty'));
  await refused('info empty', /empty: no config.json/);
  await refused('info', /missing required argument/, 2);
  await refused(ask('/dev/zero'), /\/dev\/zero: is a file, expected the folder of a model/);
});

folders('devices and pipes where files belong', async () => {
  const device = /cannot read .*: it is a device or pipe, expected a file/;
  await refused(`train --model /dev/zero ${MICRO_FLAGS.join(' ')}`, device);
  for (const file of ['config.json', 'tokenizer.json']) {
    const name = spoilt(`device-${file}`, (folder) => {
      rmSync(join(folder, file));
      symlinkSync('/dev/zero', join(folder, file));
    });
    await refused(ask(name), device);
    if (file === 'tokenizer.json') await refused(`train --tokenizer ${name} ${MICRO_FLAGS.join(' ')}`, device);
  }
});

folders('weights that are cut off or hostile', async () => {
  const tensor = (fields: string) => `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}${fields}}`;
  const cases: [RegExp, Uint8Array][] = [
    [/at least 10/, new Uint8Array(3)],
    [/header of \d+ bytes, expected at most/, new Uint8Array(64).fill(0x7f)],
    [
      /overlap|contiguous|expected 8|begins? at/i,
      header(tensor(',"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}'), 12),
    ],
    [/twice|duplicate/i, header(tensor(',"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'))],
    [/F33/, header('{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}')],
    [/shape|span|bytes/, header(`{"a":{"dtype":"F32","shape":[${2 ** 50},1024],"data_offsets":[0,8]}}`)],
    [/past|end|bytes/, header('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}')],
  ];
  for (const [i, [says, bytes]] of cases.entries()) {
    const name = spoilt(`hostile-${i}`, (folder) => writeFileSync(join(folder, 'model.safetensors'), bytes));
    const { stderr } = await refused(`info ${name}`, says);
    assert.match(stderr, `${name}/model.safetensors`);
  }
  const cut = spoilt('cut', (folder) => truncateSync(join(folder, 'model.safetensors'), 20_000));
  await refused(ask(cut), /cut\/model.safetensors: /);
});

folders('keys and shapes that do not fit the configuration', async () => {
  const fc1 = 'language_model.model.layers.1.mlp.fc1.weight';
  const missing = await reweighted('missing', (t) => (t.name === fc1 ? null : t));
  await refused(ask(missing), /missing: missing "language_model.model.layers.1.mlp.fc1.weight"/);
  const more = await reweighted('more', (t) => (t.name === fc1 ? { ...t, name: `${fc1}s` } : t));
  await refused(ask(more), /missing "language_model.model.layers.1.mlp.fc1.weight"/);
  const cases: [string, unknown, RegExp][] = [
    ['text_config.num_hidden_layers', 1, /unexpected "language_model.model.layers.1\./],
    ['text_config.vocab_size', 99, /vocab_size 99/],
    ['text_config.num_hidden_layers', 1e9, /text_config.num_hidden_layers/],
    ['text_config.num_attention_heads', 3, /hidden_size 16 is not a multiple of num_attention_heads 3/],
    ['vision_config.patch_size', 17, /patch_size 17 is larger than image_size 16/],
    ['conv_version', 'llama', /conv_version "llama".*phi, short/],
  ];
  for (const [i, [field, value, says]] of cases.entries()) {
    await refused(ask(spoilt(`field-${i}`, setField('config.json', field, value))), says);
  }
});

folders('a key of the configuration misspelt', async () => {
  const misspell = (folder: string) => {
    const file = join(folder, 'config.json');
    writeFileSync(file, readFileSync(file, 'utf8').replace('"partial_rotary_factor"', '"partial_rotary_facter"'));
  };
  const says = /unknown key "text_config.partial_rotary_facter"; did you mean "partial_rotary_factor"/;
  await refused(ask(spoilt('misspelt', misspell)), says);
});

folders('a weight that is not finite', async () => {
  const name = 'language_model.lm_head.bias';
  const data = () => Float32Array.from({ length: 70 }, (_, i) => (i === 3 ? NaN : 0));
  const broken = await reweighted('nan', (t) => (t.name === name ? { ...t, data } : t));
  await refused(ask(broken), /nan: "language_model.lm_head.bias" holds NaN at element 3/);
});

folders('a configuration that the tokenizer does not fit leaves no run', async () => {
  writeFileSync(
    path('poor.json'),
    readFileSync(path('micro.json'), 'utf8').replace('"vocab_size":70', '"vocab_size":7'),
  );
  await refused(['train', '--model', 'poor.json', ...MICRO_FLAGS, '--name', 'poor'], /70 ids.* 7 rows/);
  assert.not(existsSync(path('runs', 'poor')));
});

folders('a tokenizer of an unknown type, or none', async () => {
  await refused(ask(spoilt('magic', setField('tokenizer.json', 'model.type', 'Magic'))), /tokenizer.json.*Magic/);
  await refused(ask(spoilt('mute', (folder) => rmSync(join(folder, 'tokenizer.json')))), /mute: no tokenizer.json/);
});

folders('a teacher that a student does not fit', async () => {
  assert.is((await run('init good student --layers 1')).code, 0);
  await refused('init good student --layers 1', /student exists already/);
  await refused('init student again', /is a student already/);
  await refused('init good again --layers 2', /2 is no layer of a decoder with 2 layers/);
  assert.not(existsSync(path('again')));
  const other = await reweighted('other', (t, data) => ({ ...t, data: data.map((x) => x + 1) }));
  const flags = ['--student', 'student', ...MICRO_FLAGS, '--accumulate', '1', '--steps', '1'];
  await refused(['distill', '--teacher', other, ...flags], /is not the teacher's/);
  await refused(['distill', '--teacher', 'good', '--student', 'good', ...MICRO_FLAGS], /it is no student/, 2);
});

folders('settings that cannot work leave no run, and a dry run tells them too', async () => {
  const flags = `distill --teacher good --layers 1 ${MICRO_FLAGS.join(' ')} --steps 4 --name unfit`;
  await refused(`${flags} --warmup 10 --dry-run`, /warmup of 10 steps does not fit a run of 4/);
  await refused(`${flags} --warmup 10`, /warmup of 10 steps does not fit a run of 4/);
  assert.not(existsSync(path('runs', 'unfit')));
});

folders('no model: not served', async () => {
  mkdirSync(path('hollow'), { recursive: true });
  const { stdout } = await refused('serve hollow --port 0', /hollow.*config.json/);
  assert.is(stdout, '');
  const bare = spoilt('bare', (folder) => rmSync(join(folder, 'tokenizer.json')));
  await refused(`serve good ${bare} --port 0`, /tokenizer.json/);
  const cut = spoilt('cut', (folder) => truncateSync(join(folder, 'model.safetensors'), 2000));
  await refused(`serve ${cut} --port 0`, /cut.model.safetensors/);
});

const prompts = suite('images and prompts');

prompts('images that are none', async () => {
  const png = await encodePng({ width: 8, height: 8, data: new Uint8Array(192) });
  const sized = (width: number, height: number): Uint8Array => {
    const bytes = Uint8Array.from(png);
    new DataView(bytes.buffer).setUint32(16, width);
    new DataView(bytes.buffer).setUint32(20, height);
    return bytes;
  };
  const cases: [string, Uint8Array | string, RegExp][] = [
    ['text.png', 'no image at all', /text.png: .*no PNG, JPEG, GIF, WebP or AVIF/],
    ['empty.png', '', /empty.png: .*empty; give an image in PNG, JPEG, GIF, WebP or AVIF/],
    ['none.png', sized(0, 0), /none.png: .*0×0/],
    ['wide.png', sized(30_000, 8), /wide.png: .*30000×8/],
    ['cut.png', png.slice(0, 60), /cut.png: .*truncated or damaged/],
    ['drawing.svg', '<svg xmlns="http://www.w3.org/2000/svg"/>', /drawing.svg: .*no PNG/],
  ];
  for (const [name, content, says] of cases) {
    writeFileSync(path(name), content);
    await refused([...ask('good'), '--image', name], says);
  }
  await refused([...ask('good'), '--image', 'nowhere.png'], /cannot read nowhere.png: there is no such file: check the path/);
  await refused([...ask('good'), '--image', 'good'], /cannot read good: it is a folder, expected a file/);
  await refused([...ask('good'), '--image', '/dev/zero'], /cannot read \/dev\/zero: it is a device or pipe/);
  writeFileSync(path('huge.png'), png);
  truncateSync(path('huge.png'), 3e8);
  await refused([...ask('good'), '--image', 'huge.png'], /huge.png: 300 MB, expected .* at most 200 MB/);
});

prompts('questions that cannot be asked', async () => {
  const question = (text: string) => ['generate', 'good', '--backend', 'wasm', '--prompt', text];
  await refused(question('red '.repeat(100)), /the prompt has \d+ positions, the model's context 64/);
  await refused(question('red'.repeat(40_000)), /characters/);
  await refused(question(' '), /question is empty/);
  await refused(question('what is <image>?'), /<image>/);
  await refused(question('say <|endoftext|>'), /endoftext/);
  await refused('generate good', /--prompt is missing/, 2);
  await refused([...ask('good'), '--temperature', '-1'], /--temperature: expected a number from 0 to 100/, 2);
  await refused([...ask('good'), '--temperature', 'NaN'], /--temperature/, 2);
  await refused([...ask('good'), '--top-p', '0'], /--top-p: expected a number above 0 to 1/, 2);
});

usage('numbers that are not finite, decay rates of 1, empty items', async () => {
  await refused('train --lr 1e400', /--lr: expected a number above 0, got Infinity$/, 2);
  await refused('train --eps Infinity', /--eps: expected a number above 0, got Infinity$/, 2);
  await refused('train --betas 1,1', /--betas: expected .* from 0 and below 1, got \[1,1\]$/, 2);
  writeFileSync(path('inf.yaml'), 'temperature: .inf\n');
  await refused('distill -c inf.yaml', /inf.yaml:1: temperature: expected a number .*, got Infinity$/, 2);
  const penalty = /--repetition-penalty: expected a number from 0.01 to 100, got 0.001$/;
  await refused([...ask('good'), '--repetition-penalty', '0.001'], penalty, 2);
  await refused('train --data ,', /--data: expected a list of texts, none of them empty, got \["",""\]$/, 2);
});

const numbers = suite('numbers that are not finite');

numbers('a teacher that overflows: steps are skipped, then the run stops', async () => {
  const sick = 'language_model.model.layers.1.mlp.fc1.weight';
  const teacher = await reweighted('sick', (t, data) => (t.name === sick ? { ...t, data: data.fill(3e38) } : t));
  const flags = [...MICRO_FLAGS, '--accumulate', '1', '--max-skipped', '3', '--steps', '9'];
  await refused(
    ['distill', '--teacher', teacher, ...flags, '--name', 'sick-run'],
    /step 3: the loss is NaN, 3 steps in a row/,
  );
  const lines = readFileSync(path('runs', 'sick-run', 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n');
  assert.ok(lines.slice(0, 3).every((line) => (JSON.parse(line) as { skipped: boolean }).skipped));
  assert.equal(checkpoints('sick-run'), []);
  await refused(ask('sick'), /logit of token 0 is NaN/);
});

numbers('a run that skipped all of its steps has no result', async () => {
  const flags = [...MICRO_FLAGS, '--accumulate', '1', '--steps', '4', '--save-every', '2', '--name', 'idle'];
  await refused(['distill', '--teacher', 'sick', ...flags], /all 4 steps were skipped.*nothing was saved/);
  assert.equal(checkpoints('idle'), []);
});

numbers('a rate that blows up: the last good checkpoint stays', async () => {
  const flags = [...MICRO_FLAGS, '--steps', '60', '--save-every', '2', '--warmup', '50', '--clip', '0'];
  const args = ['train', '--model', 'micro.json', ...flags, '--lr', '1e38', '--max-skipped', '4', '--name', 'blown'];
  await refused(args, /is not finite|the loss is|holds (NaN|-?Infinity)/);
  const latest = await latestCheckpoint(path('runs', 'blown'));
  const weights = await Checkpoint.open(diskFolder(latest!.path));
  for (const key of weights.keys()) assert.ok((await weights.readAs(key, 'f32')).every(Number.isFinite), key);
  await weights.close();
});

function checkpoints(name: string): string[] {
  return readdirSync(path('runs', name)).filter((entry) => entry.includes('checkpoint'));
}

const system = suite('the operating system refuses');

/** Code that makes the system calls of a process fail: `when` sees the bytes written so far. */
const failing = (method: string, code: string, when: string): string => `
import fs, { open } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
const handle = await open(process.execPath, 'r');
const target = ${method === 'write' ? 'Object.getPrototypeOf(handle)' : 'fs'};
await handle.close();
const call = target.${method};
let written = 0;
target.${method} = function (...args) {
  written += args[0].byteLength ?? 0;
  if (!(${when})) return call.apply(this, args);
  return Promise.reject(Object.assign(new Error('injected'), { code: '${code}' }));
};
syncBuiltinESMExports();`;

system('a full disk: the checkpoint before stays whole, and the run goes on from it', async () => {
  const flags = [...MICRO_FLAGS, '--steps', '6', '--save-every', '2', '--warmup', '1'];
  const args = ['train', '--model', 'micro.json', ...flags];
  // One checkpoint with its optimiser takes some 180 kB.
  const preload = failing('write', 'ENOSPC', 'written > 250_000');
  await refused([...args, '--name', 'full'], /checkpoint-4.*the disk is full.*ENOSPC/, 1, { preload });
  assert.equal(checkpoints('full'), ['checkpoint-2']);
  await verifyCheckpoint(path('runs', 'full', 'checkpoint-2'));
  assert.is((await run('train --resume runs/full')).code, 0);
  assert.is((await run([...args, '--name', 'roomy'])).code, 0);
  const model = (name: string) => readFileSync(path('runs', name, 'checkpoint-6', 'model.safetensors'));
  assert.ok(model('full').equals(model('roomy')));
});

system('a read-only folder, a folder that is a file', async () => {
  const preload = failing('mkdir', 'EROFS', 'true');
  const args = ['train', '--model', 'micro.json', ...MICRO_FLAGS, '--steps', '1'];
  await refused(args, /cannot create runs.train\S*: the file system is read-only.*EROFS/, 1, { preload });
  const absent = [...args, '--runs', 'absent/runs'];
  await refused(absent, /cannot create absent.runs: the file system is read-only.*EROFS/, 1, { preload });
  await refused([...args, '--runs', 'micro.json/runs'], /cannot create micro.json\/runs: .*ENOTDIR/);
  await refused([...args, '--runs', 'micro.json'], /cannot create micro.json: .*is a file, expected a folder/);
  await refused('init good micro.json/student', /micro.json\/student/);
  await refused(['eval', 'good', '--images', '1', '--backend', 'wasm', '--out', 'micro.json/x'], /micro.json\/x/);
  for (const out of ['nowhere/x.json', 'runs']) {
    const { stderr } = await refused(['eval', 'good', '--backend', 'wasm', '--out', out], new RegExp(`cannot write ${out}`));
    assert.is(stderr.trim().split('\n').length, 1, 'refused before the work');
  }
});

system('a run that another process writes', async () => {
  const args = ['train', '--model', 'micro.json', ...MICRO_FLAGS, '--steps', '2'];
  assert.is((await run([...args, '--name', 'locked'])).code, 0);
  const lock = await acquireLock(path('runs', 'locked'));
  await refused('train --resume runs/locked --steps 3', new RegExp(`process ${process.pid} is writing this run`));
  await lock.release();
});

system('a port in use', async () => {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number };
  await refused(`serve good --port ${port}`, new RegExp(`port ${port} of 127.0.0.1 is in use.*--port`));
  await refused('serve good --port 70000', /--port: expected a whole number from 0 to 65535/, 2);
  server.close();
});

system('no GPU', async () => {
  const none = join(cwd, 'no-driver.json');
  const env = { VK_DRIVER_FILES: none, VK_ICD_FILENAMES: none };
  const { stderr } = await refused(
    ['generate', 'good', '--prompt', 'red?', '--backend', 'webgpu'],
    /no WebGPU adapter/,
    1,
    { env },
  );
  assert.is(stderr.trim().split('\n').length, 1, stderr);
  const train = [
    'train',
    '--model',
    'micro.json',
    '--backend',
    'webgpu',
    '--name',
    'gpu',
    '--batch',
    '2',
    '--steps',
    '1',
  ];
  await refused(train, /no WebGPU adapter/, 1, { env });
  assert.not(existsSync(path('runs', 'gpu')), 'no run folder is left');
  const chosen = await run(['generate', 'good', '--prompt', 'red?', '--max-new-tokens', '1'], { env });
  assert.is(chosen.code, 0);
  assert.match(chosen.stderr, /^backend wasm: .*no WebGPU adapter was found/);
});

system('--debug shows the stack', async () => {
  const { code, stderr } = await run('info nowhere --debug');
  assert.is(code, 1);
  assert.match(stderr, /^error: CheckpointError: nowhere: .* at .*\.js/);
});

for (const tests of [usage, folders, prompts, numbers, system]) tests.run();
