import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

let root = '';
let count = 0;

/** The path of a folder that is not there yet; whatever is made of it is deleted when the process ends. */
export function freshPath(): string {
  if (root === '') {
    root = mkdtempSync(join(tmpdir(), 'matvlm-test-'));
    process.on('exit', () => rmSync(root, { recursive: true, force: true }));
  }
  return join(root, String(++count));
}

/** A new folder with these files, by their paths in it. */
export function freshFolder(files: Iterable<readonly [path: string, data: string | Uint8Array]> = []): string {
  const folder = freshPath();
  mkdirSync(folder);
  for (const [path, data] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), data);
  }
  return folder;
}
