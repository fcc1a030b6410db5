import { join } from 'node:path';
import { ArgumentError } from '../../../../engine/errors.ts';
import { systemError } from '../../../../engine/node/system.ts';
import { writeAtomic, writeFileAtomic } from './atomic.ts';
import { checkTensors, encode, type SafeTensor } from './encode-safetensors.ts';
import { disk } from './files.ts';
import type { FileSystem } from './files.ts';
import { encodeIndex, splitShards } from './split-shards.ts';

export interface WriteOptions {
  /** The header's `__metadata__`. transformers expects `format`, which is `pt` unless given. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly files?: FileSystem;
}

export interface ShardOptions extends WriteOptions {
  /** Bytes of data in one file at most; 5 GB unless given. */
  readonly maxShardSize?: number;
  /** The files' common name; `model` unless given. */
  readonly stem?: string;
}

/**
 * Writes a safetensors file, one tensor in memory at a time: complete under its name, or not at all.
 * Throws a SystemError for what the file system refuses and an ArgumentError for tensors that are not as declared.
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<SafeTensor>,
  { metadata = { format: 'pt' }, files = disk }: WriteOptions = {},
): Promise<void> {
  const list = [...tensors];
  return writeAtomic(
    path,
    async (write) => {
      for await (const piece of encode(list, metadata)) await write(piece);
    },
    files,
  );
}

/**
 * Writes `<stem>.safetensors`, or shards and `<stem>.safetensors.index.json` when the tensors exceed `maxShardSize`,
 * into a folder, and returns the file names. Several files cannot be replaced as one, so the folder must have none
 * of that stem yet: write into the fresh one that `writeFolderAtomic` gives.
 */
export async function writeShardedSafetensors(
  folder: string,
  tensors: Iterable<SafeTensor>,
  { metadata, files = disk, maxShardSize = 5e9, stem = 'model' }: ShardOptions = {},
): Promise<string[]> {
  const list = [...tensors];
  if (!(maxShardSize > 0)) throw new ArgumentError(`maxShardSize: ${maxShardSize}, expected bytes > 0`);
  checkTensors(list);
  await expectFresh(folder, stem, files);
  const shards = splitShards(list, stem, maxShardSize);
  for (const shard of shards) {
    await writeSafetensors(join(folder, shard.file), shard.tensors, { metadata, files });
  }
  const names = shards.map(({ file }) => file);
  if (shards.length === 1) return names;
  const index = `${stem}.safetensors.index.json`;
  await writeFileAtomic(join(folder, index), encodeIndex(shards), files);
  return [...names, index];
}

async function expectFresh(folder: string, stem: string, files: FileSystem): Promise<void> {
  const names = await files.list(folder).catch((error: unknown) => {
    throw systemError('write', folder, error);
  });
  const former = names.find((name) => name.startsWith(`${stem}.safetensors`) || name.startsWith(`${stem}-0`));
  if (!former) return;
  throw new ArgumentError(
    `${folder}: has ${former} already, expected a folder without ${stem} weights; choose a new one`,
  );
}
