import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../../../engine/errors.ts';
import { diskFolder } from '../../../engine/node/index.ts';
import { Checkpoint } from '../../../engine/safetensors/index.ts';
import { modelFolder, SHIPPED } from '../node/model-folder.ts';
import { assetPath, packageRoot } from '../node/package-root.ts';
import { type ServedModel, startServer } from '../serve/server.ts';
import { promptEncoder, readTokenizer } from '../vlm.ts';
import { checkWeights, readConfig } from '../weights.ts';
import { interrupted } from './interrupt.ts';
import type { Settings } from './options.ts';
import { print, say, warn } from './output.ts';
import type { serveTable } from './serve.ts';

/** `matvlm serve [MODEL…]`: runs until Ctrl-C. */
export async function serve(settings: Settings<typeof serveTable>, specs: readonly string[]): Promise<void> {
  const names = specs.length > 0 ? specs : SHIPPED.filter((name) => existsSync(assetPath(name)));
  if (names.length === 0)
    throw new SystemError('there is no model to serve; give the folder of one: matvlm serve FOLDER');
  const models: ServedModel[] = [];
  for (const name of names) {
    const folder = await modelFolder(name, warn);
    await expectModel(folder);
    models.push({ name, folder });
  }
  await serveModels(models, settings);
}

/** A folder that holds no model is told here, not by the page. Tensor data is not read. */
async function expectModel(folder: string): Promise<void> {
  const source = diskFolder(folder);
  const config = await readConfig(source);
  promptEncoder(config, await readTokenizer(source));
  const checkpoint = await Checkpoint.open(source);
  try {
    checkWeights(config, checkpoint);
  } finally {
    await checkpoint.close();
  }
}

/** Serves models until Ctrl-C. @throws SystemError when the port is taken */
export async function serveModels(
  models: readonly ServedModel[],
  { host, port }: { readonly host?: string; readonly port: number },
): Promise<void> {
  const pageDir = join(packageRoot(), 'dist', 'web');
  const served = await startServer({ host, port, models, pageDir });
  print(`Serving ${models.map(({ name }) => name).join(', ')} at ${served.url} (Ctrl-C ends it)`);
  const signal = interrupted('Closing the server; Ctrl-C again quits at once.');
  if (!signal.aborted)
    await new Promise<void>((done) => signal.addEventListener('abort', () => done(), { once: true }));
  await served.close();
  say('closed');
}
