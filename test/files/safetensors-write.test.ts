import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, CheckpointError, OutOfMemoryError, SystemError } from '../../engine/errors.ts';
import * as io from '../../engine/node/index.ts';
import * as store from '../../models/matvlm/app/store/index.ts';
import { bytesSource, Checkpoint, SAFE_BITS, spanOf } from '../../engine/safetensors/index.ts';
import type { FolderSource, SafeDType } from '../../engine/safetensors/index.ts';
import { encode, type SafeTensor } from '../../models/matvlm/app/store/encode-safetensors.ts';
import { rejects } from '../support/expect.ts';
import { faultyFiles } from '../support/faulty-files.ts';
import { freshFolder } from '../support/folders.ts';
import { fileOf } from '../support/safetensors-bytes.ts';

async function encoded(tensors: SafeTensor[], metadata?: Record<string, string>): Promise<Checkpoint> {
  const pieces: Uint8Array[] = [];
  for await (const piece of encode(tensors, metadata)) pieces.push(piece.slice());
  return Checkpoint.ofFile(bytesSource('x', Buffer.concat(pieces)));
}

const f32 = (name: string, ...values: number[]): SafeTensor => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  data: () => Float32Array.from(values),
});

const write = suite('safetensors: writing');

write('a file byte by byte', async () => {
  const tensors: SafeTensor[] = [
    { name: 'b', dtype: 'BF16', shape: [1], data: Uint16Array.of(0x3f80) },
    f32('a', 1),
    { name: 'B', dtype: 'F32', shape: [], data: Float32Array.of(2) },
  ];
  const header =
    '{"__metadata__":{"format":"pt"},"B":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' +
    '"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}';
  const data = Buffer.concat([Buffer.from(Float32Array.of(2, 1).buffer), Buffer.from([0x80, 0x3f])]);
  const path = join(freshFolder(), 'x.safetensors');
  await store.writeSafetensors(path, tensors);
  const expected = fileOf(header.padEnd(Math.ceil(header.length / 8) * 8, ' '), data);
  assert.is(Buffer.compare(readFileSync(path), expected), 0);
});

const dtypes = Object.keys(SAFE_BITS) as SafeDType[];
const tensor = fc
  .record({
    name: fc.string({ unit: 'grapheme', maxLength: 12 }).filter((name) => !/^__(proto|metadata)__$/.test(name)),
    dtype: fc.constantFrom(...dtypes),
    shape: fc.array(fc.nat(4), { maxLength: 4 }),
    seed: fc.nat(255),
  })
  .filter(({ dtype, shape }) => Number.isInteger(spanOf(dtype, shape)))
  .map(({ seed, ...spec }) => {
    const data = Uint8Array.from({ length: spanOf(spec.dtype, spec.shape) }, (_, i) => (i * 31 + seed) & 255);
    return { ...spec, data };
  });

write('what is written is read, whatever the names, types and shapes, in one file or shards', async () => {
  const tensors = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 12 });
  const key = fc.string().filter((key) => key !== '__proto__');
  const metadata = fc.dictionary(key, fc.string(), { noNullPrototype: true });
  await fc.assert(
    fc.asyncProperty(tensors, metadata, fc.integer({ min: 1, max: 500 }), async (list, meta, maxShardSize) => {
      const file = await encoded(list, meta);
      assert.equal(Object.fromEntries(file.metadata), meta);
      const folder = freshFolder();
      await store.writeShardedSafetensors(folder, list, { maxShardSize, files: faultyFiles() });
      const weights = await Checkpoint.open(io.diskFolder(folder));
      assert.equal([...weights.keys()].sort(), list.map(({ name }) => name).sort());
      for (const { name, dtype, shape, data } of list) {
        const entry = file.spec(name);
        assert.equal([entry.dtype, entry.shape, entry.begin % Math.ceil(SAFE_BITS[dtype] / 8)], [dtype, shape, 0]);
        assert.is(Buffer.compare(await file.read(name), data), 0, name);
        assert.is(Buffer.compare(await weights.read(name), data), 0, name);
        assert.equal(weights.spec(name).shape, shape);
      }
      await weights.close();
    }),
    { seed: 11, numRuns: 60 },
  );
});

write('shards as transformers lays them out', async () => {
  const folder = freshFolder();
  const list = [f32('a', 1, 2), f32('b', 3), f32('big', ...Array(10).fill(4)), f32('c', 5)];
  const shards = [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`);
  const index = 'model.safetensors.index.json';
  assert.equal(await store.writeShardedSafetensors(folder, list, { maxShardSize: 12 }), [...shards, index]);
  assert.equal(readdirSync(folder).sort(), [...shards, index]);
  assert.equal(JSON.parse(readFileSync(join(folder, index), 'utf8')), {
    metadata: { total_size: 56 },
    weight_map: { a: shards[0], b: shards[0], big: shards[1], c: shards[2] },
  });
  await rejects(store.writeShardedSafetensors(folder, list), ArgumentError, /has model-00001-of-00003/);
  assert.equal(await store.writeShardedSafetensors(folder, list, { stem: 'optimizer' }), ['optimizer.safetensors']);
  await rejects(store.writeShardedSafetensors(folder, list, { maxShardSize: NaN }), ArgumentError, /maxShardSize/);
});

write('pieces of a tensor are pulled one at a time, one tensor after the other', async () => {
  const events: string[] = [];
  const pieces = (name: string): SafeTensor => ({
    ...f32(name, 1, 2, 3),
    data: async function* () {
      for (const value of [1, 2, 3]) {
        events.push(`${name}${value}`);
        yield Float32Array.of(value);
      }
    },
  });
  assert.equal([...(await (await encoded([pieces('q'), pieces('p')])).readAs('q', 'f32'))], [1, 2, 3]);
  assert.equal(events.join(' '), 'p1 p2 p3 q1 q2 q3');
});

write('tensors that are not as declared are refused, and nothing is left', async () => {
  const base = { name: 'w', dtype: 'F32', shape: [2], data: new Uint8Array(8) } as const;
  const rows: [says: RegExp, ...tensors: SafeTensor[]][] = [
    [/"w": 4 bytes of data, expected 8/, { ...base, data: new Float32Array(1) }],
    [/"w": more than 8 bytes/, { ...base, data: new Float32Array(3) }],
    [/Int32Array for F32, expected Float32Array or Uint8Array/, { ...base, data: new Int32Array(2) }],
    [/"w": given twice/, f32('w', 1), f32('w', 2)],
    [/reserved/, f32('__metadata__', 1)],
    [/reserved/, f32('__proto__', 1)],
    [/surrogate/, f32('\ud800', 1)],
    [/unknown dtype "Q4"/, { ...base, dtype: 'Q4' as SafeDType }],
    [/shape \[-1\]/, { ...base, shape: [-1], data: new Uint8Array(0) }],
    [/shape \[1.5\]/, { ...base, shape: [1.5], data: new Uint8Array(6) }],
    [/shape/, { ...base, shape: [2 ** 40, 2 ** 40], data: new Uint8Array(0) }],
  ];
  for (const [says, ...tensors] of rows) {
    const folder = freshFolder();
    await rejects(store.writeSafetensors(join(folder, 'x.safetensors'), tensors), ArgumentError, says);
    assert.equal(readdirSync(folder), [], String(says));
  }
});

write('paths that cannot be read or written are named', async () => {
  const folder = freshFolder();
  const rows: [() => Promise<unknown>, string, RegExp][] = [
    [() => io.fileSource(join(folder, 'none')), 'none', /no such file/],
    [() => io.fileSource(folder), folder, /it is a folder/],
    [() => store.writeSafetensors(join(folder, 'no/x.safetensors'), []), 'no/x.safetensors', /ENOENT/],
    [() => store.writeFileAtomic(folder, 'x'), folder, /EISDIR|folder/],
  ];
  for (const [work, path, says] of rows) assert.ok((await rejects(work(), SystemError, says)).message.includes(path));
  await rejects(Checkpoint.open(io.diskFolder(join(folder, 'none'))), CheckpointError, /no weights/);
});

const bounds = suite('safetensors: memory');
const MB = 2 ** 20;

/** Opens a path in a process of its own: what came of it, and the memory it needed above a bare one. */
function inChild(path: string): { answer: string; bytes: number } {
  const env = { ...process.env, MATVLM_TEST_CHILD: path };
  const run = spawnSync(process.execPath, [fileURLToPath(import.meta.url)], { env, encoding: 'utf8' });
  assert.is(run.status, 0, run.stderr);
  return JSON.parse(run.stdout) as ReturnType<typeof inChild>;
}

bounds('of a folder of 6 GB the headers are read, and one tensor alone', async () => {
  const map: Record<string, string> = {};
  const folder = freshFolder();
  let headers = 0;
  for (const shard of ['1.safetensors', '2.safetensors', '3.safetensors']) {
    const fields = Array.from({ length: 500 }, (_, i) => {
      map[`${shard}.${i}.weight`] = shard;
      const entry = { dtype: 'F32', shape: [1000, 1000], data_offsets: [i * 4e6, (i + 1) * 4e6] };
      return `"${shard}.${i}.weight":${JSON.stringify(entry)}`;
    });
    headers += sparse(join(folder, shard), `{${fields}}`, 500 * 4e6) - 500 * 4e6;
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
  const { answer, bytes } = inChild(folder);
  const [, read] = /^1500 tensors, 1000000 zeros, (\d+) bytes read$/.exec(answer)!.map(Number);
  assert.ok(read < 4e6 + headers + 2 * JSON.stringify(map).length, `${read} bytes read`);
  assert.ok(bytes < 100 * MB, `${bytes / MB} MB`);
});

const keys = (count: number, key: (i: number) => string) => Array.from({ length: count }, (_, i) => key(i)).join();

const EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';

/** Headers of about 20 MB that would grow in memory if they were parsed before they were judged. */
const LARGE: [string, () => string, RegExp][] = [
  ['one string', () => `{"__metadata__":{"x":"${'y'.repeat(20e6)}"}}`, /bytes of text/],
  ['many long strings', () => `{"__metadata__":{${keys(20, (i) => `"${i}":"${'y'.repeat(1e6)}"`)}}}`, /bytes of text/],
  ['many short keys', () => `{"__metadata__":{${keys(2e6, (i) => `"${i}":""`)}}}`, /more than 100001 keys/],
  ['many tensors', () => `{${keys(4e5, (i) => `"${i}":${EMPTY}`)}}`, /more than 100000 tensors/],
  ['a long shape', () => `{"a":{"shape":[${'1,'.repeat(10e6)}1]}}`, /more than 32 items/],
  ['a long number', () => `{"a":{"shape":[${'1'.repeat(20e6)}]}}`, /2\^53/],
  ['deep nesting', () => '{"a":'.repeat(4e6), /unknown field/],
  ['white space', () => `{${' '.repeat(20e6)}`, /found the end/],
];
for (const [kind, header, expect] of LARGE) {
  bounds(`a large header is judged within its size + 50 MB: ${kind}`, () => {
    const path = join(freshFolder(), 'x.safetensors');
    const size = sparse(path, header(), 0);
    const { answer, bytes } = inChild(path);
    assert.match(answer, expect);
    assert.ok(bytes < size + 50 * MB, `${bytes / MB} MB for a file of ${size / MB} MB`);
    rmSync(path);
  });
}

bounds('a tensor too large for one array is an error of memory that names it', async () => {
  const size = 2 ** 45;
  const bytes = fileOf(JSON.stringify({ huge: { dtype: 'U8', shape: [size], data_offsets: [0, size] } }), 0);
  const source = { ...bytesSource('x', bytes), size: async () => bytes.length + size };
  source.read = async (offset, length) =>
    offset < bytes.length ? bytes.subarray(offset, offset + length) : new Uint8Array(length);
  await rejects((await Checkpoint.ofFile(source)).read('huge'), OutOfMemoryError, /"huge"/);
});

/** Writes a file with this header and so many bytes of zeros that take no room on the disk: its size. */
function sparse(path: string, header: string, data: number): number {
  const bytes = fileOf(header, 0);
  writeFileSync(path, bytes);
  truncateSync(path, bytes.length + data);
  return bytes.length + data;
}

async function child(path: string): Promise<void> {
  const peak = () => process.resourceUsage().maxRSS * 1024;
  const before = peak();
  const answer = await (path.endsWith('.safetensors') ? openFile(path) : openFolder(path));
  process.stdout.write(JSON.stringify({ answer, bytes: peak() - before }));
}

async function openFile(path: string): Promise<string> {
  return (await rejects(io.fileSource(path).then((source) => Checkpoint.ofFile(source)), CheckpointError)).message;
}

async function openFolder(path: string): Promise<string> {
  let bytes = 0;
  const folder = io.diskFolder(path);
  const counting: FolderSource = {
    name: folder.name,
    open: async (name) => {
      const source = await folder.open(name);
      return source && { ...source, read: (offset, length) => ((bytes += length), source.read(offset, length)) };
    },
  };
  const weights = await Checkpoint.open(counting);
  const names = weights.keys();
  const last = await weights.readAs(names.at(-1)!, 'f32');
  await weights.close();
  return `${names.length} tensors, ${last.filter((value) => value === 0).length} zeros, ${bytes} bytes read`;
}

if (process.env.MATVLM_TEST_CHILD) await child(process.env.MATVLM_TEST_CHILD);
else for (const tests of [write, bounds]) tests.run();
