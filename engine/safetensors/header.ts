import { CheckpointError } from '../errors.ts';
import { isSafeDType, RANK_LIMIT, SAFE_BYTES, spanOf, TENSOR_LIMIT } from './format.ts';
import type { SafeDType, SafeEntry } from './format.ts';
import { JsonScanner, quote } from './json.ts';

/** Bytes before the header: its length as a little-endian u64. */
export const PREFIX = 8;

export interface Header {
  readonly entries: Map<string, SafeEntry>;
  readonly metadata: Map<string, string>;
}

/**
 * Reads the JSON header of a safetensors file and checks it against the format's rules and against the `dataSize`
 * bytes that follow it. Throws a CheckpointError that names the file, the byte (of the file) or tensor, and what was
 * expected. Format: https://huggingface.co/docs/safetensors
 */
export function parseHeader(file: string, bytes: Uint8Array, dataSize: number): Header {
  const fail = (byte: number, message: string): never => {
    throw new CheckpointError(`${file}: byte ${byte + PREFIX}: ${message}`);
  };
  if (bytes[0] !== 0x7b) fail(0, "the header does not start with '{'; this is not a safetensors file");
  const scan = new JsonScanner(bytes, fail);
  const entries = new Map<string, SafeEntry>();
  const metadata = new Map<string, string>();
  scan.object('header', (key, at) => {
    if (key === '__metadata__') {
      scan.object('__metadata__', (name) => metadata.set(name, scan.string(`__metadata__.${quote(name)}`)));
      return;
    }
    if (entries.size === TENSOR_LIMIT) fail(at, `more than ${TENSOR_LIMIT} tensors`);
    entries.set(key, parseEntry(scan, key, at, fail));
  });
  for (let i = scan.position; i < bytes.length; i++) {
    if (bytes[i] !== 0x20) fail(i, 'the header is followed by something else than spaces');
  }
  checkLayout(file, entries, dataSize);
  return { entries, metadata };
}

function parseEntry(
  scan: JsonScanner,
  name: string,
  at: number,
  fail: (byte: number, message: string) => never,
): SafeEntry {
  const tensor = `tensor ${quote(name)}`;
  let dtype = '';
  const lists: Record<string, number[] | undefined> = {};
  scan.object(tensor, (field, fieldAt) => {
    const what = `${tensor}, ${quote(field)}`;
    if (field === 'dtype') {
      dtype = scan.string(what);
      if (!isSafeDType(dtype)) {
        fail(fieldAt, `${what}: unknown type ${quote(dtype)}, expected one of ${Object.keys(SAFE_BYTES).join(', ')}`);
      }
    } else if (field === 'shape' || field === 'data_offsets') {
      const list: number[] = [];
      scan.array(what, field === 'shape' ? RANK_LIMIT : 2, () => list.push(scan.integer(what)));
      lists[field] = list;
    } else fail(fieldAt, `${what}: unknown field, expected dtype, shape and data_offsets`);
  });
  const { shape, data_offsets: offsets } = lists;
  if (!dtype || !shape || !offsets) {
    const missing = !dtype ? 'dtype' : !shape ? 'shape' : 'data_offsets';
    return fail(at, `${tensor}: ${missing} is missing, expected dtype, shape and data_offsets`);
  }
  return checkEntry({ dtype: dtype as SafeDType, shape, begin: offsets[0], end: offsets[1] }, tensor, at, fail);
}

function checkEntry(
  entry: SafeEntry,
  tensor: string,
  at: number,
  fail: (byte: number, message: string) => never,
): SafeEntry {
  const { dtype, shape, begin, end } = entry;
  if (end === undefined || end < begin) {
    fail(at, `${tensor}: data_offsets [${[begin, end].join(', ')}], expected [begin, end] with begin ≤ end`);
  }
  const span = spanOf(dtype, shape);
  if (Number.isNaN(span)) fail(at, `${tensor}: shape [${shape}] of ${dtype} has 2^53 bytes or more`);
  if (span !== end - begin) {
    fail(at, `${tensor}: shape [${shape}] of ${dtype} needs ${span} bytes, data_offsets [${begin}, ${end}] give ${end - begin}`);
  }
  return entry;
}

/** The tensors must tile the data: from 0, without a hole or an overlap, to its very end. */
function checkLayout(file: string, entries: Map<string, SafeEntry>, dataSize: number): void {
  const sorted = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const [name, entry] of sorted) {
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
