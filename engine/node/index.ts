export { dawnGpu, type DawnOptions, dawnVersion, releaseDawn } from './dawn.ts';
export { allowRelaxedSimd } from './relaxed-simd.ts';
export { diskFolder, fileSource, readFileWithin } from './source.ts';
export { systemError } from './system.ts';
