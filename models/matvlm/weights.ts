import type { Backend } from '../../engine/backend.ts';
import { byteLength, decode, type DType, expectDType, FLOATS, type HostArray } from '../../engine/dtype.ts';
import { CheckpointError } from '../../engine/errors.ts';
import { ConfigError } from '../nn/errors.ts';
import { listNames } from '../../engine/excerpt.ts';
import { type Checkpoint, type FolderSource, readWhole } from '../../engine/safetensors/index.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { sameShape, show } from '../../ops/common/shapes.ts';
import { parseJson } from '../nn/json.ts';
import { emptyParameters, hostFloats, type ParameterSource } from '../nn/parameters.ts';
import { type MatvlmConfig, parseConfig, withGeneration } from './config.ts';
import { checkPreprocessor } from './config-keys.ts';
import { MaTVLM } from './model.ts';
import { EMBEDDING, isTrainable } from './names.ts';
import { outline } from './sizes.ts';

/** Tells how far a load is: `loaded` of `total` bytes. */
export type OnProgress = (event: { file: string; loaded: number; total: number }) => void;

export interface LoadOptions {
  readonly onProgress?: OnProgress;
  /**
   * `stored`: matrices stay in the 16 bits that they have in the file, and are computed with in f32. `f32`: all is
   * widened; what is to be trained must be. Without a choice `stored`, but `f32` on WASM: with f16 prefill takes as long
   * there, but a token of a model that caches hold twice as long (2.5 M parameters; 1.04 times with 100 M).
   */
  readonly weights?: 'stored' | 'f32';
  readonly signal?: AbortSignal;
}

/** Elements that are read and written at a time. */
const PIECE = 2 ** 22;

/** Types of a file that a parameter can be kept in. */
const STORED: Readonly<Record<string, DType | undefined>> = { F16: 'f16', BF16: 'bf16' };

/** The bits of a 16-bit float that are all set in infinity and NaN. */
const EXPONENTS: Partial<Record<DType, number>> = { f16: 0x7c00, bf16: 0x7f80 };

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
  const total = names.reduce((sum, name) => sum + bytesOf(model.parameters.get(name)!), 0);
  let loaded = 0;
  for (const name of names) {
    const tensor = model.parameters.get(name)!;
    const { dtype, size } = tensor;
    expectDType('loadWeights', name, dtype, ...FLOATS);
    for (let first = 0; first < size; first += PIECE) {
      options.signal?.throwIfAborted();
      const count = Math.min(PIECE, size - first);
      const data = await checkpoint.readAs(name, dtype as (typeof FLOATS)[number], first, count);
      checkFinite(checkpoint.name, name, data, dtype, first);
      model.backend.write([tensor.buffer], [data], first);
      loaded += byteLength(dtype, count);
      options.onProgress?.({ file: checkpoint.name, loaded, total });
    }
  }
}

const bytesOf = ({ dtype, size }: Tensor): number => byteLength(dtype, size);

/** @throws CheckpointError naming the first element that is NaN or infinite; elements begin with number `first` */
function checkFinite(file: string, name: string, data: HostArray, dtype: DType, first: number): void {
  const exponent = EXPONENTS[dtype];
  let finite = true;
  if (exponent) for (let i = 0; i < data.length && finite; i++) finite = (data[i] & exponent) !== exponent;
  else {
    // 0·x is 0 for every finite x: one sum without a branch an element, as fast as memory.
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum += 0 * data[i];
    finite = sum === 0;
  }
  if (finite) return;
  const values = decode(dtype, data, data.length);
  const at = values.findIndex((x) => !Number.isFinite(x));
  throw new CheckpointError(`${file}: "${name}" holds ${values[at]} at element ${first + at}; the file is broken, get it again`);
}

/** A model of that configuration with the weights of an open checkpoint. */
export async function modelFrom(
  config: MatvlmConfig,
  checkpoint: Checkpoint,
  backend: Backend,
  options: LoadOptions = {},
): Promise<MaTVLM> {
  checkWeights(config, checkpoint);
  const { weights = backend.kind === 'wasm' ? 'f32' : 'stored' } = options;
  const stored = (name: string) => (checkpoint.has(name) ? STORED[checkpoint.spec(name).dtype] : undefined);
  const model = new MaTVLM(config, backend, emptyParameters(backend, weights === 'stored' ? stored : undefined));
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
  return (name, shape, formats) => {
    const shared = isTrainable(name) ? undefined : teacher.parameters.get(name);
    return shared ?? fresh(name, shape, formats);
  };
}

/** Host copies of the parameters that `which` names. */
export async function hostWeights(
  model: MaTVLM,
  which: (name: string) => boolean = () => true,
): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  for (const [name, tensor] of model.parameters) {
    if (which(name)) weights.set(name, await hostFloats(tensor));
  }
  return weights;
}

/** Frees a model's parameters, except those of a model it shares them with. */
export function disposeModel(model: MaTVLM, sharedWith: MaTVLM | null = null): void {
  for (const [name, tensor] of model.parameters) {
    if (sharedWith?.parameters.get(name) !== tensor && !tensor.disposed) tensor.dispose();
  }
}
