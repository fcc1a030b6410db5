import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig } from '../models/matvlm/config.ts';
import { outline } from '../models/matvlm/sizes.ts';

/** `config.json` at the sizes of TinyLLaVA-Phi-2-SigLIP-3.1B. */
const CONFIG = {
  model_type: 'tinyllava',
  connector_type: 'mlp2x_gelu',
  vision_config: {
    model_type: 'siglip_vision_model',
    hidden_size: 1152,
    image_size: 384,
    intermediate_size: 4304,
    num_attention_heads: 16,
    num_hidden_layers: 27,
    patch_size: 14,
  },
  text_config: {
    model_type: 'phi',
    hidden_size: 2560,
    intermediate_size: 10240,
    num_attention_heads: 32,
    num_hidden_layers: 32,
    partial_rotary_factor: 0.4,
    vocab_size: 51200,
    max_position_embeddings: 3072,
  },
};

/** Bytes of tensors in a shard at most. */
const SHARD = 5e9;

interface Shard {
  readonly entries: Record<string, { dtype: 'F16'; shape: readonly number[]; data_offsets: [number, number] }>;
  size: number;
}

/** Writes a checkpoint of 3.1 billion f16 zeros with true headers; the files take no room on the disk. */
export async function writeSparseCheckpoint(folder: string): Promise<{ bytes: number; tensors: number; shards: number }> {
  const { parameters } = outline(parseConfig(CONFIG));
  const shards: Shard[] = [];
  for (const [name, { shape, size }] of parameters) {
    if (shards.length === 0 || shards.at(-1)!.size + 2 * size > SHARD) shards.push({ entries: {}, size: 0 });
    const shard = shards.at(-1)!;
    shard.entries[name] = { dtype: 'F16', shape, data_offsets: [shard.size, shard.size + 2 * size] };
    shard.size += 2 * size;
  }
  const file = (i: number) => `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
  const weight_map: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    for (const name of Object.keys(shard.entries)) weight_map[name] = file(i);
    await writeSparse(join(folder, file(i)), shard);
  }
  const bytes = shards.reduce((sum, shard) => sum + shard.size, 0);
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: { total_size: bytes }, weight_map }));
  await writeFile(join(folder, 'config.json'), JSON.stringify(CONFIG));
  return { bytes, tensors: parameters.size, shards: shards.length };
}

const number = (i: number) => String(i).padStart(5, '0');

async function writeSparse(path: string, { entries, size }: Shard): Promise<void> {
  const json = JSON.stringify(entries);
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const handle = await open(path, 'w');
  try {
    await handle.write(Buffer.concat([length, header]));
    await handle.truncate(8 + header.length + size);
  } finally {
    await handle.close();
  }
}
