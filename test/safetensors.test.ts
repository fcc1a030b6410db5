import * as fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { toBfloat, toHalf } from '../engine/half.ts';
import { CheckpointError, DTypeError } from '../engine/errors.ts';
import {
  Checkpoint,
  SAFE_BITS,
  SafetensorsFile,
  blobSource,
  bytesSource,
  convert,
  filesFolder,
} from '../engine/safetensors/index.ts';
import type { FolderSource, ReadKind, SafeDType } from '../engine/safetensors/index.ts';
import { HOSTILE } from './safetensors-hostile.ts';

/** A file made without the writer under test: length, header, data. */
function fileOf(header: string | Uint8Array, data: Uint8Array, length?: number | bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length ?? text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

const open = (bytes: Uint8Array) => SafetensorsFile.open(bytesSource('x.safetensors', bytes));

async function refused(promise: Promise<unknown>, kind: string, expect = /./): Promise<void> {
  const error = await promise.then(
    () => assert.unreachable(`${kind}: was accepted`),
    (reason: unknown) => reason as Error,
  );
  assert.instance(error, CheckpointError, `${kind}: ${error}`);
  assert.match(error!.message, expect, kind);
  assert.match(error!.message, /x\.safetensors|folder/, `${kind}: names no file`);
  assert.ok(error!.message.length < 1000, `${kind}: message of ${error!.message.length} characters`);
}

const HEADER =
  '{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},' +
  '"é":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},' +
  '"none":{"dtype":"I64","shape":[0,7],"data_offsets":[26,26]}}  ';
const DATA = new Uint8Array(26);
DATA.set(new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer));
DATA.set(new Uint8Array(Uint16Array.of(toBfloat(-1.5)).buffer), 24);
const FILE = fileOf(HEADER, DATA);

const read = suite('safetensors: reading');

read('a plain file', async () => {
  for (const source of [
    bytesSource('x.safetensors', FILE),
    blobSource('x.safetensors', new Blob([FILE as Uint8Array<ArrayBuffer>])),
  ]) {
    const file = await SafetensorsFile.open(source);
    assert.equal([...file.entries.keys()], ['w', 'é', 'none']);
    assert.equal([...file.metadata], [['format', 'pt']]);
    assert.equal(file.entry('w'), { dtype: 'F32', shape: [2, 3], begin: 0, end: 24 });
    assert.equal([...(await file.readAs('w', 'f32'))], [1, 2, 3, 4, 5, 6]);
    assert.equal([...(await file.readAs('é', 'f32'))], [-1.5]);
    assert.equal((await file.readAs('none', 'i32')).length, 0);
    assert.equal(await file.read('w', 4, 4), new Uint8Array(Float32Array.of(2).buffer));
    await refused(file.read('v'), 'unknown tensor', /no tensor "v"/);
    await refused(file.read('w', 20, 8), 'past the tensor', /24 bytes/);
  }
});

read('a header alone, and an empty one', async () => {
  assert.is((await open(fileOf('{}', new Uint8Array(0)))).entries.size, 0);
  assert.is((await open(fileOf('{ "__metadata__" : { } }   ', new Uint8Array(0)))).entries.size, 0);
});

read('metadata of null is none, as the format\'s own reader has it', async () => {
  const file = await open(fileOf(HEADER.replace('{"format":"pt"}', ' null '), DATA));
  assert.is(file.metadata.size, 0);
  assert.is(file.entries.size, 3);
});

/** Every element type of the format, with its bits. */
const BITS: Record<string, number> = {
  ...{ F64: 64, C64: 64, I64: 64, U64: 64, F32: 32, I32: 32, U32: 32, F16: 16, BF16: 16, I16: 16, U16: 16 },
  ...{ F8_E4M3: 8, F8_E4M3FNUZ: 8, F8_E5M2: 8, F8_E5M2FNUZ: 8, F8_E8M0: 8, I8: 8, U8: 8, BOOL: 8 },
  ...{ F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};

read('every element type, those of less than a byte too', async () => {
  assert.equal(SAFE_BITS, BITS);
  for (const [dtype, bits] of Object.entries(BITS)) {
    const header = (shape: number[], end: number) => JSON.stringify({ a: { dtype, shape, data_offsets: [0, end] } });
    const file = await open(fileOf(header([2, 4], bits), new Uint8Array(bits).fill(7)));
    assert.equal(await file.read('a'), new Uint8Array(bits).fill(7), dtype);
    if (bits >= 8) continue;
    await refused(open(fileOf(header([1], 1), new Uint8Array(1))), dtype, /no whole number of bytes/);
    const error = await file.readAs('a', 'f32').then(() => assert.unreachable(), (e: unknown) => e);
    assert.instance(error, DTypeError);
  }
});

read('cut off at every byte', async () => {
  for (let size = 0; size < FILE.length; size++) await refused(open(FILE.slice(0, size)), `cut at ${size}`);
});

read('header length wrong by every amount', async () => {
  const text = new TextEncoder().encode(HEADER).length;
  for (let length = 0; length < text + DATA.length; length++) {
    if (length !== text) await refused(open(fileOf(HEADER, DATA, length)), `length ${length}`);
  }
});

read('every bit of length and header flipped: refused, or read within the rules', async () => {
  let accepted = 0;
  const end = FILE.length - DATA.length;
  for (let bit = 0; bit < 8 * end; bit++) {
    const bytes = FILE.slice();
    bytes[bit >> 3] ^= 1 << (bit & 7);
    const file = await open(bytes).catch((error: unknown) => {
      assert.instance(error, CheckpointError, `bit ${bit}: ${error}`);
    });
    if (!file) continue;
    accepted++;
    let total = 0;
    for (const [name, entry] of file.entries) {
      assert.is((await file.read(name)).length, entry.end - entry.begin);
      total += entry.end - entry.begin;
    }
    assert.is(total, DATA.length, `bit ${bit}`);
  }
  assert.ok(accepted > 0 && accepted < 4 * end, `${accepted} of ${8 * end} accepted: only names can flip unseen`);
});

read('random bytes written over the header', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(FILE.length - 1), fc.uint8Array({ minLength: 1, maxLength: 12 }), async (at, junk) => {
      const bytes = FILE.slice();
      bytes.set(junk.subarray(0, bytes.length - at), at);
      await open(bytes).catch((error: unknown) => assert.instance(error, CheckpointError));
    }),
    { seed: 7, numRuns: 3000 },
  );
});

for (const { kind, header, data = 8, expect, length } of HOSTILE) {
  read(`hostile: ${kind}`, () => refused(open(fileOf(header, new Uint8Array(data), length)), kind, expect));
}

read('files of other kinds are called by their name', async () => {
  const kinds: [string, RegExp][] = [
    ['version https://git-lfs.github.com/spec/v1', /Git LFS/],
    ['<!DOCTYPE html><html></html>', /web page/],
    ['PK\x03\x04 an archive of PyTorch', /PyTorch/],
    ['GGUF\x03\0\0\0 and so on', /GGUF/],
  ];
  for (const [text, expect] of kinds) await refused(open(new TextEncoder().encode(text)), text, expect);
});

read('more than 100,000 tensors', async () => {
  const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
  const header = (count: number) => `{${Array.from({ length: count }, (_, i) => `"${i}":${entry}`)}}`;
  assert.is((await open(fileOf(header(100_000), new Uint8Array(0)))).entries.size, 100_000);
  await refused(open(fileOf(header(100_001), new Uint8Array(0))), 'count', /more than 100000 tensors/);
});

const converting = suite('safetensors: converting');
const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

converting('every pair keeps the values', () => {
  const rows: [SafeDType, ArrayBufferView, ReadKind, number[]][] = [
    ['F64', Float64Array.of(0.1, -Infinity), 'f32', [Math.fround(0.1), -Infinity]],
    ['F16', Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7c00), 'f32', [1, -2, 2 ** -24, Infinity]],
    ['BF16', Uint16Array.of(0x3f80, 0xbfc0, 0xff80), 'f32', [1, -1.5, -Infinity]],
    ['F32', Float32Array.of(1.5, -0.25), 'f16', [toHalf(1.5), toHalf(-0.25)]],
    ['F32', Float32Array.of(1.5, 3e38), 'bf16', [toBfloat(1.5), toBfloat(3e38)]],
    ['BF16', Uint16Array.of(0x3f80), 'f16', [0x3c00]],
    ['F16', Uint16Array.of(0xfe01), 'f16', [0xfe01]],
    ['I64', BigInt64Array.of(-1n, 2147483647n, -2147483648n, 5n), 'i32', [-1, 2147483647, -2147483648, 5]],
    ['U64', BigUint64Array.of(7n), 'i32', [7]],
    ['I64', BigInt64Array.of(4294967295n), 'u32', [4294967295]],
    ['I32', Int32Array.of(-5), 'i32', [-5]],
    ['U8', Uint8Array.of(255), 'i32', [255]],
    ['I8', Int8Array.of(-128), 'i32', [-128]],
    ['I16', Int16Array.of(-300), 'i32', [-300]],
    ['BOOL', Uint8Array.of(1, 0), 'i32', [1, 0]],
    ['BOOL', Uint8Array.of(1, 0), 'bool', [1, 0]],
    ['U8', Uint8Array.of(3), 'u8', [3]],
  ];
  for (const [dtype, array, kind, expected] of rows) {
    const what = `${dtype} as ${kind}`;
    assert.equal([...convert(what, bytesOf(array), dtype, kind)], expected, what);
    const shifted = new Uint8Array(array.byteLength + 1);
    shifted.set(bytesOf(array), 1);
    assert.equal([...convert(what, shifted.subarray(1), dtype, kind)], expected, `${what}, at an odd byte`);
  }
});

converting('a value that does not fit is named', () => {
  const rows: [SafeDType, ArrayBufferView, ReadKind, RegExp][] = [
    ['F64', Float64Array.of(0, 1e39), 'f32', /element 1 is 1e\+39/],
    ['F32', Float32Array.of(65520), 'f16', /element 0 is 65520/],
    ['BF16', Uint16Array.of(0x7f7f), 'f16', /element 0/],
    ['I64', BigInt64Array.of(0n, 2147483648n), 'i32', /element 1 is 2147483648/],
    ['I64', BigInt64Array.of(-2147483649n), 'i32', /element 0 is -2147483649/],
    ['I64', BigInt64Array.of(1n << 32n), 'i32', /element 0/],
    ['I64', BigInt64Array.of(-4294967296n), 'i32', /element 0/],
    ['U64', BigUint64Array.of((1n << 64n) - 1n), 'i32', /element 0/],
    ['I64', BigInt64Array.of(-1n), 'u32', /element 0/],
    ['U32', Uint32Array.of(1, 2 ** 31), 'i32', /element 1 is 2147483648/],
    ['I32', Int32Array.of(-1), 'u32', /element 0 is -1/],
    ['BOOL', Uint8Array.of(1, 2), 'bool', /element 1 is 2/],
  ];
  for (const [dtype, array, kind, expect] of rows) {
    assert.throws(
      () => convert('t', bytesOf(array), dtype, kind),
      (error: Error) => {
        return error instanceof CheckpointError && expect.test(error.message);
      },
    );
  }
  assert.throws(
    () => convert('t', new Uint8Array(4), 'F32', 'i32'),
    (error: Error) => error instanceof DTypeError,
  );
});

const sharded = suite('safetensors: shards');
const shard = (name: string, value: number) =>
  fileOf(`{"${name}":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, Uint8Array.of(value));
const folder = (index: unknown, extra: [string, Uint8Array][] = []) =>
  filesFolder(
    'folder',
    new Map<string, Uint8Array>([
      ['1.safetensors', shard('a', 1)],
      ['2.safetensors', shard('b', 2)],
      [
        'model.safetensors.index.json',
        new TextEncoder().encode(typeof index === 'string' ? index : JSON.stringify(index)),
      ],
      ...extra,
    ]),
  );
const MAP = { a: '1.safetensors', b: '2.safetensors' };

sharded('an index and its shards', async () => {
  const weights = await Checkpoint.open(
    folder({ metadata: { total_size: 2, more: [1.5, null, { x: [] }] }, weight_map: MAP }),
  );
  assert.equal(weights.keys(), ['a', 'b']);
  assert.equal([...(await weights.readAs('b', 'i32'))], [2]);
  assert.is(weights.spec('a').dtype, 'U8');
  assert.is(weights.totalBytes, 2);
  await refused(weights.read('c'), 'unknown', /no tensor "c"/);
});

sharded('fields of an index that nothing reads are any JSON, and nothing else', async () => {
  const open = (value: string) => Checkpoint.open(folder(`{"more":${value},"weight_map":${JSON.stringify(MAP)}}`));
  const long = '7'.repeat(100);
  const taken = ['0', '-0', '1.5e+9', '1E-7', 'true', 'false', 'null', '[]', '[ 0 , [ ] ]', '{"a":[{}]}', '"\\u00e9"'];
  for (const value of [...taken, long, `-${long}.${long}e${long}`, `[${long},${long}]`]) {
    assert.equal((await open(value)).keys(), ['a', 'b'], value);
  }
  const refuses = ['', '-', '01', '1.', '.5', '1e', '1e+', '+1', '0x1', 'nul', 'nulll', 'True', 'NaN', '1 2', '[1,]'];
  for (const value of [...refuses, `${long}x`, `0${long}`, `${long}.`, `${long}e`, `${long}-`, `-${long}..1`]) {
    await refused(open(value), value);
  }
});

sharded('an index is told from a file that is too large for one before it is read', async () => {
  const read = () => assert.unreachable('it was read');
  const index = { name: 'folder/index', size: async () => 2 ** 30, read, close: async () => {} };
  const source = { name: 'folder', open: async (file: string) => (file.endsWith('.json') ? index : null) };
  await refused(Checkpoint.open(source as unknown as FolderSource), 'size', /1073741824 bytes, expected at most/);
});

sharded('index and shards that disagree, or names that lead elsewhere', async () => {
  const rows: [string, unknown, RegExp][] = [
    ['missing key', { weight_map: { ...MAP, c: '1.safetensors' } }, /"c in 1\.safetensors"/],
    ['extra key', { weight_map: { a: '1.safetensors', x: '2.safetensors' } }, /"x in 2/],
    ['unnamed key', { weight_map: { a: '1.safetensors', b: '2.safetensors' } }, /"z"/],
    ['swapped', { weight_map: { a: '2.safetensors', b: '1.safetensors' } }, /"a in 2/],
    ['missing shard', { weight_map: { ...MAP, c: '3.safetensors' } }, /shard "3\.safetensors" is missing/],
    ['parent folder', { weight_map: { a: '../1.safetensors' } }, /bare file name/],
    ['absolute', { weight_map: { a: '/etc/1.safetensors' } }, /bare file name/],
    ['back slash', { weight_map: { a: '..\\1.safetensors' } }, /bare file name/],
    ['NUL', { weight_map: { a: '1\0.safetensors' } }, /bare file name/],
    ['escaped path', { weight_map: { a: '%2e%2e%2f1.safetensors' } }, /bare file name/],
    ['another type', { weight_map: { a: 'model.bin' } }, /bare file name/],
    ['no map', { metadata: {} }, /weight_map is missing/],
    ['empty map', { weight_map: {} }, /weight_map is empty/],
    ['map a list', { weight_map: [] }, /weight_map/],
    ['duplicate', '{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}', /duplicate key "a"/],
    ['two maps', '{"weight_map":{"a":"1.safetensors"},"weight_map":{"b":"2.safetensors"}}', /duplicate/],
    ['__proto__', '{"weight_map":{"__proto__":"1.safetensors"}}', /__proto__/],
    ['tail', `${JSON.stringify({ weight_map: MAP })}x`, /expected the end/],
    ['deep', `{"metadata":${'['.repeat(1e5)}`, /deeper than/],
    ['not JSON', '<html>', /byte 0/],
  ];
  for (const [kind, index, expect] of rows) {
    const extra: [string, Uint8Array][] = kind === 'unnamed key' ? [['2.safetensors', new Uint8Array(twoTensors)]] : [];
    await refused(Checkpoint.open(folder(index, extra)), kind, expect);
  }
  await refused(Checkpoint.open(filesFolder('folder', new Map())), 'empty folder', /no weights/);
});

const twoTensors = fileOf(
  '{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"z":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
  new Uint8Array(2),
);

read.run();
converting.run();
sharded.run();
