import { defineCommand } from '../command.ts';
import { count, optional, text } from '../options/options.ts';
import { trainingIdle, trainingOptions, TRAINING_EXTRAS } from '../options/training-options.ts';

export const trainTable = {
  model: text('configuration to train from nothing: "tiny", or a config.json', 'tiny', '<name|file>'),
  tokenizer: optional(text('folder of a tokenizer; the small one of the package when not set', '', '<folder>')),
  steps: count('training steps', 15_000),
  ...trainingOptions({
    name: 'train',
    batch: 64,
    accumulate: 1,
    lr: 1e-3,
    weightDecay: 0.05,
    clip: 1,
    decay: 0.4,
    checkpointing: false,
  }),
};

export default defineCommand({
  about:
    'Trains a vision-language model from nothing: SigLIP tower, connector and Phi decoder, on answers to questions ' +
    'about images. The result is a teacher to distil from.',
  table: trainTable,
  yaml: true,
  extra: TRAINING_EXTRAS,
  idle: trainingIdle,
  examples: [
    'train --data sort-of-clevr --steps 10000',
    'train --data sort-of-clevr,easy-vqa=../easy-vqa --backend webgpu',
    'train -c tiny-teacher --lr 5e-4',
    'train --resume',
    'train --dry-run --batch 128',
  ],
  run: async (context) => (await import('./train-command.ts')).train(context),
});
