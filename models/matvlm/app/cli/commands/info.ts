import { defineCommand } from '../command.ts';
import { numbers } from '../options/options.ts';

export const infoTable = {
  context: numbers('context lengths to tell cache sizes of', [256, 1024, 4096, 16384, 32768], { min: 1, whole: true }),
};

export default defineCommand({
  about:
    'Shows configuration, parameters by part and the bytes of its cache by context length. Reads headers only: a ' +
    'folder of many gigabytes opens at once.',
  args: [['<model>', 'folder of a model or run, or "teacher", "student"']],
  table: infoTable,
  extra: [['--json', 'print it as JSON']],
  examples: ['info teacher', 'info ../MaTVLM_0_25_Mamba2 --context 1024,8192', 'info runs/distill --json'],
  run: async ({ settings, args, flags }) =>
    (await import('./info-command.ts')).info(settings(), args[0], flags.json === true),
});
