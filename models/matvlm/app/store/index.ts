/** What is written is never lost or half-written: files and folders that come into being as a whole, weights, checkpoints. */
export { isCompleteFolder, writeAtomic, writeFileAtomic, writeFolderAtomic } from './atomic.ts';
export type { Write } from './atomic.ts';
export { disk } from './files.ts';
export type { FileSystem, OpenFile } from './files.ts';
export { encode, type Piece, type SafeTensor } from './encode-safetensors.ts';
export { encodeIndex, type Shard, splitShards } from './split-shards.ts';
export { writeSafetensors, writeShardedSafetensors } from './write-safetensors.ts';
export type { ShardOptions, WriteOptions } from './write-safetensors.ts';
