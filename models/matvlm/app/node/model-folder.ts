import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CheckpointError } from '../../../../engine/errors.ts';
import { readFileWithin } from '../../../../engine/node/index.ts';
import { latestCheckpoint, listCheckpoints } from '../store/checkpoints.ts';
import { TOKENIZER_LIMIT } from '../../vlm.ts';
import { assetPath } from './package-root.ts';

/** Files that belong to a tokenizer; the first two must be there. */
const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
];

/** The models that come with the package, by name. */
export const SHIPPED = ['teacher', 'student'];

/**
 * The checkpoint folder that a user means: the folder itself, the newest whole checkpoint of a run folder, or
 * `teacher` and `student` for what comes with the package.
 * @throws CheckpointError when there is no such folder
 */
export async function modelFolder(spec: string, warn?: (line: string) => void): Promise<string> {
  if (existsSync(spec) && statSync(spec).isDirectory()) {
    if (existsSync(join(spec, 'config.json')) || (await listCheckpoints(spec)).length === 0) return spec;
    const latest = await latestCheckpoint(spec, { warn });
    if (latest) return latest.path;
    throw new CheckpointError(`${spec}: no checkpoint of this run is whole; give the folder of another model`);
  }
  if (SHIPPED.includes(spec) && existsSync(assetPath(spec))) return assetPath(spec);
  const what = existsSync(spec) ? 'is a file, expected the folder of a model' : 'there is no such folder';
  throw new CheckpointError(
    `${spec}: ${what}; give a checkpoint folder, a run folder, or one of ${SHIPPED.join(', ')}`,
  );
}

/** How often a run is looked at that deletes what is being read. */
const LOOKS = 20;

/**
 * Reads from the folder that a user means. It may be the newest checkpoint of a run that is being written, and be
 * deleted meanwhile: then reads again from what is the newest then.
 * @param read reads all that it needs; what it opened stays readable
 */
export async function readModel<T>(
  spec: string,
  read: (folder: string) => Promise<T>,
  warn?: (line: string) => void,
): Promise<T> {
  for (let look = 1; ; look++) {
    const folder = await modelFolder(spec, warn);
    try {
      return await read(folder);
    } catch (error) {
      if (existsSync(folder) || look === LOOKS) throw error;
    }
  }
}

/**
 * The tokenizer files of a folder as they are, for copies of it.
 * @throws CheckpointError for a folder that is deleted meanwhile
 */
export async function tokenizerFiles(folder: string): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of TOKENIZER_FILES) {
    const path = join(folder, name);
    if (!existsSync(path)) continue;
    files.set(name, await readFileWithin(path, TOKENIZER_LIMIT));
  }
  if (!existsSync(folder)) throw new CheckpointError(`${folder}: it was deleted while its tokenizer was read`);
  return files;
}
