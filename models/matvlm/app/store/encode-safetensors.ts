import { ArgumentError } from '../../../../engine/errors.ts';
import { quote } from '../../../../engine/excerpt.ts';
import {
  isSafeDType,
  RANK_LIMIT,
  SAFE_ARRAYS,
  SAFE_BITS,
  type SafeDType,
  spanOf,
  TENSOR_LIMIT,
} from '../../../../engine/safetensors/format.ts';

/** Elements as a typed array of the dtype (f16, bf16 as Uint16Array) or as raw little-endian bytes. */
export type Piece = ArrayBufferView<ArrayBufferLike>;

/** A tensor to be written. `data` may be a function, called when its turn comes, so that one is held at a time. */
export interface SafeTensor {
  readonly name: string;
  readonly dtype: SafeDType;
  readonly shape: readonly number[];
  readonly data: Piece | (() => Piece | Promise<Piece> | AsyncIterable<Piece>);
}

/** Throws an ArgumentError that names the first tensor that the format cannot hold. */
export function checkTensors(tensors: readonly SafeTensor[]): void {
  const seen = new Set<string>();
  if (tensors.length > TENSOR_LIMIT) {
    throw new ArgumentError(`safetensors: ${tensors.length} tensors, expected at most ${TENSOR_LIMIT}`);
  }
  for (const { name, dtype, shape } of tensors) {
    const tensor = `safetensors: tensor ${quote(name)}`;
    if (name === '__metadata__' || name === '__proto__') throw new ArgumentError(`${tensor}: this name is reserved`);
    if (/\p{Surrogate}/u.test(name)) throw new ArgumentError(`${tensor}: half of a surrogate pair in the name`);
    if (seen.has(name)) throw new ArgumentError(`${tensor}: given twice, expected each name once`);
    if (!isSafeDType(dtype)) throw new ArgumentError(`${tensor}: unknown dtype ${quote(dtype)}`);
    const whole = shape.length <= RANK_LIMIT && shape.every((size) => Number.isSafeInteger(size) && size >= 0);
    if (!whole || Number.isNaN(spanOf(dtype, shape))) {
      throw new ArgumentError(`${tensor}: shape [${shape}], expected at most ${RANK_LIMIT} sizes of whole numbers ≥ 0 that ` +
          'make a whole number of bytes below 2^53');
    }
    seen.add(name);
  }
}

/**
 * Tensors in the order in which they are written: wide elements first, then by name, so that each begins at a
 * multiple of its element size.
 */
function inFileOrder(tensors: readonly SafeTensor[]): SafeTensor[] {
  const byName = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  return [...tensors].sort((a, b) => SAFE_BITS[b.dtype] - SAFE_BITS[a.dtype] || byName(a.name, b.name));
}

/** The length prefix and the JSON header, padded by spaces so that the data begins at a multiple of 8. */
function encodeHeader(ordered: readonly SafeTensor[], metadata: Readonly<Record<string, string>>): Uint8Array {
  let end = 0;
  const fields = ordered.map(({ name, dtype, shape }) => {
    const begin = end;
    end += spanOf(dtype, shape);
    return `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`;
  });
  if (Object.keys(metadata).length > 0) fields.unshift(`"__metadata__":${JSON.stringify(metadata)}`);
  const text = new TextEncoder().encode(`{${fields.join(',')}}`);
  const length = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  return bytes;
}

/**
 * A whole file, piece by piece: the header, then each tensor's bytes as they are asked for. Pieces may be views of
 * the caller's arrays: use one before asking for the next. Throws an ArgumentError for data that is not what dtype
 * and shape say.
 */
export async function* encode(
  tensors: readonly SafeTensor[],
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array> {
  checkTensors(tensors);
  const ordered = inFileOrder(tensors);
  yield encodeHeader(ordered, metadata);
  for (const tensor of ordered) {
    const expected = spanOf(tensor.dtype, tensor.shape);
    let total = 0;
    for await (const piece of piecesOf(tensor)) {
      total += piece.byteLength;
      if (total > expected) break;
      yield rawBytes(tensor, piece);
    }
    if (total === expected) continue;
    throw new ArgumentError(
      `safetensors: tensor ${quote(tensor.name)}: ${total > expected ? `more than ${expected}` : total} bytes of data, ` +
        `expected ${expected} for shape [${tensor.shape}] of ${tensor.dtype}`,
    );
  }
}

async function* piecesOf({ data }: SafeTensor): AsyncGenerator<Piece> {
  const given = typeof data === 'function' ? await data() : data;
  if (ArrayBuffer.isView(given)) yield given;
  else yield* given;
}

function rawBytes({ name, dtype }: SafeTensor, piece: Piece): Uint8Array {
  const kind = piece.constructor.name;
  const typed = SAFE_ARRAYS[dtype as keyof typeof SAFE_ARRAYS]?.name;
  const expected = new Set([...(typed ? [typed] : []), ...(dtype === 'F16' ? ['Float16Array'] : []), 'Uint8Array']);
  if (!(piece instanceof Uint8Array) && !expected.has(kind)) {
    throw new ArgumentError(`safetensors: tensor ${quote(name)}: ${kind} for ${dtype}, expected ${[...expected].join(' or ')}`);
  }
  return new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
}
