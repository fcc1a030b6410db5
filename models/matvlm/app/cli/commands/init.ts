import { defineCommand } from '../command.ts';
import { studentIdle, studentOptions } from '../options/student-options.ts';
import { count } from '../options/options.ts';

export const initTable = { ...studentOptions, seed: count('seed of what is drawn', 0, 0) };

export default defineCommand({
  about:
    'Makes a student folder from a teacher folder: some attention layers become Mamba-2 mixers that take over the ' +
    'projections of attention; everything else is copied as it is. Needs no accelerator and little memory.',
  args: [
    ['<teacher>', 'folder of a model or run'],
    ['<folder>', 'folder to make; it must not exist'],
  ],
  table: initTable,
  yaml: true,
  idle: studentIdle,
  examples: [
    'init teacher student-25 --layers 0,4',
    'init ../TinyLLaVA-Phi-2-SigLIP-3.1B student-25 --ratio 0.25',
    'init teacher student-random --init random',
  ],
  run: async ({ settings, args }) => (await import('./init-command.ts')).init(settings(), args[0], args[1]),
});
