import { spanOf } from '../../../../engine/safetensors/format.ts';
import type { SafeTensor } from './encode-safetensors.ts';

/** One file of a checkpoint and the tensors in it. */
export interface Shard {
  readonly file: string;
  readonly tensors: readonly SafeTensor[];
}

/**
 * Spreads tensors over files of at most `maxShardSize` bytes of data each (a larger tensor has a file of its own), in
 * the order given and with the names that transformers gives them.
 */
export function splitShards(tensors: readonly SafeTensor[], stem: string, maxShardSize: number): Shard[] {
  const groups: SafeTensor[][] = [[]];
  let size = 0;
  for (const tensor of tensors) {
    const span = spanOf(tensor.dtype, tensor.shape);
    if (size > 0 && size + span > maxShardSize) {
      groups.push([]);
      size = 0;
    }
    groups.at(-1)!.push(tensor);
    size += span;
  }
  if (groups.length === 1) return [{ file: `${stem}.safetensors`, tensors }];
  const digits = (n: number) => String(n).padStart(5, '0');
  return groups.map((group, i) => ({
    file: `${stem}-${digits(i + 1)}-of-${digits(groups.length)}.safetensors`,
    tensors: group,
  }));
}

/** The text of `<stem>.safetensors.index.json` for these files. */
export function encodeIndex(shards: readonly Shard[]): string {
  const map = new Map<string, string>();
  let total = 0;
  for (const { file, tensors } of shards) {
    for (const { name, dtype, shape } of tensors) {
      map.set(name, file);
      total += spanOf(dtype, shape);
    }
  }
  const weights = Object.fromEntries([...map].sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify({ metadata: { total_size: total }, weight_map: weights }, null, 2)}\n`;
}
