import { join } from 'node:path';
import * as v from 'valibot';
import { CheckpointError } from '../../../engine/errors.ts';
import { diskFolder, readFileWithin } from '../../../engine/node/index.ts';
import { parseJson } from '../../../engine/json.ts';
import { Checkpoint } from '../../../engine/safetensors/index.ts';
import type { TrainerSnapshot } from '../train/loop.ts';

/** Largest file of a trainer's state that is read. */
const STATE_LIMIT = 2 ** 20;

const whole = v.pipe(v.number(), v.integer(), v.minValue(0));
const StateSchema = v.object({
  state: v.object({ step: whole, skipped: whole, skippedInARow: whole, tokens: whole }),
});
const RandomSchema = v.object({ seed: whole, step: whole });

/** What `saveModel` wrote of a trainer. @throws CheckpointError naming file and field */
export async function loadTrainer(
  folder: string,
): Promise<{ snapshot: TrainerSnapshot; tensors: Map<string, Float32Array> }> {
  const { state, random } = await readStates(folder);
  const checkpoint = await Checkpoint.open(diskFolder(folder), 'optimizer');
  try {
    const tensors = new Map<string, Float32Array>();
    for (const name of checkpoint.keys()) tensors.set(name, await checkpoint.readAs(name, 'f32'));
    return { snapshot: { ...state, seed: random.seed }, tensors };
  } finally {
    await checkpoint.close();
  }
}

/** Checks the small files that a trainer is restored from. @throws CheckpointError naming file and field */
export async function verifyTrainer(folder: string): Promise<void> {
  await readStates(folder);
}

async function readStates(folder: string) {
  const state = await readState(join(folder, 'trainer_state.json'), StateSchema);
  const random = await readState(join(folder, 'rng_state.json'), RandomSchema);
  return { state, random };
}

async function readState<T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<T> {
  const text = new TextDecoder().decode(await readFileWithin(path, STATE_LIMIT));
  const json = parseJson(text, path, CheckpointError);
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue) ?? 'the whole file';
  throw new CheckpointError(
    `${path}: ${field} is ${issue.received}, expected ${issue.expected ?? 'a whole number'}; resume another checkpoint`,
  );
}
