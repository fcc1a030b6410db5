import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { warn } from './output.ts';

/** Name of the comparison's folder inside the run that it is compared with. */
const NAME = 'random-init';

/**
 * Distils from random initialisation, with the settings, seed and steps of `run` in all else: what the report holds
 * against initialisation from attention. In a process of its own beside the run, because a backend on the CPU computes
 * on one core.
 * @returns the folder of that run; null where it failed, which is warned of, or was stopped
 */
export function compareWithRandom(run: string, steps: number, signal: AbortSignal): Promise<string | null> {
  const config = join(run, 'config.yaml');
  const flags = ['--init', 'random', '--steps', String(steps), '--runs', run, '--name', NAME];
  const args = ['distill', '-c', config, ...flags, '--no-final-eval', '--save-total-limit', '1'];
  const child = spawn(process.execPath, [process.argv[1], ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors = (errors + chunk).slice(-2000);
  });
  const stop = () => child.kill('SIGINT');
  signal.addEventListener('abort', stop);
  return new Promise((resolve) => {
    child.on('error', (error) => {
      warn(`the comparison with random initialisation did not start: ${error.message}`);
      resolve(null);
    });
    child.on('close', (code) => {
      signal.removeEventListener('abort', stop);
      if (code !== 0) warn(`the comparison with random initialisation failed: ${errors.trim().split('\n').at(-1)}`);
      resolve(code === 0 && !signal.aborted ? join(run, NAME) : null);
    });
  });
}
