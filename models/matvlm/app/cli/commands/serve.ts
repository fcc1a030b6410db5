import { defineCommand } from '../command.ts';
import { number, optional, text, texts, toggle } from '../options/options.ts';

export const serveTable = {
  port: number('port to listen on; 0 takes any that is free', 8000, { whole: true, min: 0, max: 65535 }),
  host: text('address to bind; only programs of this machine reach the default', '127.0.0.1', '<address>'),
  allowHost: optional(
    texts('names to answer to beside those of this machine, for a proxy or a DNS name', [''], '<name,…>'),
  ),
  hardLinks: toggle('serve files of models that have other names too (hard links), which may lie anywhere', false),
};

export default defineCommand({
  about:
    'Serves a page on which to pick or drop an image, ask, and see models answer; they run in the browser. Without ' +
    'models given: the teacher and student that come with the package.',
  args: [['[models...]', 'folders of models or runs']],
  table: serveTable,
  examples: [
    'serve',
    'serve teacher runs/distill --port 8080',
    'serve --host 0.0.0.0 --allow-host models.example.org',
  ],
  run: async ({ settings, args }) => (await import('./serve-command.ts')).serve(settings(), args),
});
