import { defineCommand } from '../command.ts';

export default defineCommand({
  about: 'Lists the recipes (settings files for -c) that come with the package, or copies one to change it.',
  args: [
    ['[action]', '"ls" (as without it) or "cp"'],
    ['[name]', 'the recipe to copy'],
    ['[file]', 'where to; ./<name>.yaml when not given'],
  ],
  table: {},
  examples: ['recipes ls', 'recipes cp start my-run.yaml'],
  run: async ({ args }) => (await import('./recipes-command.ts')).recipes(args),
});
