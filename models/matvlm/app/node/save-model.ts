import { join } from 'node:path';
import { NumericError } from '../../../nn/errors.ts';
import type { SafeTensor } from '../store/encode-safetensors.ts';
import type { Tensor } from '../../../../engine/tensor.ts';
import { hostFloats } from '../../../nn/parameters.ts';
import type { MatvlmConfig } from '../../config.ts';
import type { TrainerSnapshot } from '../../train/loop.ts';
import { type FileSystem, writeFileAtomic, writeFolderAtomic, writeSafetensors, writeShardedSafetensors } from '../store/index.ts';
import { modelCard, type CardFacts } from './model-card.ts';

/** Everything of a checkpoint folder but the trainer's part. */
export interface SaveOptions {
  readonly config: MatvlmConfig;
  /** The weights by their public names; `finiteTensors` gives those of a model. */
  readonly tensors: readonly SafeTensor[];
  /** tokenizer.json and its companions, as they are. */
  readonly tokenizer: ReadonlyMap<string, Uint8Array>;
  readonly card: CardFacts;
}

/** The trainer's part of a checkpoint. */
export interface TrainerPart {
  readonly snapshot: TrainerSnapshot;
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The settings that the state was made with; plain JSON. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/**
 * Writes a checkpoint folder, whole or not at all: model, configuration, tokenizer, card, and for one to resume from
 * also the optimiser's tensors and the trainer's and random state.
 * @throws NumericError naming the tensor when a weight is not finite: a broken model is never saved
 */
export function saveModel(path: string, options: SaveOptions, trainer: TrainerPart | null = null): Promise<void> {
  return writeFolderAtomic(path, async (folder, files) => {
    const write = (name: string, data: string | Uint8Array) => writeFileAtomic(join(folder, name), data, files);
    const { config } = options;
    await writeShardedSafetensors(folder, options.tensors, { files });
    await write('config.json', json(config.model));
    if (config.mamba) await write('mamba_config.json', json(config.mamba));
    for (const [name, bytes] of options.tokenizer) await write(name, bytes);
    await write('README.md', modelCard(config, options.card));
    if (trainer) await writeTrainer(folder, trainer, write, files);
  });
}

async function writeTrainer(
  folder: string,
  { snapshot, tensors, settings }: TrainerPart,
  write: (name: string, data: string) => Promise<void>,
  files: FileSystem,
): Promise<void> {
  await writeSafetensors(join(folder, 'optimizer.safetensors'), finiteTensors(tensors), { files });
  const { seed, ...state } = snapshot;
  await write('trainer_state.json', json({ ...state, settings }));
  // All that is drawn in step k follows from the seed and k: the seed is the whole random state.
  await write('rng_state.json', json({ seed, step: snapshot.state.step }));
}

/**
 * Tensors to be written, read from the device one at a time as their turn comes; a NumericError names the one that
 * holds NaN or infinity.
 */
export function finiteTensors(tensors: ReadonlyMap<string, Tensor>): SafeTensor[] {
  return [...tensors].map(([name, tensor]) => ({
    name,
    dtype: 'F32',
    shape: tensor.shape,
    data: async () => {
      const data = await hostFloats(tensor);
      const at = data.findIndex((x) => !Number.isFinite(x));
      if (at >= 0) {
        throw new NumericError(
          `"${name}" holds ${data[at]} at element ${at}: nothing was saved; the checkpoint before stays`,
        );
      }
      return data;
    },
  }));
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
