import { diskFolder } from '../../../../../engine/node/index.ts';
import { Checkpoint } from '../../../../../engine/safetensors/index.ts';
import { imageTokens, kvHeads, type MatvlmConfig, ssmLayers } from '../../../config.ts';
import { isTrainable } from '../../../names.ts';
import { familyOf } from '../../../families/index.ts';
import { readModel } from '../../node/model-folder.ts';
import { cacheBytes, countByPart, outline } from '../../../sizes.ts';
import { checkKeys, readConfig } from '../../../weights.ts';
import type { infoTable } from './info.ts';
import type { Settings } from '../options/options.ts';
import { bytes, percent, print, printJson, table, thousands, warn } from '../terminal/output.ts';

/** What `info` tells of a folder. */
interface Facts {
  readonly folder: string;
  readonly config: MatvlmConfig;
  readonly parameters: number;
  readonly parts: Readonly<Record<string, number>>;
  readonly trainable: number;
  readonly weights: { readonly bytes: number; readonly dtypes: Readonly<Record<string, number>> };
  /** Bytes by context length; `attention` is what the same decoder without mixers would take. */
  readonly cache: readonly { readonly length: number; readonly bytes: number; readonly attention: number }[];
}

/** `matvlm info MODEL` */
export async function info(settings: Settings<typeof infoTable>, spec: string, json: boolean): Promise<void> {
  const facts = await readModel(spec, (folder) => readFacts(folder, settings.context), warn);
  if (json) printJson(facts);
  else show(facts);
}

async function readFacts(folder: string, context: readonly number[]): Promise<Facts> {
  const source = diskFolder(folder);
  const config = await readConfig(source);
  const checkpoint = await Checkpoint.open(source);
  try {
    const model = outline(config);
    checkKeys(model, checkpoint);
    const dtypes: Record<string, number> = {};
    for (const name of checkpoint.keys()) {
      const { dtype } = checkpoint.spec(name);
      dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
    }
    const count = (which?: (name: string) => boolean) =>
      [...countByPart(model, which).values()].reduce((a, b) => a + b, 0);
    const cache = context.map((length) => ({
      length,
      bytes: cacheBytes(config, length),
      attention: cacheBytes({ ...config, mamba: null }, length),
    }));
    const parts = Object.fromEntries(countByPart(model));
    const weights = { bytes: checkpoint.totalBytes, dtypes };
    const trainable = config.mamba ? count(isTrainable) : 0;
    return { folder, config, parameters: count(), parts, trainable, weights, cache };
  } finally {
    await checkpoint.close();
  }
}

function show({ folder, config, parameters, parts, trainable, weights, cache }: Facts): void {
  const { text_config: t, vision_config: c } = config.model;
  const mixers = ssmLayers(config);
  const kind =
    mixers.length > 0 ? `Mamba–Transformer hybrid, mixers in layers ${mixers.join(', ')}` : 'transformer (a teacher)';
  print(`${folder}: ${kind}`);
  print(
    `  images   ${c.image_size}×${c.image_size}, patch ${c.patch_size}, ${imageTokens(config.model)} tokens, ` +
      config.model.image_aspect_ratio,
  );
  print(
    `  tower    SigLIP, ${c.num_hidden_layers} layers of ${c.hidden_size}, ${c.num_attention_heads} heads, ` +
      `MLP ${c.intermediate_size}`,
  );
  print(
    `  decoder  ${familyOf(t).title}, ${t.num_hidden_layers} layers of ${t.hidden_size}, ${t.num_attention_heads} heads ` +
      `(${kvHeads(t)} for keys and values), MLP ${t.intermediate_size}, vocabulary ${thousands(t.vocab_size)}, ` +
      `context ${thousands(t.max_position_embeddings)}`,
  );
  print(`  prompt   template "${config.model.conv_version}"`);
  const dtypes = Object.entries(weights.dtypes).map(([dtype, count]) => `${count} × ${dtype}`);
  print(`  weights  ${bytes(weights.bytes)}, ${dtypes.join(', ')}`);
  print();
  const rows = Object.entries(parts).map(([part, count]) => [part, thousands(count), percent(count / parameters)]);
  print(table([['part', 'parameters', 'share'], ...rows, ['all', thousands(parameters), '']]));
  if (trainable > 0) {
    print();
    print(`${thousands(trainable)} of them are trained by distillation (mixers and connector).`);
  }
  print();
  const heading = mixers.length > 0 ? ['context', 'cache', 'with attention only'] : ['context', 'cache'];
  const sizes = cache.map(({ length, bytes: own, attention }) =>
    [thousands(length), bytes(own), bytes(attention)].slice(0, heading.length),
  );
  print(table([heading, ...sizes]));
}
