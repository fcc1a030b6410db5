import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SystemError } from '../../../engine/errors.ts';

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

/** A file or folder of `models/matvlm/assets`. */
export function assetPath(name: string): string {
  return join(packageRoot(), 'models', 'matvlm', 'assets', name);
}

/** The folder of the recipes that come with the package. */
export function recipesPath(): string {
  return join(packageRoot(), 'models', 'matvlm', 'recipes');
}

/** Version of this package. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;
}
