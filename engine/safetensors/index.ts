export { Checkpoint } from './checkpoint.ts';
export { convert } from './convert.ts';
export type { ArrayOf, ReadKind } from './convert.ts';
export { isSafeDType, SAFE_BITS, spanOf } from './format.ts';
export type { SafeDType, SafeEntry } from './format.ts';
export { blobSource, bytesSource, filesFolder, readWhole } from './source.ts';
export type { ByteSource, FolderSource } from './source.ts';
