import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SystemError } from '../engine/errors.ts';
import { allowRelaxedSimd } from '../engine/node/relaxed-simd.ts';
import { packageRoot } from '../models/matvlm/app/node/package-root.ts';

/** Runs the matrix product against onnxruntime-web in this process; installs it on the first time. */
export async function runPeers(): Promise<void> {
  const folder = join(packageRoot(), 'bench');
  if (!existsSync(folder)) throw new SystemError('--peers needs a checkout of the repository: the package has no peers');
  if (!existsSync(join(folder, 'node_modules', 'onnxruntime-web'))) {
    console.error('Installing onnxruntime-web in bench/ (npm ci) …');
    const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
    const { status } = spawnSync('npm', args, { cwd: folder, stdio: 'inherit', shell: process.platform === 'win32' });
    if (status !== 0) throw new SystemError('npm ci failed in bench/: see its message above; a proxy setting is the usual cause');
  }
  allowRelaxedSimd();
  await import('./gemm-wasm.bench.ts');
}
