import { constants } from 'node:fs';
import { copyFile, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemError } from '../../../../../engine/node/index.ts';
import { recipesPath } from '../../node/package-root.ts';
import { UsageError } from '../terminal/errors.ts';
import { print, say, table } from '../terminal/output.ts';
import { didYouMean } from '../../../../nn/did-you-mean.ts';

/** `matvlm recipes [ls | cp NAME [FILE]]` */
export async function recipes([action = 'ls', name, file]: readonly string[]): Promise<void> {
  const names = (await readdir(recipesPath())).map((entry) => entry.replace(/\.yaml$/, '')).sort();
  if (action === 'ls' && name === undefined) {
    const rows = await Promise.all(names.map(async (n) => [n, await firstComment(n)]));
    return print(table([['recipe', 'what it is'], ...rows]));
  }
  if (action !== 'cp' || name === undefined)
    throw new UsageError('recipes: expected "ls", or "cp" with the name of a recipe');
  if (!names.includes(name))
    throw new UsageError(`recipes: no recipe "${name}"${didYouMean(name, names)}; there are ${names.join(', ')}`);
  const target = file ?? `${name}.yaml`;
  try {
    await copyFile(join(recipesPath(), `${name}.yaml`), target, constants.COPYFILE_EXCL);
  } catch (error) {
    throw systemError('write', target, error);
  }
  say(`wrote ${target}; use it with -c ${target}`);
}

/** The first line of a recipe, which says what it is. */
async function firstComment(name: string): Promise<string> {
  const text = await readFile(join(recipesPath(), `${name}.yaml`), 'utf8');
  return /^# (.*)/.exec(text)?.[1] ?? '';
}
