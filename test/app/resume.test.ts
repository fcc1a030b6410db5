// What a run is resumed from is believed only where the optimiser can have left it; readers beside one look again.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { CheckpointError } from '../../engine/errors.ts';
import { writeFileAtomic, writeFolderAtomic, writeSafetensors } from '../../models/matvlm/app/store/index.ts';
import { pruneCheckpoints } from '../../models/matvlm/app/store/checkpoints.ts';
import type { SafeTensor } from '../../models/matvlm/app/store/index.ts';
import { keep, scope } from '../../engine/scope.ts';
import { runSession, type Session } from '../../models/matvlm/app/cli/training/session.ts';
import { loadTrainer, trainerSettings, verifyTrainer } from '../../models/matvlm/app/node/load-trainer.ts';
import { readModel, tokenizerFiles } from '../../models/matvlm/app/node/model-folder.ts';
import { findResume, lockResumed } from '../../models/matvlm/app/node/run-folder.ts';
import { pretrainTask } from '../../models/matvlm/train/loop.ts';
import { AdamW } from '../../models/nn/optimiser.ts';
import { Vlm } from '../../models/matvlm/vlm.ts';
import { zeros } from '../../ops/index.ts';
import { rejects } from '../support/expect.ts';
import { freshFolder, freshPath } from '../support/folders.ts';
import { smallTeacher, tokenizer } from '../support/tiny-model.ts';

const backend = new ReferenceBackend();
const parameters = scope(() => new Map([['w', keep(zeros(backend, [4, 4]))], ['b', keep(zeros(backend, [4]))]]));
const optimiser = new AdamW(parameters, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 0 });

interface Saved {
  readonly folder: string;
  readonly tensors: Map<string, { dtype: SafeTensor['dtype']; shape: readonly number[]; data: Float32Array }>;
  readonly state: Record<string, number>;
  readonly random: Record<string, number>;
  readonly settings: Record<string, unknown>;
}

/** The trainer's part of a checkpoint after 7 steps, of which 2 were skipped. */
function sound(): Saved {
  const value: Record<string, number> = { exp_avg: -0.5, exp_avg_sq: 0.25, step: 5 };
  const tensors: Saved['tensors'] = new Map();
  for (const [name, { shape, size }] of optimiser.tensors()) {
    const data = new Float32Array(size).fill(value[name.split('.')[1]]);
    tensors.set(name, { dtype: 'F32', shape, data });
  }
  const state = { step: 7, skipped: 2, skippedInARow: 1, tokens: 70 };
  return { folder: 'checkpoint-7', tensors, state, random: { seed: 3, step: 7 }, settings: { lr: 0.5 } };
}

async function write({ folder, tensors, state, random, settings }: Saved): Promise<string> {
  const path = join(freshFolder(), folder);
  mkdirSync(path);
  const list = [...tensors].map(([name, { data, ...spec }]) => ({ name, ...spec, data: () => data }));
  await writeSafetensors(join(path, 'optimizer.safetensors'), list);
  writeFileSync(join(path, 'trainer_state.json'), JSON.stringify({ state, settings }));
  writeFileSync(join(path, 'rng_state.json'), JSON.stringify(random));
  return path;
}

/** Puts zeros of a shape in the place of a tensor. */
const shaped = (name: string, ...shape: number[]) => ({ tensors }: Saved) =>
  tensors.set(name, { dtype: 'F32', shape, data: new Float32Array(shape.reduce((a, b) => a * b)) });
/** Changes an element of a tensor. */
const holding = (name: string, at: number, value: number) => ({ tensors }: Saved) => (tensors.get(name)!.data[at] = value);

type Change = readonly [kind: string, change: (saved: Saved) => unknown, says: RegExp];
const DAMAGE: readonly Change[] = [
  ['another shape', shaped('w.exp_avg', 1), /"w.exp_avg" is F32 \[1\], expected F32 \[4, 4\]/],
  ['elements in another shape', shaped('w.exp_avg_sq', 16), /"w.exp_avg_sq" is F32 \[16\], expected F32 \[4, 4\]/],
  ['more than there is room for', shaped('b.exp_avg', 4096), /"b.exp_avg" is F32 \[4096\], expected F32 \[4\]/],
  ['a tensor of another model', shaped('x.exp_avg', 4), /"x.exp_avg" is F32 \[4\], expected no such tensor/],
  ['a very long name', shaped('x'.repeat(1e6), 4), /"x{119}…" is F32 \[4\], expected no such tensor/],
  ['a moment that is NaN', holding('w.exp_avg', 9, NaN), /"w.exp_avg" holds NaN at element 9/],
  [
    'a moment that is infinite',
    holding('b.exp_avg_sq', 1, Infinity),
    /"b.exp_avg_sq" holds Infinity at element 1, expected finite numbers from 0/,
  ],
  ['a second moment below 0', holding('w.exp_avg_sq', 0, -1e-30), /"w.exp_avg_sq" holds -1.0\d+e-30 at element 0/],
  ['more updates than steps were taken', holding('w.step', 0, 6), /"w.step" holds 6/],
  ['a part of an update', holding('b.step', 0, 0.5), /"b.step" holds 0.5/],
];
/** What is told without the tensors' data, so that a run falls back to the checkpoint before. */
const DISAGREEMENT: readonly Change[] = [
  ['folder and state', (saved) => Object.assign(saved, { folder: 'checkpoint-8' }), /state.step is 7, the folder's 8/],
  ['state and random state', ({ random }) => (random.step = 6), /rng_state.json: step is 6, that of trainer_state.json 7/],
  ['a text for a number', ({ state }) => Object.assign(state, { step: 'x'.repeat(1e5) }), /state.step is "x{118}…, expected/],
  ['more skipped than steps', ({ state }) => (state.skipped = 8), /state.skipped is 8, more than the 7 steps/],
  ['no settings', (saved) => Object.assign(saved, { settings: undefined }), /trainer_state.json: settings is undefined/],
  ['more skipped in a row than at all', ({ state }) => (state.skippedInARow = 3), /state.skippedInARow is 3/],
];

const resume = suite('the state that a run is resumed from');

resume('is read as it was written', async () => {
  const saved = sound();
  const { snapshot, tensors } = await loadTrainer(await write(saved), optimiser.tensors());
  assert.equal(snapshot, { state: saved.state, seed: 3 });
  for (const [name, { data }] of saved.tensors) assert.equal(tensors.get(name), data);
  assert.equal(await trainerSettings(await write(saved)), saved.settings);
});

for (const [kind, change, says] of [...DAMAGE, ...DISAGREEMENT]) {
  resume(`is refused: ${kind}`, async () => {
    const saved = sound();
    change(saved);
    const folder = await write(saved);
    const { message } = await rejects(loadTrainer(folder, optimiser.tensors()), CheckpointError, says);
    assert.match(message, 'resume another checkpoint');
    if (DAMAGE.some(([name]) => name === kind)) await verifyTrainer(folder);
    else await rejects(verifyTrainer(folder), CheckpointError, says);
  });
}

resume('that cannot be read leaves nothing of the optimiser in memory', async () => {
  const vlm = new Vlm(smallTeacher(backend), tokenizer);
  const task = pretrainTask(vlm.model);
  const before = backend.memory.buffers;
  const training = { optimiser: { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 0 } };
  for (const folder of [freshPath(), await write(sound())]) {
    const session = { task, vlm, training, resume: folder, run: { path: freshFolder() } } as unknown as Session;
    await rejects(runSession(session), CheckpointError);
    assert.is(backend.memory.buffers, before);
  }
  vlm.dispose();
});

const beside = suite('reading from a run that is written meanwhile');

/** Writes the next checkpoint of a run, of which all but the newest are deleted. */
async function advance(run: string, step: number): Promise<void> {
  await writeFolderAtomic(join(run, `checkpoint-${step}`), async (folder, files) => {
    for (const name of ['config.json', 'tokenizer.json']) await writeFileAtomic(join(folder, name), `${step}`, files);
  });
  await pruneCheckpoints(run, 1);
}

beside('looks again where the newest checkpoint is deleted', async () => {
  const run = freshFolder();
  await advance(run, 1);
  let step = 1;
  const read = async (folder: string) => {
    const config = readFileSync(join(folder, 'config.json'), 'utf8');
    if (step < 4) await advance(run, ++step);
    const tokenizer = await tokenizerFiles(folder);
    return [config, new TextDecoder().decode(tokenizer.get('tokenizer.json'))];
  };
  assert.equal(await readModel(run, read), ['4', '4']);
});

beside('passes an error on that has another cause', async () => {
  const run = freshFolder();
  await advance(run, 1);
  const mine = new Error('mine');
  let reads = 0;
  assert.is(await rejects(readModel(run, () => Promise.reject((reads++, mine))), Error), mine);
  assert.is(reads, 1);
});

beside('resumes no run that another process took further meanwhile', async () => {
  const [root, run] = [freshFolder(), freshFolder()];
  const save = (step: number) =>
    writeFolderAtomic(join(run, `checkpoint-${step}`), async (folder, files) => {
      const state = { step, skipped: 0, skippedInARow: 0, tokens: 1 };
      await writeFileAtomic(join(folder, 'trainer_state.json'), JSON.stringify({ state, settings: {} }), files);
      await writeFileAtomic(join(folder, 'rng_state.json'), JSON.stringify({ seed: 3, step }), files);
    });
  const find = () => findResume(run, root, 'further', assert.unreachable);
  await save(3);
  const point = await find();
  await save(4);
  await rejects(lockResumed(point), Error, 'resume it again');
  assert.equal(readdirSync(run).sort(), ['checkpoint-3', 'checkpoint-4']);
  const again = await find();
  assert.is(again.checkpoint.step, 4);
  await (await lockResumed(again)).release();
});

for (const tests of [resume, beside]) tests.run();
