export { dawnGpu, type DawnOptions, dawnVersion, releaseDawn } from './dawn.ts';
export { disk } from './files.ts';
export type { FileSystem, OpenFile } from './files.ts';
export { allowRelaxedSimd } from './relaxed-simd.ts';
export { diskFolder, fileSource, readFileWithin } from './source.ts';
export { systemError } from './system.ts';
