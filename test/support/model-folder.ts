import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { encode } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { emptyParameters, hostFloats } from '../../models/nn/parameters.ts';
import { Random } from '../../models/nn/random.ts';
import { mambaConfig } from '../../models/matvlm/config.ts';
import { initialise } from '../../models/matvlm/initialise.ts';
import { MaTVLM } from '../../models/matvlm/model.ts';
import { saveModel } from '../../models/matvlm/app/node/save-model.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../../models/matvlm/data/word-tokenizer.ts';
import { smallConfig } from './tiny-model.ts';

/**
 * Writes a checkpoint folder of the small configuration with seeded random weights; with `mambaLayers` it is a student's.
 * @param dtype what weights are rounded to
 */
export async function writeRandomModel(
  path: string,
  seed: number,
  mambaLayers: readonly number[] = [],
  dtype: 'F32' | 'F16' | 'BF16' = 'F32',
): Promise<void> {
  const base = smallConfig();
  const backend = new ReferenceBackend();
  const mamba = mambaLayers.length > 0 ? mambaConfig(base.model.text_config, mambaLayers) : null;
  const config = { ...base, mamba };
  const model = new MaTVLM(config, backend, emptyParameters(backend));
  initialise(model, new Random(seed));
  const texts = Object.entries(tokenizerFileTexts(tinyTokenizer()));
  await saveModel(path, {
    config,
    tensors: [...model.parameters].map(([name, tensor]) => ({ name, dtype, shape: tensor.shape, data: () => rounded(tensor, dtype) })),
    tokenizer: new Map(texts.map(([name, text]) => [name, new TextEncoder().encode(text)])),
    card: { title: 'A model for tests', command: ['none'] },
  });
}

async function rounded(tensor: Tensor, dtype: 'F32' | 'F16' | 'BF16'): Promise<Float32Array | Uint16Array> {
  const values = await hostFloats(tensor);
  if (dtype === 'F32') return values;
  const bits = new Uint16Array(values.length);
  encode(dtype === 'F16' ? 'f16' : 'bf16', values, bits);
  return bits;
}
