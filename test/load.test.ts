import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend, BackendKind } from '../engine/backend.ts';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { ArgumentError, CheckpointError, ConfigError, MatvlmError, OutOfMemoryError } from '../engine/errors.ts';
import { Random } from '../engine/random.ts';
import { type ByteSource, filesFolder, type FolderSource } from '../engine/safetensors/index.ts';
import { loadModel as loadInPage } from '../models/matvlm/load.ts';
import { evaluate } from '../models/matvlm/train/evaluate.ts';
import { AdamW } from '../models/nn/optimiser.ts';
import { createStudent } from '../models/matvlm/student.ts';
import { loadVlm } from '../models/matvlm/vlm.ts';
import { disposeModel } from '../models/matvlm/weights.ts';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import { closeBackend, openBackend } from './support/backends.ts';
import { writeRandomModel } from './support/model-folder.ts';
import { smallConfig } from './support/tiny-model.ts';

const KINDS: BackendKind[] = ['reference', 'wasm', 'webgpu'];
const NAMES = ['config.json', 'mamba_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
const root = mkdtempSync(join(tmpdir(), 'matvlm-load-'));
await writeRandomModel(join(root, 'student'), 1, [1], smallConfig());
await writeRandomModel(join(root, 'teacher'), 1, [], smallConfig());

/** A model's files, by name; a student's unless told. */
function filesOf(name = 'student'): Map<string, Uint8Array> {
  const present = NAMES.filter((file) => name === 'student' || file !== 'mamba_config.json');
  return new Map(present.map((file) => [file, new Uint8Array(readFileSync(join(root, name, file)))]));
}

/** The student's files with one of JSON changed. */
function edited(file: string, change: (json: any) => void): FolderSource {
  const files = filesOf();
  const json = JSON.parse(new TextDecoder().decode(files.get(file)));
  change(json);
  return filesFolder('folder', files.set(file, new TextEncoder().encode(JSON.stringify(json))));
}

const failure = (work: Promise<unknown>): Promise<Error> =>
  work.then(
    () => assert.unreachable('was accepted') as never,
    (error: Error) => error,
  );

/** Makes the n-th allocation from now on fail; undone by `n` Infinity. Returns how many there were so far. */
function failing(backend: Backend): (n: number) => number {
  const alloc = backend.alloc.bind(backend);
  let count = 0;
  let at = Infinity;
  backend.alloc = (size, dtype) => {
    if (++count === at) throw new OutOfMemoryError('no room: the test took it');
    return alloc(size, dtype);
  };
  return (n) => {
    const before = count;
    count = 0;
    at = n;
    return before;
  };
}

/** Runs `work` with each of its allocations failing in turn: each time it must say so and leave nothing. */
async function expectNothingLeft(backend: Backend, what: string, work: () => Promise<() => void>): Promise<void> {
  const fail = failing(backend);
  const { live, buffers } = backend.memory;
  (await work())();
  const places = fail(Infinity);
  assert.ok(places > 5, `${what}: ${places} allocations`);
  for (let n = 1; n <= places; n++) {
    fail(n);
    const error = await failure(work());
    assert.instance(error, OutOfMemoryError, `${what}, allocation ${n}: ${error}`);
    assert.equal([backend.memory.live, backend.memory.buffers], [live, buffers], `${what}, allocation ${n} of ${places}`);
  }
  fail(Infinity);
}

const memory = suite('loading: memory');
for (const kind of KINDS) {
  memory(`whichever allocation fails, nothing stays on ${kind}`, async () => {
    const backend = await openBackend(kind);
    try {
      await expectNothingLeft(backend, 'loading', async () => {
        const vlm = await loadVlm(filesFolder('folder', filesOf()), backend);
        return () => vlm.dispose();
      });
      const teacher = await loadVlm(filesFolder('folder', filesOf('teacher')), backend);
      await expectNothingLeft(backend, 'a student', async () => {
        const options = { layers: [0], bias: true, from: 'attention', identityConv: true } as const;
        const student = await createStudent(teacher.model, options, new Random(1));
        return () => disposeModel(student, teacher.model);
      });
      await expectNothingLeft(backend, 'an optimiser', async () => {
        const options = { betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, clip: 0 } as const;
        const optimiser = new AdamW(teacher.model.parameters, options);
        return () => optimiser.dispose();
      });
      teacher.dispose();
      assert.is(backend.memory.live, 0);
    } finally {
      closeBackend(backend);
    }
  });
}

memory('whichever allocation fails while answering, nothing stays', async () => {
  const backend = await openBackend('wasm');
  const vlm = await loadVlm(filesFolder('folder', filesOf()), backend);
  const image = { width: 1, height: 1, data: new Uint8Array(3) };
  await expectNothingLeft(backend, 'an answer', async () => {
    await vlm.answer({ image, prompt: 'what shape?', maxNewTokens: 2 });
    return () => {};
  });
  await expectNothingLeft(backend, 'an evaluation', async () => {
    await evaluate(vlm, { ...shortSet, get: (i) => shortSet.get(i) }, { maxNewTokens: 2 });
    return () => {};
  });
  vlm.dispose();
  closeBackend(backend);
});

/** One image with two questions. */
const full = new SortOfClevr('test');
const shortSet = {
  name: full.name,
  split: full.split,
  length: 1,
  get: (i: number) => ({ ...full.get(i), questions: full.get(i).questions.slice(0, 2) }),
};

/** Folders that are refused for what can be known without their weights. */
const CHEAP: [string, () => FolderSource, new (...args: never[]) => MatvlmError, RegExp][] = [
  ['unknown template', () => edited('config.json', (c) => (c.conv_version = 'vicuna')), ArgumentError, /conv_version/],
  [
    'a tokenizer larger than the vocabulary',
    () => edited('tokenizer.json', (t) => t.added_tokens.push({ id: 4000, content: '<more>' })),
    ConfigError,
    /the tokenizer has \d+ ids, the model's vocabulary \d+ rows/,
  ],
  ['no config', () => without('config.json'), ConfigError, /no config\.json/],
  ['no tokenizer', () => without('tokenizer.json'), ConfigError, /no tokenizer\.json/],
  ['no weights', () => without('model.safetensors'), CheckpointError, /no weights/],
  ['another layer replaced', () => edited('mamba_config.json', (c) => (c.attn_layers = [1, 2])), CheckpointError, /missing/],
];

function without(file: string): FolderSource {
  const files = filesOf();
  files.delete(file);
  return filesFolder('folder', files);
}

for (const [what, folder, kind, message] of CHEAP) {
  memory(`nothing is allocated, no backend opened, for ${what}`, async () => {
    const backend = new ReferenceBackend();
    const fail = failing(backend);
    const error = await failure(loadVlm(folder(), backend));
    assert.instance(error, kind, String(error));
    assert.match(error.message, message);
    assert.is(fail(Infinity), 0);
    const own = { open: async () => assert.unreachable('was opened') as never, close: () => {} };
    assert.is((await failure(loadVlm(folder(), own))).message, error.message);
  });
}

memory('what only the weights tell frees all that was loaded, and the backend', async () => {
  const bytes = filesOf().get('model.safetensors')!;
  const broken = bytes.slice();
  broken.fill(0xff, -4);
  for (const [what, data, message] of [
    ['a weight that is NaN', broken, /holds NaN at element/],
    ['a file that ends', bytes, /the file ends here/],
  ] as const) {
    const folder = filesFolder('folder', filesOf().set('model.safetensors', data));
    const short: FolderSource = { name: 'folder', open: async (file) => cut(await folder.open(file), what, data.length) };
    const backend = new ReferenceBackend();
    const error = await failure(loadVlm(short, backend));
    assert.instance(error, CheckpointError);
    assert.match(error.message, message);
    assert.equal([backend.memory.live, backend.memory.buffers], [0, 0], what);
    const closed: Backend[] = [];
    const own = { open: async () => backend, close: (it: Backend) => void closed.push(it) };
    await failure(loadVlm(short, own));
    assert.equal(closed.length, 1);
  }
});

/** A source that fails at its last bytes, as a file that was cut off after it was opened. */
function cut(source: ByteSource | null, what: string, length: number): ByteSource | null {
  if (!source || what !== 'a file that ends') return source;
  const read = (offset: number, count: number) => {
    if (offset + count < length) return source.read(offset, count);
    return Promise.reject(new CheckpointError(`${source.name}: the file ends here`));
  };
  return { name: source.name, size: () => source.size(), read, close: () => source.close() };
}

memory('an abort at any tensor frees all that was loaded', async () => {
  const backend = new ReferenceBackend();
  let events = 0;
  const folder = filesFolder('folder', filesOf());
  (await loadVlm(folder, backend, { onProgress: () => events++ })).dispose();
  for (let at = 0; at < events; at++) {
    const stop = new AbortController();
    if (at === 0) stop.abort();
    let seen = 0;
    const onProgress = () => void (++seen === at && stop.abort());
    const error = await failure(loadVlm(folder, backend, { onProgress, signal: stop.signal }));
    assert.is(error.name, 'AbortError');
    assert.equal([backend.memory.live, backend.memory.buffers], [0, 0], `tensor ${at}`);
  }
});

memory('a backend that loading opened is closed with the model', async () => {
  const closed: Backend[] = [];
  const own = { open: async () => new ReferenceBackend(), close: (it: Backend) => void closed.push(it) };
  const vlm = await loadVlm(filesFolder('folder', filesOf()), own);
  assert.is(closed.length, 0);
  vlm.dispose();
  assert.equal([closed.length, closed[0].memory.live], [1, 0]);
});
memory.run();

/** Serves the shipped student and counts. With `ranges` false it sends files whole. */
async function serving(ranges: boolean, test: (url: string) => Promise<void>) {
  const seen = { bytes: 0, most: 0, files: new Map<string, number>() };
  let open = 0;
  const server = createServer((request, response: ServerResponse) => {
    const name = request.url!.slice(1);
    seen.most = Math.max(seen.most, ++open);
    response.on('close', () => open--);
    seen.files.set(name, (seen.files.get(name) ?? 0) + 1);
    if (!NAMES.includes(name)) return void response.writeHead(404).end();
    const bytes = readFileSync(join('models/matvlm/assets/student', name));
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!.map(Number);
    const part = ranges ? bytes.subarray(first, last + 1) : bytes;
    seen.bytes += part.length;
    const range = { 'Content-Range': `bytes ${first}-${first + part.length - 1}/${bytes.length}` };
    response.writeHead(ranges ? 206 : 200, { 'Content-Length': part.length, ETag: '"1"', ...(ranges ? range : {}) });
    // Late enough that what is asked for at the same time meets.
    setTimeout(() => response.end(part), 20);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  try {
    await test(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  } finally {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
  return seen;
}

const http = suite('loading over HTTP');
const total = NAMES.reduce((sum, name) => sum + readFileSync(join('models/matvlm/assets/student', name)).length, 0);
for (const ranges of [true, false]) {
  const how = ranges ? 'in a handful of large ranges, a few at a time' : 'from a server without ranges, each file once';
  http(`a model of 10 MB is loaded ${how}`, async () => {
    const seen = await serving(ranges, async (url) => {
      const vlm = await loadInPage(url, { backend: 'wasm' });
      const stored = new Uint8Array(readFileSync('models/matvlm/assets/student/model.safetensors'));
      const local = await loadVlm(filesFolder('student', shipped(stored)), new ReferenceBackend());
      for (const [name, tensor] of local.model.parameters) {
        const same = Buffer.from((await vlm.model.parameters.get(name)!.data()).slice().buffer as ArrayBuffer);
        assert.ok(same.equals(Buffer.from((await tensor.data()).slice().buffer as ArrayBuffer)), name);
      }
      local.dispose();
      vlm.dispose();
    });
    assert.is(seen.bytes, total, 'each byte once');
    for (const [name, requests] of seen.files) {
      assert.is(requests, ranges && name === 'model.safetensors' ? 3 : 1, name);
    }
    assert.ok(seen.most >= 2 && seen.most <= 6, `${seen.most} at a time`);
  });
}

const shipped = (weights: Uint8Array) =>
  new Map(
    NAMES.map((name) => [
      name,
      name === 'model.safetensors' ? weights : new Uint8Array(readFileSync(join('models/matvlm/assets/student', name))),
    ]),
  );
http.after(() => rmSync(root, { recursive: true }));
http.run();
