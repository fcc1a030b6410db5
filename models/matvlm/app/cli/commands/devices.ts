import { defineCommand } from '../command.ts';

export default defineCommand({
  about: 'Lists what this machine can compute on: WebGPU adapters through Dawn, WASM, and the JavaScript reference.',
  table: {},
  extra: [['--json', 'print it as JSON']],
  examples: ['devices', 'devices --json'],
  run: async ({ flags }) => (await import('./devices-command.ts')).devices(flags.json === true),
});
