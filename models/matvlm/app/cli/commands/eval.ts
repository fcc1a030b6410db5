import { defineCommand } from '../command.ts';
import { choice, count, optional, text } from '../options/options.ts';
import { backendOption, dataOption } from '../options/training-options.ts';

export const evalTable = {
  data: dataOption,
  split: choice('which part of the sets', 'test', ['train', 'test']),
  images: optional(count('images of each set at most, from the first', 1)),
  batch: count('images at a time', 16),
  backend: backendOption,
  out: optional(text('write every question with its answer to this JSON file', '', '<file>')),
};

export default defineCommand({
  about: 'Answers every question of data sets in words and compares the texts exactly; accuracy by kind of question.',
  args: [['<model>', 'folder of a model or run, or "teacher", "student"']],
  table: evalTable,
  yaml: true,
  extra: [['--json', 'print the result as JSON']],
  examples: [
    'eval runs/distill',
    'eval teacher --data sort-of-clevr,easy-vqa --json',
    'eval student --images 20 --out answers.json',
  ],
  run: async ({ settings, args, flags }) =>
    (await import('./eval-command.ts')).evalModel(settings(), args[0], flags.json === true),
});
