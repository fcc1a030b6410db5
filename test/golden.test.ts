import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { closeBackend, openBackend, openGpu, openWasms } from './support/backends.ts';
import { replayImages } from './support/golden-images.ts';
import { replayModel } from './support/golden-models.ts';
import { replayOps } from './support/golden-ops.ts';
import type { Check } from './support/golden-types.ts';

const folder = 'test/golden';

for (const kind of ['reference', 'wasm', 'webgpu'] as const) {
  const golden = suite(`golden vectors on ${kind}`);
  const backend = kind === 'webgpu' ? await openGpu() : await openBackend(kind);
  if (backend.kind !== kind) continue;

  const all = async (checks: AsyncGenerator<Check>, least: number, on: Backend = backend): Promise<void> => {
    let count = 0;
    const failed: string[] = [];
    for await (const check of checks) {
      count++;
      if (!check.passed) failed.push(`${check.id} ${check.error}`);
    }
    assert.equal(failed, []);
    assert.ok(count >= least, `${count} checks, expected at least ${least}`);
    assert.is(on.memory.live, 0, 'live bytes afterwards');
  };

  golden('ops', async () => {
    for (const each of kind === 'wasm' ? await openWasms() : [backend]) {
      await all(replayOps(join(folder, 'ops'), each), 148, each);
    }
  });
  for (const name of readdirSync(join(folder, 'models'))) {
    golden(`model ${name}`, () => all(replayModel(join(folder, 'models', name), name, backend), 150));
  }
  if (kind === 'reference') golden('images', () => all(replayImages(join(folder, 'images')), 14));
  golden.after(() => closeBackend(backend));
  golden.run();
}
