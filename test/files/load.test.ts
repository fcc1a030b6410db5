import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend, BackendKind } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { ArgumentError, CheckpointError, OutOfMemoryError } from '../../engine/errors.ts';
import { ConfigError } from '../../models/nn/errors.ts';
import { type ByteSource, filesFolder, type FolderSource } from '../../engine/safetensors/index.ts';
import { Random } from '../../models/nn/random.ts';
import { decodeStep, prefill } from '../../models/matvlm/generate.ts';
import { loadModel as loadInPage } from '../../models/matvlm/load.ts';
import { evaluate } from '../../models/matvlm/train/evaluate.ts';
import { AdamW } from '../../models/nn/optimiser.ts';
import { createStudent } from '../../models/matvlm/student.ts';
import { loadVlm } from '../../models/matvlm/vlm.ts';
import { disposeModel } from '../../models/matvlm/weights.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { closeBackend, failingAllocations, openBackend } from '../support/backends.ts';
import { type Kind, rejects } from '../support/expect.ts';
import { relativeError } from '../support/golden-types.ts';
import { freshPath } from '../support/folders.ts';
import { withServer } from '../support/http.ts';
import { writeRandomModel } from '../support/model-folder.ts';

const KINDS: BackendKind[] = ['reference', 'wasm', 'webgpu'];
const NAMES = ['config.json', 'mamba_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
const OPTIONS = { betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, clip: 0 } as const;
const SHIPPED = 'models/matvlm/assets/student';
const [student, teacher] = [freshPath(), freshPath()];
await writeRandomModel(student, 1, [1]);
await writeRandomModel(teacher, 1);

/** A model's files, by name; a student's unless told. */
function filesOf(folder = student): Map<string, Uint8Array> {
  const present = NAMES.filter((file) => folder !== teacher || file !== 'mamba_config.json');
  return new Map(present.map((file) => [file, new Uint8Array(readFileSync(join(folder, file)))]));
}

/** The student's files, one of them in other words or left out. */
function edited(file: string, change: ((json: any) => void) | null): FolderSource {
  const files = filesOf();
  if (!change) files.delete(file);
  else {
    const json = JSON.parse(new TextDecoder().decode(files.get(file)));
    change(json);
    files.set(file, new TextEncoder().encode(JSON.stringify(json)));
  }
  return filesFolder('folder', files);
}

const held = ({ memory }: Backend) => [memory.live, memory.buffers];

/** Runs `work` with each of its allocations failing in turn: each time it must say so and leave nothing. */
async function expectNothingLeft(backend: Backend, what: string, work: () => Promise<() => void>): Promise<void> {
  const fail = failingAllocations(backend);
  const before = held(backend);
  (await work())();
  const places = fail();
  assert.ok(places > 5, `${what}: ${places} allocations`);
  for (let n = 1; n <= places; n++) {
    fail(n);
    await rejects(work(), OutOfMemoryError, '', `${what}, allocation ${n}`);
    assert.equal(held(backend), before, `${what}, allocation ${n} of ${places}`);
  }
  fail();
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
      const vlm = await loadVlm(filesFolder('folder', filesOf(teacher)), backend);
      await expectNothingLeft(backend, 'a student', async () => {
        const options = { layers: [0], bias: true, from: 'attention', identityConv: true } as const;
        const student = await createStudent(vlm.model, options, new Random(1));
        return () => disposeModel(student, vlm.model);
      });
      await expectNothingLeft(backend, 'an optimiser', async () => {
        const optimiser = new AdamW(vlm.model.parameters, OPTIONS);
        return () => optimiser.dispose();
      });
      vlm.dispose();
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
  const set = new SortOfClevr('test');
  const one = { ...set.get(0), questions: set.get(0).questions.slice(0, 2) };
  const work: Record<string, () => Promise<unknown>> = {
    'an answer': () => vlm.answer({ image, prompt: 'what shape?', maxNewTokens: 2 }),
    'an evaluation': () => evaluate(vlm, { name: 'one', split: 'test', length: 1, get: () => one }, { maxNewTokens: 2 }),
  };
  for (const [what, done] of Object.entries(work)) await expectNothingLeft(backend, what, () => done().then(() => () => {}));
  vlm.dispose();
  closeBackend(backend);
});

/** Folders that are refused for what can be known without their weights. */
const CHEAP: [file: string, change: ((json: any) => void) | null, kind: Kind, says: RegExp][] = [
  ['config.json', (c) => (c.conv_version = 'vicuna'), ArgumentError, /conv_version "vicuna".*phi, short/],
  [
    'tokenizer.json',
    (t) => t.added_tokens.push({ id: 4000, content: '<more>' }),
    ...[ConfigError, /the tokenizer has \d+ ids, the model's vocabulary \d+ rows/] as const,
  ],
  ['config.json', null, ConfigError, /no config\.json/],
  ['tokenizer.json', null, ConfigError, /no tokenizer\.json/],
  ['model.safetensors', null, CheckpointError, /no weights/],
  ['mamba_config.json', (c) => (c.attn_layers = [1, 2]), CheckpointError, /missing/],
];

for (const [file, change, kind, says] of CHEAP) {
  memory(`nothing is allocated, no backend opened, for ${file}: ${change ?? 'none'}`, async () => {
    const backend = new ReferenceBackend();
    const fail = failingAllocations(backend);
    const { message } = await rejects(loadVlm(edited(file, change), backend), kind, says);
    assert.is(fail(), 0);
    const own = { open: async () => assert.unreachable('was opened') as never, close: () => {} };
    assert.is((await rejects(loadVlm(edited(file, change), own), kind)).message, message);
  });
}

/** A backend for `loadVlm` to open, and how often it was closed. */
function counted(backend: Backend) {
  const own = { open: async () => backend, close: () => void own.closed++, closed: 0 };
  return own;
}

/** A source whose last bytes cannot be read, as of a file that was cut off after it was opened. */
function cut(source: ByteSource, length: number): ByteSource {
  const read = (offset: number, count: number) => {
    if (offset + count < length) return source.read(offset, count);
    return Promise.reject(new CheckpointError(`${source.name}: the file ends here`));
  };
  return { ...source, read };
}

memory('what only the weights tell frees all that was loaded, and closes the backend, as disposing does', async () => {
  const whole = filesFolder('folder', filesOf());
  const { length } = filesOf().get('model.safetensors')!;
  const open = async (file: string) => {
    const source = await whole.open(file);
    return source && file === 'model.safetensors' ? cut(source, length) : source;
  };
  const broken = filesOf();
  broken.get('model.safetensors')!.fill(0xff, -4);
  const folders: [FolderSource, RegExp][] = [
    [filesFolder('folder', broken), /folder: "\S+" holds NaN at element \d+/],
    [{ name: 'folder', open }, /the file ends here/],
  ];
  for (const [folder, says] of folders) {
    const backend = new ReferenceBackend();
    await rejects(loadVlm(folder, backend), CheckpointError, says);
    assert.equal(held(backend), [0, 0], String(says));
    const own = counted(backend);
    await rejects(loadVlm(folder, own), CheckpointError, says);
    assert.is(own.closed, 1);
  }
  const backend = new ReferenceBackend();
  const own = counted(backend);
  const vlm = await loadVlm(whole, own);
  assert.is(own.closed, 0);
  vlm.dispose();
  assert.equal([own.closed, backend.memory.live], [1, 0], 'a model that loaded: when it is disposed of');
});

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
    const error = await rejects(loadVlm(folder, backend, { onProgress, signal: stop.signal }), Error);
    assert.is(error.name, 'AbortError');
    assert.equal(held(backend), [0, 0], `tensor ${at}`);
  }
});

for (const kind of KINDS) {
  memory(`weights stay in the 16 bits of their file, and compute as f32 ones do: ${kind}`, async () => {
    const backend = await openBackend(kind);
    const ids = [5, 9, 3, 7];
    for (const dtype of ['F16', 'BF16'] as const) {
      const path = freshPath();
      await writeRandomModel(path, 2, [1], dtype);
      const load = async (weights: 'stored' | 'f32') => {
        const { live } = backend.memory;
        const vlm = await loadVlm(filesFolder('folder', filesOf(path)), backend, { weights });
        const bytes = backend.memory.live - live;
        const cache = vlm.model.decoder.cache();
        const logits = prefill(vlm.model, ids, null, cache);
        const data = await logits.data();
        const next = decodeStep(vlm.model, [4], cache);
        const both = Float64Array.from([...data, ...(await next.data())]);
        const head = vlm.model.decoder.head.weight;
        if (weights === 'stored') {
          assert.is(head.dtype, dtype.toLowerCase());
          assert.throws(() => new AdamW(new Map([['head', head]]), OPTIONS), /load the model with weights: 'f32'/);
        }
        for (const t of [logits, next]) t.dispose();
        cache.dispose();
        vlm.dispose();
        return { bytes, both };
      };
      const [stored, wide] = [await load('stored'), await load('f32')];
      assert.ok(relativeError(stored.both, wide.both) < 2e-6, `${dtype}: ${relativeError(stored.both, wide.both)}`);
      if (kind !== 'reference') assert.ok(stored.bytes < 0.65 * wide.bytes, `${stored.bytes} of ${wide.bytes} bytes`);
    }
    closeBackend(backend);
  });
}

memory.run();

/** Serves the shipped student and counts. With `ranges` false it sends files whole. */
async function serving(ranges: boolean, test: (url: string) => Promise<void>) {
  const seen = { bytes: 0, most: 0, files: new Map<string, number>() };
  let open = 0;
  await withServer(async (response, request) => {
    const name = request.url!.slice(1);
    seen.most = Math.max(seen.most, ++open);
    response.on('close', () => open--);
    seen.files.set(name, (seen.files.get(name) ?? 0) + 1);
    if (!NAMES.includes(name)) return response.writeHead(404).end();
    const bytes = readFileSync(join(SHIPPED, name));
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!.map(Number);
    const part = ranges ? bytes.subarray(first, last + 1) : bytes;
    seen.bytes += part.length;
    const range = { 'Content-Range': `bytes ${first}-${first + part.length - 1}/${bytes.length}` };
    response.writeHead(ranges ? 206 : 200, { 'Content-Length': part.length, ETag: '"1"', ...(ranges ? range : {}) });
    // Late enough that what is asked for at the same time meets.
    await sleep(20);
    return response.end(part);
  }, (url) => test(`${url}/`));
  return seen;
}

const http = suite('loading over HTTP');
for (const ranges of [true, false]) {
  const how = ranges ? 'in a handful of large ranges, a few at a time' : 'from a server without ranges, each file once';
  http(`a model of 10 MB is loaded ${how}`, async () => {
    const files = filesOf(SHIPPED);
    const seen = await serving(ranges, async (url) => {
      const vlm = await loadInPage(url, { backend: 'wasm' });
      const local = await loadVlm(filesFolder('student', files), new ReferenceBackend());
      for (const [name, tensor] of local.model.parameters) {
        const [here, there] = [await tensor.data(), await vlm.model.parameters.get(name)!.data()];
        assert.is(Buffer.compare(new Uint8Array(here.slice().buffer), new Uint8Array(there.slice().buffer)), 0, name);
      }
      local.dispose();
      vlm.dispose();
    });
    assert.is(seen.bytes, [...files.values()].reduce((sum, { length }) => sum + length, 0), 'each byte once');
    for (const [name, requests] of seen.files) {
      assert.is(requests, ranges && name === 'model.safetensors' ? 3 : 1, name);
    }
    assert.ok(seen.most >= 2 && seen.most <= 6, `${seen.most} at a time`);
  });
}
http.run();
