import { choice, count, number, numbers, optional, text, texts, toggle } from './options.ts';

/** Where a command's defaults differ. */
export interface TrainingDefaults {
  readonly name: string;
  readonly batch: number;
  readonly accumulate: number;
  readonly lr: number;
  readonly weightDecay: number;
  readonly clip: number;
  readonly decay: number;
  readonly checkpointing: boolean;
}

export const backendOption = optional(
  choice('what computes; WebGPU on a hardware adapter, else WASM, when not set', 'wasm', [
    'webgpu',
    'wasm',
    'reference',
  ]),
);

export const dataOption = texts('data sets: sort-of-clevr, easy-vqa, easy-vqa=FOLDER', ['sort-of-clevr'], '<sets>');

/** Settings that `train` and `distill` have in common. */
export function trainingOptions(d: TrainingDefaults) {
  return {
    data: dataOption,
    images: optional(count('images of each training set at most', 1)),
    batch: count('images in a batch', d.batch),
    questions: optional(count('questions drawn of each image, anew each time; all when not set', 1)),
    augment: toggle('train on symmetries of the images, another one each time, where a set has them', false),
    accumulate: number('batches to a step', d.accumulate, { whole: true, min: 1, max: 4096 }),
    lr: number('peak learning rate', d.lr, { above: 0 }),
    betas: numbers("AdamW's decay rates of the moments", [0.9, 0.95], { min: 0, below: 1 }, 2),
    eps: number("AdamW's epsilon", 1e-8, { above: 0 }),
    weightDecay: number('weight decay, on matrices only', d.weightDecay, { min: 0 }),
    clip: number('clip the global gradient norm here; 0 does not', d.clip, { min: 0 }),
    warmup: optional(count('steps of warmup; 2 % of all when not set', 0, 0)),
    decay: number('share of the steps, the last, in which the rate decays', d.decay, { min: 0, max: 1 }),
    checkpointing: toggle('recompute decoder layers in backward to save memory', d.checkpointing),
    maxSkipped: count('skipped steps in a row that stop the run', 20),
    seed: count('seed of all that is drawn', 0, 0),
    saveEvery: count('steps between checkpoints', 500),
    saveTotalLimit: count('checkpoints to keep', 3),
    evalEvery: count('steps between evaluations on the test split, with one before the first step and one at the end; 0 for none', 0, 0),
    evalImages: optional(count('test images of each set in these evaluations', 1)),
    finalEval: toggle('evaluate on the whole test split at the end', true),
    backend: backendOption,
    runs: text('folder of all runs', 'runs', '<folder>'),
    name: text('name of the run folder; it counts up when there is one', d.name, '<name>'),
  };
}

/** Flags of `train` and `distill` that others leave without effect. */
export const trainingIdle = {
  evalImages: ({ evalEvery }: { evalEvery: number }) =>
    evalEvery === 0 && 'without --eval-every there is no evaluation but the one at the end, on all images',
};

/** The flag that has `detail` speak. */
export const VERBOSE = ['--verbose', 'tell settings, folders and choices along the way'] as const;

/** Flags of `train` and `distill` that are no settings. */
export const TRAINING_EXTRAS = [
  VERBOSE,
  ['--resume [path]', 'go on with the newest run of that name, or with a run or checkpoint folder'],
  ['--override', 'with --resume: change what the run was made with, from the step on at which it is; logged'],
  ['--dry-run', 'tell parameters, memory, steps and time, and do nothing'],
] as const;
