import { defineCommand } from '../command.ts';
import { count, number, optional, type Settings, text, toggle } from '../options/options.ts';
import { backendOption, dataOption, VERBOSE } from '../options/training-options.ts';

export const startTable = {
  teacher: optional(text('folder of the teacher; what the recipe says when not set', '', '<folder>')),
  data: optional(dataOption),
  steps: optional(count('steps of distillation; what the recipe says when not set', 1)),
  full: toggle('distil at length, as the shipped student was: for a GPU', false),
  recipe: optional(
    text('settings file or recipe of the distillation, in place of the built-in ones', '', '<name|file>'),
  ),
  testImages: optional(count('test images of each set at most; all when not set', 1)),
  compare: toggle('also distil from random initialisation, beside it, for the report', true),
  serve: toggle('serve the page at the end', true),
  port: number('port of the page; the next free one when it is taken', 8000, { whole: true, min: 0, max: 65535 }),
  backend: backendOption,
  runs: text('folder of all runs', 'runs', '<folder>'),
};

export type StartSettings = Settings<typeof startTable>;

export default defineCommand({
  about:
    'The main job: loads the shipped teacher, replaces a quarter of its decoder layers by Mamba-2 mixers initialised ' +
    'from attention, distils on the built-in data, compares with the teacher and the undistilled student by kind of ' +
    'question, writes a report, and serves a page on which to ask both.',
  table: startTable,
  extra: [VERBOSE],
  idle: {
    full: ({ full, recipe }: StartSettings) => full && recipe !== null && `--recipe ${recipe} says how to distil`,
    port: ({ serve }: StartSettings) => !serve && 'no page is served',
  },
  examples: [
    'start',
    'start --no-serve --steps 100 --backend wasm',
    'start --full --data sort-of-clevr,easy-vqa --backend webgpu',
    'start --port 8080',
  ],
  run: async ({ settings }) => (await import('./start-command.ts')).start(settings()),
});
