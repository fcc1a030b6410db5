import { CheckpointError } from '../errors.ts';
import { TENSOR_LIMIT } from './format.ts';
import { quote } from '../excerpt.ts';
import { JsonScanner } from './json.ts';

const SHARD_LIMIT = 4096;

/** A bare file name: no folder, no drive, nothing hidden, nothing a URL would read as something else. */
const SHARD_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,250}\.safetensors$/;

/**
 * Reads `model.safetensors.index.json`: tensor name → shard file. Throws a CheckpointError that names the file, the
 * byte and what was expected; shard names with a path are refused.
 */
export function parseIndex(file: string, bytes: Uint8Array): Map<string, string> {
  const scan = new JsonScanner(bytes, (byte, message) => {
    throw new CheckpointError(`${file}: byte ${byte}: ${message}`);
  });
  const index = new Map<string, string>();
  const shards = new Set<string>();
  let found = false;
  scan.object('index', (key) => {
    if (key !== 'weight_map') return scan.skip(quote(key));
    found = true;
    scan.object('weight_map', (name, at) => {
      const shard = scan.string(`weight_map.${quote(name)}`);
      if (!SHARD_NAME.test(shard)) scan.fail(at, `shard ${quote(shard)}, expected a bare file name *.safetensors`);
      index.set(name, shard);
      shards.add(shard);
      if (index.size > TENSOR_LIMIT) scan.fail(at, `more than ${TENSOR_LIMIT} tensors`);
      if (shards.size > SHARD_LIMIT) scan.fail(at, `more than ${SHARD_LIMIT} shards`);
    });
  });
  if (scan.peek() !== -1) scan.fail(scan.position, 'something follows the index, expected the end');
  if (index.size > 0) return index;
  const fault = found ? 'empty' : 'missing';
  throw new CheckpointError(`${file}: weight_map is ${fault}, expected tensor names and their shards`);
}
