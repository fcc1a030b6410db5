import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../../../../../engine/errors.ts';
import { diskFolder } from '../../../../../engine/node/index.ts';
import { Checkpoint } from '../../../../../engine/safetensors/index.ts';
import { readModel, SHIPPED } from '../../node/model-folder.ts';
import { assetPath, packageRoot } from '../../node/package-root.ts';
import { linkedFiles } from '../../serve/files.ts';
import { type ServedModel, startServer } from '../../serve/server.ts';
import { promptEncoder, readTokenizer } from '../../../vlm.ts';
import { checkWeights, readConfig } from '../../../weights.ts';
import { interrupted } from '../terminal/interrupt.ts';
import type { Settings } from '../options/options.ts';
import { print, say, warn } from '../terminal/output.ts';
import type { serveTable } from './serve.ts';

/** `matvlm serve [MODEL…]`: runs until Ctrl-C. */
export async function serve(settings: Settings<typeof serveTable>, specs: readonly string[]): Promise<void> {
  const names = specs.length > 0 ? specs : SHIPPED.filter((name) => existsSync(assetPath(name)));
  if (names.length === 0)
    throw new SystemError('there is no model to serve; give the folder of one: npx matvlm serve FOLDER');
  const models: ServedModel[] = [];
  for (const name of names) {
    const folder = await readModel(name, expectModel, warn);
    models.push({ name, folder });
  }
  await serveModels(models, settings);
}

/** What would not be served is told here, not by a page that finds it missing. */
async function servable(model: ServedModel, hardLinks: boolean): Promise<ServedModel> {
  const [linked] = hardLinks ? [] : await linkedFiles(model.folder);
  if (linked === undefined) return { ...model, hardLinks };
  throw new SystemError(
    `${linked}: the file has other names (hard links), so that it may be one from outside of the folder; copy the ` +
      'folder to have it whole (cp -r), or serve with --hard-links',
  );
}

/** Gives the folder back; one that holds no model is told here, not by the page. Tensor data is not read. */
async function expectModel(folder: string): Promise<string> {
  const source = diskFolder(folder);
  const config = await readConfig(source);
  promptEncoder(config, await readTokenizer(source));
  const checkpoint = await Checkpoint.open(source);
  try {
    checkWeights(config, checkpoint);
    return folder;
  } finally {
    await checkpoint.close();
  }
}

/** Where and how to serve. */
export interface ServeSettings {
  readonly port: number;
  readonly host?: string;
  readonly allowHost?: readonly string[] | null;
  readonly hardLinks?: boolean;
}

/** Serves models until Ctrl-C. @throws SystemError when the port is taken, or for a file with several names */
export async function serveModels(
  models: readonly Omit<ServedModel, 'hardLinks'>[],
  { host, port, allowHost, hardLinks = false }: ServeSettings,
): Promise<void> {
  const pageDir = join(packageRoot(), 'dist', 'web');
  // Package managers link the files of a package from their store.
  const ours = SHIPPED.map(assetPath);
  const served = await startServer({
    ...{ host, port, pageDir, allowHosts: allowHost ?? [] },
    models: await Promise.all(models.map((model) => servable(model, hardLinks || ours.includes(model.folder)))),
  });
  const names = models.map(({ name }) => name).join(', ');
  print(`Serving ${names} at ${served.url} (Ctrl-C ends it)`);
  if (served.urls.length > 1) print(`On the network: ${served.urls.slice(1).join(', ')}`);
  const signal = interrupted('Closing the server; Ctrl-C again quits at once.');
  if (!signal.aborted)
    await new Promise<void>((done) => signal.addEventListener('abort', () => done(), { once: true }));
  await served.close();
  say('closed');
}
