import { execFile } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { SystemError } from '../../../../engine/errors.ts';

/** The folder of this package: the nearest one above the running code whose package.json is ours. */
export function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'matvlm')
      return folder;
    if (dirname(folder) === folder)
      throw new SystemError('the package folder of matvlm was not found: install it again');
  }
}

/** Where assets lie: in a checkout all in the first; a package has its models, in f16, in the second. */
const ASSETS = ['models/matvlm/assets', 'dist/models'];

/** A folder that the package ships: `teacher`, `student` or `tiny-tokenizer`. */
export function assetPath(name: string): string {
  const places = ASSETS.map((folder) => join(packageRoot(), folder, name));
  return places.find((path) => existsSync(path)) ?? places[0];
}

/** The folder of the recipes that come with the package. */
export function recipesPath(): string {
  return join(packageRoot(), 'models', 'matvlm', 'recipes');
}

/** Version of this package. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;
}

/** The commit that a checkout is at, and whether its files are others; null for a package that was installed. */
export async function sourceCommit(): Promise<{ commit: string; changed: boolean } | null> {
  const root = packageRoot();
  const git = async (...args: string[]) => (await promisify(execFile)('git', args, { cwd: root })).stdout.trim();
  try {
    // An installed package may lie within somebody else's checkout.
    if (realpathSync(await git('rev-parse', '--show-toplevel')) !== realpathSync(root)) return null;
    const commit = await git('rev-parse', 'HEAD');
    return { commit, changed: (await git('status', '--porcelain', '--untracked-files=no')) !== '' };
  } catch {
    return null;
  }
}
