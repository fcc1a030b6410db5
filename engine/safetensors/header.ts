import { CheckpointError } from '../errors.ts';
import { quote } from '../excerpt.ts';
import { HEADER_LIMIT, isSafeDType, RANK_LIMIT, SAFE_BITS, spanOf, TENSOR_LIMIT } from './format.ts';
import type { SafeDType, SafeEntry } from './format.ts';
import { JsonScanner } from './json.ts';
import type { ByteSource } from './source.ts';

/** Bytes before the header: its length as a little-endian u64. */
const PREFIX = 8;

/** A safetensors file whose header was read and checked. */
export interface OpenFile {
  readonly source: ByteSource;
  /** Where the data begins, in bytes of the file. */
  readonly dataBegin: number;
  /** In the order of their data. */
  readonly entries: Map<string, SafeEntry>;
  readonly metadata: Map<string, string>;
}

/**
 * Reads and checks a file's header. The file owns `source` from here on, which is closed when the header is refused.
 * @throws CheckpointError that names the file and the byte or tensor
 */
export async function openFile(source: ByteSource): Promise<OpenFile> {
  try {
    const size = await source.size();
    const length = await headerLength(source, size);
    const bytes = await source.read(PREFIX, length);
    const dataBegin = PREFIX + length;
    return { source, dataBegin, ...parseHeader(source.name, bytes, size - dataBegin) };
  } catch (error) {
    await source.close().catch(() => {});
    throw error;
  }
}

/** The usual mistakes, known by their first bytes in lower case. */
const MISTAKES = [
  ['version ', 'this is a Git LFS pointer: fetch the file itself (git lfs pull)'],
  ['<', 'this is a web page: the address is wrong or needs a login'],
  ['pk', 'this is a PyTorch or zip archive: convert it to safetensors first'],
  ['gguf', 'this is a GGUF file: expected safetensors'],
] as const;

async function headerLength(source: ByteSource, size: number): Promise<number> {
  if (size < PREFIX + 2) {
    throw new CheckpointError(`${source.name}: ${size} bytes, expected at least ${PREFIX + 2}; it is empty or cut off`);
  }
  const prefix = await source.read(0, PREFIX);
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  const fail = (expected: string) => {
    throw new CheckpointError(`${source.name}: byte 0: header of ${length} bytes, expected ${expected}`);
  };
  if (length > HEADER_LIMIT) {
    const text = String.fromCharCode(...prefix).toLowerCase();
    const hint = MISTAKES.find(([start]) => text.startsWith(start))?.[1];
    fail(`at most ${HEADER_LIMIT}; ${hint ?? 'this is not a safetensors file, or it is damaged'}`);
  }
  if (length < 2) fail('at least 2');
  if (length > size - PREFIX) fail(`at most the ${size - PREFIX} that follow; the file is cut off: fetch it again`);
  return length;
}

/**
 * Reads a JSON header and checks it against the rules of https://huggingface.co/docs/safetensors and against the
 * `dataSize` bytes that follow it. Takes what the format's own reader takes, a `__metadata__` of null too, but for
 * what could be read in two ways or without bound: a key given twice, `__proto__`, a field of a tensor that is unknown,
 * white space before `{`, padding by anything but spaces, numbers of 2^53 and more, more than 100,000 tensors or 32
 * dimensions.
 */
function parseHeader(file: string, bytes: Uint8Array, dataSize: number): Pick<OpenFile, 'entries' | 'metadata'> {
  let tensor: string | undefined;
  const scan = new JsonScanner(bytes, (byte, message) => {
    const where = tensor === undefined ? '' : `tensor ${quote(tensor)}: `;
    throw new CheckpointError(`${file}: byte ${byte + PREFIX}: ${where}${message}`);
  });
  if (bytes[0] !== 0x7b) scan.fail(0, "the header does not start with '{'; this is not a safetensors file");
  const entries = new Map<string, SafeEntry>();
  const metadata = new Map<string, string>();
  scan.object('header', (key, at) => {
    if (key === '__metadata__') {
      if (scan.takeWord(/^null$/)) return;
      return scan.object(key, (name) => metadata.set(name, scan.string('a value of __metadata__')));
    }
    if (entries.size === TENSOR_LIMIT) scan.fail(at, `more than ${TENSOR_LIMIT} tensors`);
    tensor = key;
    entries.set(key, parseEntry(scan, at));
    tensor = undefined;
  });
  for (let i = scan.position; i < bytes.length; i++) {
    if (bytes[i] !== 0x20) scan.fail(i, 'the header is followed by something else than spaces');
  }
  const ordered = new Map([...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end));
  checkLayout(file, ordered, dataSize);
  return { entries: ordered, metadata };
}

function parseEntry(scan: JsonScanner, at: number): SafeEntry {
  const fields: { dtype?: SafeDType; shape?: number[]; data_offsets?: number[] } = {};
  scan.object('fields', (field, at) => {
    if (field === 'dtype') fields.dtype = parseDType(scan, at);
    else if (field === 'shape') fields.shape = integers(scan, field, RANK_LIMIT);
    else if (field === 'data_offsets') fields.data_offsets = integers(scan, field, 2);
    else scan.fail(at, `unknown field ${quote(field)}, expected dtype, shape and data_offsets`);
  });
  const { dtype, shape, data_offsets: offsets } = fields;
  if (!dtype || !shape || !offsets) {
    const missing = !dtype ? 'dtype' : !shape ? 'shape' : 'data_offsets';
    return scan.fail(at, `${missing} is missing, expected dtype, shape and data_offsets`);
  }
  const [begin, end] = offsets;
  if (offsets.length < 2 || end < begin) {
    scan.fail(at, `data_offsets [${offsets.join(', ')}], expected [begin, end] with begin ≤ end`);
  }
  const span = spanOf(dtype, shape);
  const tensor = `shape [${shape}] of ${dtype}`;
  if (Number.isNaN(span)) scan.fail(at, `${tensor} is no whole number of bytes below 2^53`);
  if (span !== end - begin) {
    scan.fail(at, `${tensor} needs ${span} bytes, data_offsets [${begin}, ${end}] give ${end - begin}`);
  }
  return { dtype, shape, begin, end };
}

function integers(scan: JsonScanner, what: string, limit: number): number[] {
  const list: number[] = [];
  scan.array(what, limit, () => list.push(scan.integer('shape or data_offsets')));
  // An array that grows takes room for 17 items, and there may be 100,000 of them.
  return list.slice();
}

function parseDType(scan: JsonScanner, at: number): SafeDType {
  const dtype = scan.string('dtype');
  if (isSafeDType(dtype)) return dtype;
  return scan.fail(at, `unknown dtype ${quote(dtype)}, expected one of ${Object.keys(SAFE_BITS).join(', ')}`);
}

/** The tensors must tile the data: from 0, without a hole or an overlap, to its very end. */
function checkLayout(file: string, entries: Map<string, SafeEntry>, dataSize: number): void {
  let end = 0;
  for (const [name, entry] of entries) {
    if (entry.begin !== end) {
      const fault = entry.begin > end ? 'leaves a hole' : 'overlaps another';
      throw new CheckpointError(
        `${file}: tensor ${quote(name)} ${fault}: it begins at data byte ${entry.begin}, expected ${end}`,
      );
    }
    end = entry.end;
  }
  if (end === dataSize) return;
  const fault = end > dataSize ? 'the file is cut off: fetch it again' : 'there are bytes that belong to no tensor';
  throw new CheckpointError(`${file}: ${dataSize} bytes of data, expected ${end} as the header says; ${fault}`);
}
