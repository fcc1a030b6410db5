/** One broken file of the table: its header text (or raw bytes), its data length, and what the error must say. */
export interface Hostile {
  readonly kind: string;
  readonly header: string | Uint8Array;
  readonly data?: number;
  readonly expect: RegExp;
  /** Written as the header's length instead of the true one. */
  readonly length?: number | bigint;
}

const tensor = (fields: Record<string, unknown> = {}) => ({
  dtype: 'F32',
  shape: [2],
  data_offsets: [0, 8],
  ...fields,
});
const header = (fields: Record<string, unknown>) => JSON.stringify({ a: tensor(fields) });
const two = (b: number, e: number, shape = [(e - b) / 4]) =>
  JSON.stringify({ a: tensor(), b: tensor({ shape, data_offsets: [b, e] }) });
const raw = (...parts: (string | number[])[]) =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === 'string' ? [...part].map((c) => c.charCodeAt(0)) : part)));
const good = header({});
const field = (text: string) => `{"a":{${text}}}`;
const shape = (text: string, end: string | number = 8) =>
  field(`"dtype":"F32","shape":${text},"data_offsets":[0,${end}]`);
const offsets = (text: string) => field(`"dtype":"F32","shape":[2],"data_offsets":${text}`);

/** Broken files by hand: every rule of the format, and every trick to get around a lax reader. Data is 8 bytes. */
export const HOSTILE: Hostile[] = [
  { kind: 'empty header', header: '', expect: /header of 0 bytes/ },
  { kind: 'header length 2^64-1', header: good, length: 2n ** 64n - 1n, expect: /at most 100000000/ },
  { kind: 'header length 2^63', header: good, length: 2n ** 63n, expect: /at most 100000000/ },
  { kind: 'header length one above the limit', header: good, length: 100_000_001, expect: /at most 100000000/ },
  { kind: 'header longer than the file', header: good, length: good.length + 9, expect: /cut off/ },
  { kind: 'header into the data', header: good, length: good.length + 8, expect: /followed by something else/ },
  { kind: 'Git LFS pointer', header: good, length: 2336361480728962422n, expect: /byte 0/ },
  { kind: 'leading space', header: ` ${good}`, expect: /byte 8: .*start with '\{'/ },
  { kind: 'byte order mark', header: raw([0xef, 0xbb, 0xbf], good), expect: /start with '\{'/ },
  { kind: 'an array', header: `[${good}]`, expect: /start with '\{'/ },
  { kind: 'padded by zeros', header: `${good}\0\0`, expect: /followed by something else/ },
  { kind: 'padded by new lines', header: `${good}\n`, expect: /followed by something else/ },
  { kind: 'two documents', header: `${good}{}`, expect: /followed by something else/ },
  { kind: 'not closed', header: good.slice(0, -1), expect: /expected "}"/ },
  { kind: 'trailing comma', header: `${good.slice(0, -1)},}`, expect: /header: found/ },
  { kind: 'single quotes', header: good.replaceAll('"', "'"), expect: /expected "\\""/ },
  { kind: 'a comment', header: `{/**/${good.slice(1)}`, expect: /found '\/'/ },
  { kind: 'bad UTF-8 in a name', header: raw('{"', [0xc3, 0x28], `":${JSON.stringify(tensor())}}`), expect: /UTF-8/ },
  { kind: 'overlong UTF-8', header: raw('{"', [0xc0, 0xaf], `":${JSON.stringify(tensor())}}`), expect: /UTF-8/ },
  { kind: 'half a surrogate pair', header: good.replace('"a"', '"\\ud800"'), expect: /surrogate/ },
  { kind: 'unknown escape', header: good.replace('"a"', '"\\x41"'), expect: /bad escape/ },
  { kind: 'control character', header: good.replace('"a"', '"\n"'), expect: /control character/ },
  { kind: 'string without end', header: '{"aaaaaaaa', expect: /does not end/ },
  { kind: 'tensor twice', header: `{"a":${JSON.stringify(tensor())},${good.slice(1)}`, expect: /duplicate key "a"/ },
  {
    kind: 'tensor twice, once escaped',
    header: `{"\\u0061":${JSON.stringify(tensor())},${good.slice(1)}`,
    expect: /duplicate/,
  },
  { kind: '__metadata__ twice', header: `{"__metadata__":{},"__metadata__":{},${good.slice(1)}`, expect: /duplicate/ },
  {
    kind: 'metadata key twice',
    header: `{"__metadata__":{"x":"1","x":"2"},${good.slice(1)}`,
    expect: /duplicate key "x"/,
  },
  { kind: 'dtype twice', header: good.replace('"dtype"', '"dtype":"U8","dtype"'), expect: /duplicate key "dtype"/ },
  { kind: 'offsets twice', header: good.replace('"shape"', '"data_offsets":[0,4],"shape"'), expect: /duplicate/ },
  { kind: '__proto__ as a tensor', header: good.replace('"a"', '"__proto__"'), expect: /__proto__/ },
  { kind: '__proto__ in metadata', header: `{"__metadata__":{"__proto__":"x"},${good.slice(1)}`, expect: /__proto__/ },
  { kind: '__proto__ in a tensor', header: good.replace('"dtype"', '"__proto__":{},"dtype"'), expect: /__proto__/ },
  { kind: '__proto__ escaped', header: good.replace('"a"', '"__pr\\u006fto__"'), expect: /__proto__/ },
  { kind: 'metadata a list', header: `{"__metadata__":[],${good.slice(1)}`, expect: /__metadata__/ },
  { kind: 'metadata with a number', header: `{"__metadata__":{"x":1},${good.slice(1)}`, expect: /__metadata__/ },
  { kind: 'tensor null', header: '{"a":null}', expect: /tensor "a"/ },
  { kind: 'unknown field', header: header({ strides: [1] }), expect: /unknown field/ },
  { kind: 'no dtype', header: field('"shape":[2],"data_offsets":[0,8]'), expect: /dtype is missing/ },
  { kind: 'no shape', header: field('"dtype":"F32","data_offsets":[0,8]'), expect: /shape is missing/ },
  { kind: 'no offsets', header: field('"dtype":"F32","shape":[2]'), expect: /data_offsets is missing/ },
  { kind: 'unknown dtype', header: header({ dtype: 'Q4' }), expect: /unknown dtype "Q4".*F32/ },
  { kind: 'dtype in lower case', header: header({ dtype: 'f32' }), expect: /unknown dtype "f32"/ },
  { kind: 'dtype from Object.prototype', header: header({ dtype: 'constructor' }), expect: /unknown dtype/ },
  { kind: 'dtype empty', header: header({ dtype: '' }), expect: /unknown dtype ""/ },
  { kind: 'dtype a number', header: header({ dtype: 32 }), expect: /"a": dtype/ },
  { kind: 'shape a number', header: shape('2'), expect: /expected "\["/ },
  { kind: 'shape negative', header: shape('[-2]'), expect: /plain integer/ },
  { kind: 'shape minus zero', header: shape('[-0]', 0), data: 0, expect: /plain integer/ },
  { kind: 'shape a fraction', header: shape('[2.0]'), expect: /plain integer/ },
  { kind: 'shape with exponent', header: shape('[2e0]'), expect: /plain integer/ },
  { kind: 'shape with leading zero', header: shape('[02]'), expect: /plain integer/ },
  { kind: 'shape a string', header: shape('["2"]'), expect: /plain integer/ },
  { kind: 'shape 2^53', header: shape('[9007199254740992]'), expect: /2\^53/ },
  {
    kind: 'shape 2^53-1 of bytes',
    header: shape('[9007199254740991]').replace('F32', 'U8'),
    expect: /needs 9007199254740991 bytes/,
  },
  { kind: 'shape of 400 digits', header: shape(`[${'9'.repeat(400)}]`), expect: /2\^53/ },
  { kind: 'product above 2^53', header: shape('[94906267,94906267]'), expect: /bytes below 2\^53/ },
  { kind: 'product wraps 2^64 to 8', header: shape('[4294967296,4294967296,2]'), expect: /bytes below 2\^53/ },
  { kind: 'bytes above 2^53', header: shape('[9007199254740991]'), expect: /bytes below 2\^53/ },
  { kind: 'rank 33', header: shape(`[${Array(33).fill(1)}]`), expect: /more than 32 items/ },
  { kind: 'nested shape', header: shape('[[2]]'), expect: /plain integer/ },
  { kind: 'shape larger than the span', header: shape('[3]'), expect: /needs 12 bytes/ },
  { kind: 'shape smaller than the span', header: shape('[1]'), expect: /needs 4 bytes/ },
  { kind: 'one offset', header: offsets('[0]'), expect: /expected \[begin, end\]/ },
  { kind: 'no offset', header: offsets('[]'), expect: /expected \[begin, end\]/ },
  { kind: 'three offsets', header: offsets('[0,8,8]'), expect: /more than 2 items/ },
  { kind: 'offsets turned around', header: offsets('[8,0]'), expect: /begin ≤ end/ },
  { kind: 'negative offset', header: offsets('[-8,0]'), expect: /plain integer/ },
  { kind: 'offset above 2^53', header: offsets('[18446744073709551608,18446744073709551616]'), expect: /2\^53/ },
  { kind: 'first tensor not at 0', header: offsets('[4,12]'), data: 12, expect: /leaves a hole.*expected 0/ },
  { kind: 'hole', header: two(12, 20), data: 20, expect: /"b" leaves a hole/ },
  { kind: 'overlap', header: two(4, 12), data: 12, expect: /"b" overlaps/ },
  { kind: 'same span twice', header: two(0, 8), expect: /"b" overlaps/ },
  { kind: 'past the end', header: two(8, 16), expect: /cut off/ },
  { kind: 'trailing bytes', header: good, data: 9, expect: /belong to no tensor/ },
  { kind: 'data without tensors', header: '{}', expect: /belong to no tensor/ },
  { kind: 'empty tensor outside', header: two(100, 100, [0]), expect: /"b" leaves a hole/ },
  { kind: 'deep nesting', header: `{"a":${'['.repeat(50_000)}`, expect: /tensor "a"/ },
  { kind: 'deep objects', header: '{"a":'.repeat(50_000), expect: /unknown field/ },
];
