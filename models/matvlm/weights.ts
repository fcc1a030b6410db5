import type { Backend } from '../../engine/backend.ts';
import { CheckpointError, ConfigError } from '../../engine/errors.ts';
import { listNames } from '../../engine/excerpt.ts';
import { type Checkpoint, type FolderSource, readWhole } from '../../engine/safetensors/index.ts';
import { sameShape, show } from '../../ops/common/shapes.ts';
import { parseJson } from '../nn/json.ts';
import { emptyParameters, type ParameterSource } from '../nn/parameters.ts';
import { type MatvlmConfig, parseConfig, withGeneration } from './config.ts';
import { checkPreprocessor } from './config-keys.ts';
import { MaTVLM } from './model.ts';
import { EMBEDDING, isTrainable } from './names.ts';
import { outline } from './sizes.ts';

/** Tells how far a load is: `loaded` of `total` bytes. */
export type OnProgress = (event: { file: string; loaded: number; total: number }) => void;

export interface LoadOptions {
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

/** SigLIP's pooling head: in public checkpoints, used by nothing. */
const UNUSED = /^vision_tower\._vision_tower\.vision_model\.head\./;

/** Largest config file that is read. */
const CONFIG_LIMIT = 2 ** 20;

/** Reads and parses a JSON file of a folder; null when it is not there. @throws ConfigError when it is no JSON */
export async function readJson(folder: FolderSource, file: string, limit = CONFIG_LIMIT): Promise<unknown> {
  const source = await folder.open(file);
  if (!source) return null;
  try {
    return parseJson(new TextDecoder().decode(await readWhole(source, limit)), source.name, ConfigError);
  } finally {
    await source.close();
  }
}

const GENERATION = 'generation_config.json';
const PREPROCESSOR = 'preprocessor_config.json';

/**
 * `config.json` and, if there, `mamba_config.json` of a checkpoint folder. The ids that end an answer may also stand in
 * `generation_config.json`; all else there and in `preprocessor_config.json` must be what is done here anyway.
 * @throws ConfigError naming file and key
 */
export async function readConfig(folder: FolderSource): Promise<MatvlmConfig> {
  const [model, mamba, generation, preprocessor] = await Promise.all(
    ['config.json', 'mamba_config.json', GENERATION, PREPROCESSOR].map((file) => readJson(folder, file)),
  );
  if (model === null) {
    throw new ConfigError(`${folder.name}: no config.json; give the folder of a checkpoint`);
  }
  const config = parseConfig(model, mamba, `${folder.name}/config.json`);
  const { image_size } = config.model.vision_config;
  if (preprocessor !== null) checkPreprocessor(preprocessor, `${folder.name}/${PREPROCESSOR}`, image_size);
  return generation === null ? config : withGeneration(config, generation, `${folder.name}/${GENERATION}`);
}

/**
 * Compares a model's parameters with a checkpoint's tensors. A missing or unexpected key, or another shape, is an
 * error that names it: nothing is ever left unloaded silently.
 * @throws CheckpointError
 */
export function checkKeys(model: MaTVLM, checkpoint: Checkpoint): void {
  const missing = [...model.parameters.keys()].filter((name) => !checkpoint.has(name));
  if (missing.length > 0) {
    throw new CheckpointError(
      `${checkpoint.name}: missing ${listNames(missing)}; config.json asks for it, so config and weights do not match`,
    );
  }
  const unexpected = checkpoint.keys().filter((name) => !model.parameters.has(name) && !UNUSED.test(name));
  if (unexpected.length > 0) {
    throw new CheckpointError(
      `${checkpoint.name}: unexpected ${listNames(unexpected)}; config.json describes no such parameter`,
    );
  }
  for (const [name, tensor] of model.parameters) {
    const { shape } = checkpoint.spec(name);
    if (!sameShape(shape, tensor.shape)) {
      throw new CheckpointError(`${checkpoint.name}: "${name}" has shape ${show(shape)}, config.json gives ${show(tensor.shape)}`);
    }
  }
}

/**
 * Fills a model's parameters from a checkpoint, one tensor at a time in the order of the files; `only` leaves the others
 * as they are.
 */
export async function loadWeights(
  model: MaTVLM,
  checkpoint: Checkpoint,
  options: LoadOptions = {},
  only: (name: string) => boolean = () => true,
): Promise<void> {
  checkKeys(model, checkpoint);
  const names = checkpoint.keys().filter((name) => model.parameters.has(name) && only(name));
  const total = names.reduce((sum, name) => sum + model.parameters.get(name)!.size * 4, 0);
  let loaded = 0;
  for (const name of names) {
    options.signal?.throwIfAborted();
    const tensor = model.parameters.get(name)!;
    const data = await checkpoint.readAs(name, 'f32');
    checkFinite(checkpoint.name, name, data);
    model.backend.write(tensor.buffer, data);
    loaded += tensor.size * 4;
    options.onProgress?.({ file: checkpoint.name, loaded, total });
  }
}

/** @throws CheckpointError naming the first element that is NaN or infinite */
function checkFinite(file: string, name: string, data: Float32Array): void {
  // 0·x is 0 for every finite x: one sum without a branch an element, as fast as memory.
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += 0 * data[i];
  if (sum === 0) return;
  const at = data.findIndex((x) => !Number.isFinite(x));
  throw new CheckpointError(`${file}: "${name}" holds ${data[at]} at element ${at}; the file is broken, get it again`);
}

/** A model of that configuration with the weights of an open checkpoint. */
export async function modelFrom(
  config: MatvlmConfig,
  checkpoint: Checkpoint,
  backend: Backend,
  options: LoadOptions = {},
): Promise<MaTVLM> {
  checkWeights(config, checkpoint);
  const model = new MaTVLM(config, backend, emptyParameters(backend));
  return finished(model, null, async () => {
    await loadWeights(model, checkpoint, options);
    // A GPU may tell only now that it had no room.
    await backend.sync();
  });
}

/**
 * Hands over a model once `fill` has given it its weights; when that throws, what is the model's own is freed.
 * @param sharedWith the model whose tensors it shares
 */
export async function finished(
  model: MaTVLM,
  sharedWith: MaTVLM | null,
  fill: () => void | Promise<void>,
): Promise<MaTVLM> {
  try {
    await fill();
    return model;
  } catch (error) {
    disposeModel(model, sharedWith);
    throw error;
  }
}

/** Compares a configuration with a checkpoint's tensors, whose data is not read. @throws CheckpointError naming one */
export function checkWeights(config: MatvlmConfig, checkpoint: Checkpoint): void {
  checkEmbedding(config, checkpoint);
  checkKeys(outline(config), checkpoint);
}

/** The likeliest contradiction, told in the words of the config. */
function checkEmbedding(config: MatvlmConfig, checkpoint: Checkpoint): void {
  const { vocab_size, hidden_size } = config.model.text_config;
  if (!checkpoint.has(EMBEDDING)) return;
  const { shape } = checkpoint.spec(EMBEDDING);
  if (!sameShape(shape, [vocab_size, hidden_size])) {
    throw new CheckpointError(
      `${checkpoint.name}: "${EMBEDDING}" has shape ${show(shape)}, but config.json gives vocab_size ${vocab_size} and hidden_size ${hidden_size}`,
    );
  }
}

/**
 * Parameters of a student that shares all frozen tensors with its teacher: one copy in memory. What is trained gets
 * tensors of its own.
 */
export function sharedParameters(teacher: MaTVLM): ParameterSource {
  const fresh = emptyParameters(teacher.backend);
  return (name, shape) => {
    const shared = isTrainable(name) ? undefined : teacher.parameters.get(name);
    return shared ?? fresh(name, shape);
  };
}

/** Host copies of the parameters that `which` names. */
export async function hostWeights(
  model: MaTVLM,
  which: (name: string) => boolean = () => true,
): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  for (const [name, tensor] of model.parameters) {
    if (which(name)) weights.set(name, Float32Array.from(await tensor.data()));
  }
  return weights;
}

/** Frees a model's parameters, except those of a model it shares them with. */
export function disposeModel(model: MaTVLM, sharedWith: MaTVLM | null = null): void {
  for (const [name, tensor] of model.parameters) {
    if (sharedWith?.parameters.get(name) !== tensor && !tensor.disposed) tensor.dispose();
  }
}
