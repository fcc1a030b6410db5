import { CheckpointError } from '../errors.ts';
import { HEADER_LIMIT } from './format.ts';
import { type Header, parseHeader, PREFIX } from './header.ts';
import type { ByteSource } from './source.ts';

/** A safetensors file whose header was read and checked. */
export interface OpenFile extends Header {
  readonly source: ByteSource;
  /** Where the data begins, in bytes of the file. */
  readonly dataBegin: number;
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

async function headerLength(source: ByteSource, size: number): Promise<number> {
  if (size < PREFIX + 2) {
    throw new CheckpointError(`${source.name}: ${size} bytes, expected at least ${PREFIX + 2}; it is empty or cut off`);
  }
  const prefix = await source.read(0, PREFIX);
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  if (length > HEADER_LIMIT) {
    const hint = whatItIs(prefix) ?? 'this is not a safetensors file, or it is damaged';
    throw new CheckpointError(
      `${source.name}: byte 0: header of ${length} bytes, expected at most ${HEADER_LIMIT}; ${hint}`,
    );
  }
  if (length < 2) throw new CheckpointError(`${source.name}: byte 0: header of ${length} bytes, expected at least 2`);
  if (length > size - PREFIX) {
    throw new CheckpointError(
      `${source.name}: byte 0: header of ${length} bytes, expected at most the ${size - PREFIX} that follow; ` +
        'the file is cut off: fetch it again',
    );
  }
  return length;
}

/** The usual mistakes, known by their first bytes. */
function whatItIs(prefix: Uint8Array): string | undefined {
  const text = String.fromCharCode(...prefix).toLowerCase();
  if (text.startsWith('version ')) return 'this is a Git LFS pointer: fetch the file itself (git lfs pull)';
  if (text.startsWith('<')) return 'this is a web page: the address is wrong or needs a login';
  if (text.startsWith('pk')) return 'this is a PyTorch or zip archive: convert it to safetensors first';
  if (text.startsWith('gguf')) return 'this is a GGUF file: expected safetensors';
  return undefined;
}
