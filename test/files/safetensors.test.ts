import * as fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { toBfloat, toHalf } from '../../engine/half.ts';
import { CheckpointError, DTypeError } from '../../engine/errors.ts';
import * as st from '../../engine/safetensors/index.ts';
import { rejects, throws } from '../support/expect.ts';
import { fileOf } from '../support/safetensors-bytes.ts';

const open = (bytes: Uint8Array) => st.Checkpoint.ofFile(st.bytesSource('x.safetensors', bytes));

async function refused(promise: Promise<unknown>, kind: string, expect: RegExp | string = ''): Promise<void> {
  const { message } = await rejects(promise, CheckpointError, expect, kind);
  assert.match(message, /x\.safetensors|folder/, `${kind}: names no file`);
}

const HEADER =
  '{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},' +
  '"é":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},' +
  '"none":{"dtype":"I64","shape":[0,7],"data_offsets":[26,26]}}  ';
const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const DATA = Buffer.concat([bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6)), bytesOf(Uint16Array.of(toBfloat(-1.5)))]);
const FILE = fileOf(HEADER, DATA);

const read = suite('safetensors: reading');

read('a plain file', async () => {
  for (const source of [st.bytesSource('x.safetensors', FILE), st.blobSource('x.safetensors', new Blob([FILE]))]) {
    const file = await st.Checkpoint.ofFile(source);
    assert.equal(file.keys(), ['w', 'é', 'none']);
    assert.equal([...file.metadata], [['format', 'pt']]);
    assert.equal(file.spec('w'), { dtype: 'F32', shape: [2, 3], begin: 0, end: 24 });
    assert.equal([...(await file.readAs('w', 'f32'))], [1, 2, 3, 4, 5, 6]);
    assert.equal([...(await file.readAs('é', 'f32'))], [-1.5]);
    assert.equal((await file.readAs('none', 'i32')).length, 0);
    assert.equal(await file.read('w', 4, 4), bytesOf(Float32Array.of(2)));
    await refused(file.read('v'), 'unknown tensor', /no tensor "v"/);
    await refused(file.read('w', 20, 8), 'past the tensor', /24 bytes/);
  }
});

read("a header alone, an empty one, metadata of null as the format's own reader has it", async () => {
  for (const header of ['{}', '{ "__metadata__" : { } }   ']) assert.is((await open(fileOf(header, 0))).keys().length, 0);
  const file = await open(fileOf(HEADER.replace('{"format":"pt"}', ' null '), DATA));
  assert.equal([file.metadata.size, file.keys().length], [0, 3]);
});

/** Every element type of the format, with its bits. */
const BITS: Record<string, number> = {
  ...{ F64: 64, C64: 64, I64: 64, U64: 64, F32: 32, I32: 32, U32: 32, F16: 16, BF16: 16, I16: 16, U16: 16 },
  ...{ F8_E4M3: 8, F8_E4M3FNUZ: 8, F8_E5M2: 8, F8_E5M2FNUZ: 8, F8_E8M0: 8, I8: 8, U8: 8, BOOL: 8 },
  ...{ F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};

read('every element type, those of less than a byte too', async () => {
  assert.equal(st.SAFE_BITS, BITS);
  for (const [dtype, bits] of Object.entries(BITS)) {
    const header = (shape: number[], end: number) => JSON.stringify({ a: { dtype, shape, data_offsets: [0, end] } });
    const file = await open(fileOf(header([2, 4], bits), new Uint8Array(bits).fill(7)));
    assert.equal(await file.read('a'), new Uint8Array(bits).fill(7), dtype);
    if (bits >= 8) continue;
    await refused(open(fileOf(header([1], 1), 1)), dtype, /no whole number of bytes/);
    await rejects(file.readAs('a', 'f32'), DTypeError);
  }
});

read('cut off at every byte, header length wrong by every amount', async () => {
  for (let size = 0; size < FILE.length; size++) await refused(open(FILE.slice(0, size)), `cut at ${size}`);
  const size = FILE.length - 8 - DATA.length;
  for (let length = 0; length < size + DATA.length; length++) {
    if (length !== size) await refused(open(fileOf(HEADER, DATA, length)), `length ${length}`);
  }
});

/** Whether what `change` makes of the file is taken, which then is read within the rules; else it must be refused. */
async function taken(change: (bytes: Uint8Array) => void): Promise<boolean> {
  const bytes = FILE.slice();
  change(bytes);
  const file = await open(bytes).catch((error: unknown) => assert.instance(error, CheckpointError, String(error)));
  if (!file) return false;
  let total = 0;
  for (const name of file.keys()) {
    const entry = file.spec(name);
    assert.is((await file.read(name)).length, entry.end - entry.begin);
    total += entry.end - entry.begin;
  }
  assert.is(total, DATA.length);
  return true;
}

read('every bit of length and header flipped: refused, or read within the rules', async () => {
  let accepted = 0;
  const end = FILE.length - DATA.length;
  for (let bit = 0; bit < 8 * end; bit++) accepted += Number(await taken((bytes) => (bytes[bit >> 3] ^= 1 << (bit & 7))));
  assert.ok(accepted > 0 && accepted < 4 * end, `${accepted} of ${8 * end} accepted: only names can flip unseen`);
});

read('random bytes written over the file: the same', async () => {
  const junk = fc.uint8Array({ minLength: 1, maxLength: 12 });
  await fc.assert(
    fc.asyncProperty(fc.nat(FILE.length - 1), junk, async (at, junk) => {
      await taken((bytes) => bytes.set(junk.subarray(0, bytes.length - at), at));
    }),
    { seed: 7, numRuns: 3000 },
  );
});

const fields = (changed: object = {}) => JSON.stringify({ dtype: 'F32', shape: [2], data_offsets: [0, 8], ...changed });
const good = `{"a":${fields()}}`;
const before = (entry: string) => `{${entry},${good.slice(1)}`;
const meta = (value: string) => before(`"__metadata__":${value}`);
const replaced = (from: string, to: string) => good.replaceAll(from, to);
const field = (text: string) => `{"a":{${text}}}`;
const shape = (text: string, end: string | number = 8) => field(`"dtype":"F32","shape":${text},"data_offsets":[0,${end}]`);
const offsets = (text: string) => field(`"dtype":"F32","shape":[2],"data_offsets":${text}`);
const two = (b: number, e: number, shape = [(e - b) / 4]) =>
  `${good.slice(0, -1)},"b":${fields({ shape, data_offsets: [b, e] })}}`;
const raw = (...parts: (string | number[])[]) =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === 'string' ? [...part].map((c) => c.charCodeAt(0)) : part)));

/** A header with the length that is written for its own, and with data of another size than 8 bytes. */
type Broken = string | Uint8Array | readonly [header: string, length?: number | bigint, data?: number];

/** Headers that break a rule of the format, and tricks to get around a lax reader, by what the error says. */
const HOSTILE: readonly (readonly [says: RegExp, ...headers: Broken[]])[] = [
  [/header of 0 bytes/, ''],
  [/at most 100000000/, [good, 2n ** 64n - 1n], [good, 2n ** 63n], [good, 100_000_001]],
  [/cut off/, [good, good.length + 9], two(8, 16)],
  [/followed by something else/, [good, good.length + 8], `${good}\0\0`, `${good}\n`, `${good}{}`],
  [/byte 0/, [good, 2336361480728962422n]], // a Git LFS pointer
  [/start with '\{'/, ` ${good}`, raw([0xef, 0xbb, 0xbf], good), `[${good}]`],
  [/byte 8: /, ` ${good}`],
  [/expected "}"/, good.slice(0, -1)],
  [/header: found/, `${good.slice(0, -1)},}`],
  [/expected "\\""/, replaced('"', "'")],
  [/found '\/'/, `{/**/${good.slice(1)}`],
  [/UTF-8/, raw('{"', [0xc3, 0x28], `":${fields()}}`), raw('{"', [0xc0, 0xaf], `":${fields()}}`)],
  [/surrogate/, replaced('"a"', '"\\ud800"')],
  [/bad escape/, replaced('"a"', '"\\x41"')],
  [/control character/, replaced('"a"', '"\n"')],
  [/does not end/, '{"aaaaaaaa'],
  [/duplicate key "a"/, before(`"a":${fields()}`), before(`"\\u0061":${fields()}`)],
  [/duplicate key "x"/, meta('{"x":"1","x":"2"}')],
  [/duplicate key "dtype"/, replaced('"dtype"', '"dtype":"U8","dtype"')],
  [/duplicate/, meta('{},"__metadata__":{}'), replaced('"shape"', '"data_offsets":[0,4],"shape"')],
  [/__proto__/, replaced('"a"', '"__proto__"'), meta('{"__proto__":"x"}'), replaced('"dtype"', '"__proto__":{},"dtype"')],
  [/__proto__/, replaced('"a"', '"__pr\\u006fto__"')],
  [/__metadata__/, meta('[]'), meta('{"x":1}')],
  [/tensor "a"/, '{"a":null}', `{"a":${'['.repeat(50_000)}`],
  [/unknown field/, replaced('"dtype"', '"strides":[1],"dtype"'), '{"a":'.repeat(50_000)],
  [/dtype is missing/, field('"shape":[2],"data_offsets":[0,8]')],
  [/shape is missing/, field('"dtype":"F32","data_offsets":[0,8]')],
  [/data_offsets is missing/, field('"dtype":"F32","shape":[2]')],
  [/unknown dtype "Q4".*F32/, replaced('F32', 'Q4')],
  [/unknown dtype "(f32|constructor|)"/, replaced('F32', 'f32'), replaced('F32', 'constructor'), replaced('F32', '')],
  [/"a": dtype/, replaced('"F32"', '32')],
  [/expected "\["/, shape('2')],
  [/plain integer/, shape('[-2]'), [shape('[-0]', 0), undefined, 0], shape('[2.0]'), shape('[2e0]'), shape('[02]')],
  [/plain integer/, shape('["2"]'), shape('[[2]]'), offsets('[-8,0]')],
  [/2\^53/, shape('[9007199254740992]'), shape(`[${'9'.repeat(400)}]`), offsets('[0,18446744073709551616]')],
  [/needs 9007199254740991 bytes/, shape('[9007199254740991]').replace('F32', 'U8')],
  // The second wraps 2^64 to 8.
  [/bytes below 2\^53/, shape('[94906267,94906267]'), shape('[4294967296,4294967296,2]'), shape('[9007199254740991]')],
  [/more than 32 items/, shape(`[${Array(33).fill(1)}]`)],
  [/needs 12 bytes/, shape('[3]')],
  [/needs 4 bytes/, shape('[1]')],
  [/expected \[begin, end\]/, offsets('[0]'), offsets('[]')],
  [/more than 2 items/, offsets('[0,8,8]')],
  [/begin ≤ end/, offsets('[8,0]')],
  [/leaves a hole.*expected 0/, [offsets('[4,12]'), undefined, 12]],
  [/"b" leaves a hole/, [two(12, 20), undefined, 20], two(100, 100, [0])],
  [/"b" overlaps/, [two(4, 12), undefined, 12], two(0, 8)],
  [/belong to no tensor/, [good, undefined, 9], '{}'],
];

for (const [says, ...headers] of HOSTILE) {
  for (const broken of headers) {
    const [header, length, data = 8] = Array.isArray(broken) ? broken : [broken as string | Uint8Array];
    const kind = `${String(header).slice(0, 80)} ${length ?? ''}`;
    read(`hostile: ${kind}`, () => refused(open(fileOf(header, data, length)), kind, says));
  }
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
  assert.is((await open(fileOf(header(100_000), 0))).keys().length, 100_000);
  await refused(open(fileOf(header(100_001), 0)), 'count', /more than 100000 tensors/);
});

const converting = suite('safetensors: converting');

/** What each stored type gives, or what its error says. */
const CONVERTED: [st.SafeDType, ArrayBufferView, st.ReadKind, number[] | RegExp][] = [
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

converting('every pair keeps the values, at odd bytes too; one that does not fit is named', () => {
  for (const [dtype, array, kind, expected] of CONVERTED) {
    const what = `${dtype} as ${kind}`;
    for (const shift of [0, 1]) {
      const bytes = Buffer.concat([new Uint8Array(shift), bytesOf(array)]).subarray(shift);
      const converted = () => st.convert(what, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length), dtype, kind);
      if (expected instanceof RegExp) throws(converted, CheckpointError, expected, what);
      else assert.equal([...converted()], expected, `${what}, ${shift} from even`);
    }
  }
  throws(() => st.convert('t', new Uint8Array(4), 'F32', 'i32'), DTypeError);
});

const sharded = suite('safetensors: shards');
const utf8 = (text: string) => new TextEncoder().encode(text);
const shard = (...names: string[]) => {
  const entries = names.map((name, i) => `"${name}":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`);
  return fileOf(`{${entries}}`, new Uint8Array(names.length).fill(2));
};
const folder = (index: unknown, second = shard('b')) =>
  st.filesFolder('folder', new Map([
    ['1.safetensors', shard('a')],
    ['2.safetensors', second],
    ['model.safetensors.index.json', utf8(typeof index === 'string' ? index : JSON.stringify(index))],
  ]));
const MAP = { a: '1.safetensors', b: '2.safetensors' };

sharded('an index and its shards', async () => {
  const metadata = { total_size: 2, more: [1.5, null, { x: [] }] };
  const weights = await st.Checkpoint.open(folder({ metadata, weight_map: MAP }));
  assert.equal(weights.keys(), ['a', 'b']);
  assert.equal([...(await weights.readAs('b', 'i32'))], [2]);
  assert.is(weights.spec('a').dtype, 'U8');
  assert.is(weights.totalBytes, 2);
  await refused(weights.read('c'), 'unknown', /no tensor "c"/);
});

sharded('fields of an index that nothing reads are any JSON, and nothing else', async () => {
  const open = (value: string) => st.Checkpoint.open(folder(`{"more":${value},"weight_map":${JSON.stringify(MAP)}}`));
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
  await refused(st.Checkpoint.open(source as unknown as st.FolderSource), 'size', /1073741824 bytes, expected at most/);
});

sharded('index and shards that disagree, or names that lead elsewhere', async () => {
  const elsewhere = (name: string): [RegExp, unknown] => [/bare file name/, { weight_map: { a: `${name}.safetensors` } }];
  const rows: [says: RegExp, index: unknown][] = [
    [/"c in 1\.safetensors"/, { weight_map: { ...MAP, c: '1.safetensors' } }],
    [/"x in 2/, { weight_map: { a: '1.safetensors', x: '2.safetensors' } }],
    [/"a in 2/, { weight_map: { a: '2.safetensors', b: '1.safetensors' } }],
    [/shard "3\.safetensors" is missing/, { weight_map: { ...MAP, c: '3.safetensors' } }],
    ...['../1', '/etc/1', '..\\1', '1\0', '%2e%2e%2f1'].map(elsewhere),
    [/bare file name/, { weight_map: { a: 'model.bin' } }],
    [/weight_map is missing/, { metadata: {} }],
    [/weight_map is empty/, { weight_map: {} }],
    [/weight_map/, { weight_map: [] }],
    [/duplicate key "a"/, '{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}'],
    [/duplicate/, '{"weight_map":{"a":"1.safetensors"},"weight_map":{"b":"2.safetensors"}}'],
    [/__proto__/, '{"weight_map":{"__proto__":"1.safetensors"}}'],
    [/expected the end/, `${JSON.stringify({ weight_map: MAP })}x`],
    [/deeper than/, `{"metadata":${'['.repeat(1e5)}`],
    [/byte 0/, '<html>'],
  ];
  for (const [says, index] of rows) await refused(st.Checkpoint.open(folder(index)), String(says), says);
  await refused(st.Checkpoint.open(folder({ weight_map: MAP }, shard('b', 'z'))), 'unnamed key', /"z"/);
  await refused(st.Checkpoint.open(st.filesFolder('folder', new Map())), 'empty folder', /no weights/);
});

for (const tests of [read, converting, sharded]) tests.run();
