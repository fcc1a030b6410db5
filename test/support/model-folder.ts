import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { type MatvlmConfig, mambaConfig, parseConfig } from '../../models/matvlm/config.ts';
import { initialise } from '../../models/matvlm/initialise.ts';
import { MaTVLM } from '../../models/matvlm/model.ts';
import { finiteTensors, saveModel } from '../../models/matvlm/node/save-model.ts';
import { tinyConfig } from '../../models/matvlm/presets.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../../models/matvlm/word-tokenizer.ts';
import { emptyParameters } from '../../engine/module.ts';
import { Random } from '../../engine/random.ts';
import { tokenizer } from './tiny-model.ts';

/** The small preset's shape with fewer layers, to load and answer in a moment. */
function configOf(mambaLayers: readonly number[]): MatvlmConfig {
  const json = tinyConfig(tokenizer.size) as { text_config: object; vision_config: object };
  const config = parseConfig({
    ...json,
    vision_config: { ...json.vision_config, num_hidden_layers: 1 },
    text_config: { ...json.text_config, num_hidden_layers: 3 },
  });
  return mambaLayers.length > 0 ? { ...config, mamba: mambaConfig(config.model.text_config, mambaLayers) } : config;
}

/** Writes a checkpoint folder with seeded random weights; with `mambaLayers` it is a student's. */
export async function writeRandomModel(path: string, seed: number, mambaLayers: readonly number[] = []): Promise<void> {
  const backend = new ReferenceBackend();
  const config = configOf(mambaLayers);
  const model = new MaTVLM(config, backend, emptyParameters(backend));
  initialise(model, new Random(seed));
  const texts = Object.entries(tokenizerFileTexts(tinyTokenizer()));
  await saveModel(path, {
    config,
    tensors: finiteTensors(model.parameters),
    tokenizer: new Map(texts.map(([name, text]) => [name, new TextEncoder().encode(text)])),
    card: { title: 'A model for tests', command: 'none' },
  });
}
