import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { warn } from './output.ts';

/** Name of the comparison's folder inside the run that it is compared with. */
const NAME = 'random-init';

/**
 * Distils from random initialisation, with the settings, seed and steps of `run` in all else: what the report holds
 * against initialisation from attention. In a process of its own beside the run, because a backend on the CPU computes
 * on one core.
 * @param signal stops it, in an orderly way: the promise is settled when the process has ended
 * @returns the folder of that run, as far as it came; null where it failed, which is warned of
 */
export function compareWithRandom(run: string, steps: number, signal: AbortSignal): Promise<string | null> {
  const config = join(run, 'config.yaml');
  const flags = ['--init', 'random', '--steps', String(steps), '--runs', run, '--name', NAME];
  const args = ['distill', '-c', config, ...flags, '--no-final-eval', '--save-total-limit', '1'];
  // In a process group of its own: a terminal's Ctrl-C goes to the whole group, and a second one quits without saving.
  const child = spawn(process.execPath, [process.argv[1], ...args], {
    // It stops too when the channel closes, which it does where this process is killed.
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    detached: true,
    windowsHide: true,
  });
  let errors = '';
  child.stderr!.on('data', (chunk) => {
    errors = (errors + chunk).slice(-2000);
  });
  const stop = () => void child.kill('SIGINT');
  const kill = () => void child.kill('SIGKILL');
  signal.addEventListener('abort', stop, { once: true });
  process.once('exit', kill);
  return new Promise((resolve) => {
    child.on('error', (error) => {
      warn(`the comparison with random initialisation did not start: ${error.message}`);
      resolve(null);
    });
    child.on('close', (code, by) => {
      signal.removeEventListener('abort', stop);
      process.removeListener('exit', kill);
      const cause = errors.trim().split('\n').at(-1) || `ended by ${by}`;
      if (code !== 0 && !signal.aborted) warn(`the comparison with random initialisation failed: ${cause}`);
      resolve(code === 0 ? join(run, NAME) : null);
    });
  });
}
