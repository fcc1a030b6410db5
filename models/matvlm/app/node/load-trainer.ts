import { basename, join, resolve } from 'node:path';
import * as v from 'valibot';
import { CheckpointError } from '../../../../engine/errors.ts';
import { diskFolder, readFileWithin } from '../../../../engine/node/index.ts';
import { cut, quote } from '../../../../engine/excerpt.ts';
import { Checkpoint } from '../../../../engine/safetensors/index.ts';
import type { Tensor } from '../../../../engine/tensor.ts';
import { sameShape, show } from '../../../../ops/common/shapes.ts';
import { parseJson } from '../../../nn/json.ts';
import type { TrainerSnapshot } from '../../train/loop.ts';

/** Largest file of a trainer's state that is read. */
const STATE_LIMIT = 2 ** 20;

/** What to do about a part of a checkpoint that is not what it was. */
const OTHER = 'resume another checkpoint';

const whole = v.pipe(v.number(), v.integer(), v.minValue(0));
const StateSchema = v.object({
  state: v.object({ step: whole, skipped: whole, skippedInARow: whole, tokens: whole }),
  settings: v.record(v.string(), v.unknown()),
});
const RandomSchema = v.object({ seed: whole, step: whole });

/** What the elements of a tensor can be, by the end of its name: the moments and counts that AdamW leaves. */
const RANGES: Record<string, { readonly expected: string; readonly fits: (x: number, taken: number) => boolean }> = {
  exp_avg: { expected: 'finite numbers', fits: Number.isFinite },
  exp_avg_sq: { expected: 'finite numbers from 0', fits: (x) => x >= 0 && x < Infinity },
  step: {
    expected: 'whole numbers from 0 to the steps that the run has taken',
    fits: (x, taken) => Number.isInteger(x) && x >= 0 && x <= taken,
  },
};

/**
 * What `saveModel` wrote of a trainer.
 * @param expected the optimiser's tensors, by name, that are to be restored
 * @throws CheckpointError naming file and field, or the tensor that is not of this optimiser or that it cannot have left
 */
export async function loadTrainer(
  folder: string,
  expected: ReadonlyMap<string, Tensor>,
): Promise<{ snapshot: TrainerSnapshot; tensors: Map<string, Float32Array> }> {
  const { snapshot } = await readFiles(folder);
  const checkpoint = await Checkpoint.open(diskFolder(folder), 'optimizer');
  try {
    checkSpecs(checkpoint, expected);
    const { step, skipped } = snapshot.state;
    const tensors = new Map<string, Float32Array>();
    for (const name of checkpoint.keys()) {
      const data = await checkpoint.readAs(name, 'f32');
      checkRange(`${checkpoint.name}/optimizer.safetensors: "${name}"`, name, data, step - skipped);
      tensors.set(name, data);
    }
    return { snapshot, tensors };
  } finally {
    await checkpoint.close();
  }
}

/** @throws CheckpointError for a tensor of another optimiser, or of another dtype or shape than that has */
function checkSpecs(checkpoint: Checkpoint, expected: ReadonlyMap<string, Tensor>): void {
  for (const name of checkpoint.keys()) {
    const { dtype, shape } = checkpoint.spec(name);
    const tensor = expected.get(name);
    const what = tensor ? `F32 ${show(tensor.shape)}` : 'no such tensor';
    if (tensor && dtype === 'F32' && sameShape(shape, tensor.shape)) continue;
    throw new CheckpointError(
      `${checkpoint.name}/optimizer.safetensors: ${quote(name)} is ${dtype} ${show(shape)}, expected ${what}; ${OTHER}`,
    );
  }
}

function checkRange(where: string, name: string, data: Float32Array, taken: number): void {
  const { expected, fits } = RANGES[name.slice(name.lastIndexOf('.') + 1)];
  const at = data.findIndex((x) => !fits(x, taken));
  if (at >= 0) throw new CheckpointError(`${where} holds ${data[at]} at element ${at}, expected ${expected}; ${OTHER}`);
}

/** Checks the small files that a trainer is restored from. @throws CheckpointError naming file and field */
export async function verifyTrainer(folder: string): Promise<void> {
  await readFiles(folder);
}

/** The settings with which the state of a checkpoint was made. @throws CheckpointError naming file and field */
export async function trainerSettings(folder: string): Promise<TrainerFiles['settings']> {
  return (await readFiles(folder)).settings;
}

interface TrainerFiles {
  readonly snapshot: TrainerSnapshot;
  readonly settings: Readonly<Record<string, unknown>>;
}

/** Reads the small files, which must agree with each other and with the folder's name. */
async function readFiles(folder: string): Promise<TrainerFiles> {
  const { state, settings } = await readState(join(folder, 'trainer_state.json'), StateSchema);
  const random = await readState(join(folder, 'rng_state.json'), RandomSchema);
  const [, named] = /^checkpoint-(\d+)$/.exec(basename(resolve(folder))) ?? [];
  const { step, skipped, skippedInARow } = state;
  const rows: readonly (readonly [fits: boolean, file: string, what: string])[] = [
    [named === undefined || step === Number(named), 'trainer_state.json', `state.step is ${step}, the folder's ${named}`],
    [skipped <= step, 'trainer_state.json', `state.skipped is ${skipped}, more than the ${step} steps`],
    [skippedInARow <= skipped, 'trainer_state.json', `state.skippedInARow is ${skippedInARow}, state.skipped ${skipped}`],
    [random.step === step, 'rng_state.json', `step is ${random.step}, that of trainer_state.json ${step}`],
  ];
  const wrong = rows.find(([fits]) => !fits);
  if (wrong) throw new CheckpointError(`${join(folder, wrong[1])}: ${wrong[2]}; ${OTHER}`);
  return { snapshot: { state, seed: random.seed }, settings };
}

async function readState<T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<T> {
  const text = new TextDecoder().decode(await readFileWithin(path, STATE_LIMIT));
  const json = parseJson(text, path, CheckpointError);
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue) ?? 'the whole file';
  throw new CheckpointError(
    `${path}: ${field} is ${cut(issue.received, 120)}, expected ${issue.expected ?? 'a whole number'}; ${OTHER}`,
  );
}
