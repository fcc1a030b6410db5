import { basename, dirname, join } from 'node:path';
import { disk } from './files.ts';
import type { FileSystem } from './files.ts';
import { ownerName, parseOwner, self, stateOf } from './owner.ts';

/**
 * Names next to a file or folder, for the time that it is being replaced: `tmp` is the new one while it is written,
 * `old` the former one while the new one takes its place, `trash` one that is being deleted. The name carries the
 * owner, so that what a killed process left is told from what a living one still needs.
 */
type Kind = 'tmp' | 'old' | 'trash';
const SIBLING = /^\.(.+)\.(tmp|old|trash)-([\w-]+)-\d+$/;

const inUse = new Set<string>();
let counter = 0;

/** A fresh sibling of `path`; it stays protected from `sweep` until `release`. */
export function sibling(path: string, kind: Kind): string {
  const name = join(dirname(path), `.${basename(path)}.${kind}-${ownerName(self())}-${++counter}`);
  inUse.add(name);
  return name;
}

export function release(name: string): void {
  inUse.delete(name);
}

export interface SweepOptions {
  readonly files?: FileSystem;
  /** Only the siblings of this name. */
  readonly only?: string;
  /** The caller has the lock of the folder: who cannot be judged from here writes it no longer. */
  readonly locked?: boolean;
}

/**
 * Cleans up in `folder` after processes that were killed: an `old` whose successor never came goes back to its
 * place, all else of theirs is deleted. For those who write there, never for readers. What fails here is left for the
 * next time: the caller's own work will tell what is wrong with the folder.
 */
export async function sweep(folder: string, { files = disk, only, locked = false }: SweepOptions): Promise<void> {
  const names = await files.list(folder).catch(() => []);
  for (const name of names) {
    const [, base, kind, owner] = SIBLING.exec(name) ?? [];
    const path = join(folder, name);
    if (!base || (only && base !== only) || inUse.has(path) || !isAbandoned(owner, locked)) continue;
    try {
      if (kind === 'old' && !(await files.stat(join(folder, base)))) await files.rename(path, join(folder, base));
      else await removeTree(path, files);
    } catch {
      continue;
    }
  }
}

/** Whether nobody needs a sibling of that owner any more. Those of this process that are needed are in use. */
function isAbandoned(name: string, locked: boolean): boolean {
  const owner = parseOwner(name);
  if (!owner) return locked;
  const state = name === ownerName(self()) ? 'dead' : stateOf(owner);
  return state === 'dead' || (locked && state === 'unknown');
}

/** Deletes a file or a folder with all in it; what is already gone is fine. Links are deleted, never followed. */
export async function removeTree(path: string, files: FileSystem = disk): Promise<void> {
  const gone = (error: unknown) => {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
  };
  // Trying to list instead of asking for the kind first: a link to a folder would be followed by the latter.
  const isFile = await files.removeFile(path).then(
    () => true,
    async (error: unknown) => {
      const found = await files.stat(path);
      if (found?.kind === 'folder') return false;
      gone(error);
      return true;
    },
  );
  if (isFile) return;
  for (const name of await files.list(path)) await removeTree(join(path, name), files);
  await files.removeFolder(path).catch(gone);
}
