/** `npm run golden -- DIR [--backend reference|wasm|webgpu]`: replays a folder of golden vectors. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Backend, BackendKind } from '../engine/backend.ts';
import { closeBackend, openBackend } from './support/backends.ts';
import { replayImages } from './support/golden-images.ts';
import { replayModel } from './support/golden-models.ts';
import { replayOps } from './support/golden-ops.ts';
import type { Check } from './support/golden-types.ts';

const KINDS = ['reference', 'wasm', 'webgpu'];

async function replay(folder: string, backend: Backend, report: (check: Check) => void): Promise<void> {
  const ops = join(folder, 'ops');
  if (existsSync(ops)) for await (const check of replayOps(ops, backend)) report(check);
  const models = join(folder, 'models');
  for (const name of existsSync(models) ? readdirSync(models).sort() : []) {
    for await (const check of replayModel(join(models, name), name, backend)) report(check);
  }
  const images = join(folder, 'images');
  if (existsSync(images)) for await (const check of replayImages(images)) report(check);
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: { backend: { type: 'string', default: 'reference' } },
    allowPositionals: true,
  });
  const [folder] = positionals;
  if (positionals.length !== 1 || !KINDS.includes(values.backend)) {
    console.error('usage: npm run golden -- DIR [--backend reference|wasm|webgpu]');
    return 2;
  }
  if (!['ops', 'models', 'images'].some((part) => existsSync(join(folder, part)))) {
    console.error(`${folder}: no golden folder: expected ops/, models/ or images/ in it`);
    return 2;
  }
  const backend = await openBackend(values.backend as BackendKind);
  let passed = 0;
  let failed = 0;
  await replay(folder, backend, (check) => {
    if (check.passed) passed++;
    else failed++;
    console.log(`${check.passed ? 'PASS' : 'FAIL'} ${check.id} ${check.error}`);
  });
  closeBackend(backend);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

process.exitCode = await main().catch((error: Error) => {
  console.error(error.message);
  return 1;
});
