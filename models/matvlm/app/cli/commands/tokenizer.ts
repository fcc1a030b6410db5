import { defineCommand } from '../command.ts';
import { dataOption } from '../options/training-options.ts';

export default defineCommand({
  about:
    'Builds a tokenizer whose words are those of the questions and answers of data sets, both splits: what a teacher ' +
    "for one's own images is trained with.",
  args: [
    ['<action>', 'build'],
    ['[folder]', 'folder to make; it must not exist. "tokenizer" when not given'],
  ],
  table: { data: dataOption },
  examples: [
    'tokenizer build --data easy-vqa=pets',
    'tokenizer build my-tokenizer --data easy-vqa=pets,sort-of-clevr',
    'train --tokenizer my-tokenizer --data easy-vqa=pets,sort-of-clevr',
  ],
  run: async ({ settings, args }) => (await import('./tokenizer-command.ts')).tokenizer(settings(), args),
});
