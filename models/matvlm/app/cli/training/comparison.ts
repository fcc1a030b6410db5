import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { listCheckpoints } from '../../store/checkpoints.ts';
import { warn } from '../terminal/output.ts';
import type { Outcome } from './session.ts';

/** The comparison's folder inside the run that it is compared with. */
const NAME = 'random-init';

/** Whether a run was compared with random initialisation as far as it came. */
export function isCompared(run: string): boolean {
  return existsSync(join(run, NAME));
}

/** The runs whose curves a report draws together. @param random the folder of the comparison, if there is one */
export function curvesOf(name: string, run: string, random: string | null): Map<string, string> {
  return new Map(random === null ? [[name, run]] : [['from attention', run], ['from random', random]]);
}

/** A run and what it is compared in. */
export interface Compared {
  readonly run: string;
  readonly steps: number;
  /** Whether there is a comparison at all. */
  readonly wanted: boolean;
  /** Stops both. */
  readonly signal: AbortSignal;
}

/**
 * Distils by `distil` and, where wanted, beside it from random initialisation, with the settings, seed and steps of
 * `run` in all else: what the report holds against initialisation from attention. It ends with the run, whatever ends
 * that.
 * @returns also the folder of the comparison, as far as it came; null where it failed, which is warned of
 */
export async function besideRandom(
  { run, steps, wanted, signal }: Compared,
  distil: () => Promise<Outcome>,
): Promise<{ outcome: Outcome; random: string | null }> {
  if (!wanted) return { outcome: await distil(), random: null };
  const over = new AbortController();
  const comparison = compare(run, steps, AbortSignal.any([signal, over.signal]));
  try {
    const outcome = await distil();
    return { outcome, random: outcome.checkpoint && (await comparison) };
  } finally {
    over.abort();
    await comparison;
  }
}

/**
 * Runs the comparison, or goes on with it, in a process of its own, because a backend on the CPU computes on one core.
 * @param signal stops it, in an orderly way: the promise is settled when the process has ended
 */
async function compare(run: string, steps: number, signal: AbortSignal): Promise<string | null> {
  const folder = join(run, NAME);
  const begun = (await listCheckpoints(folder)).length > 0;
  // Killed before it saved anything: its curves are there, but nothing to go on with.
  if (!begun && isCompared(run)) return folder;
  // What was overridden in the run is in the comparison, too.
  const place = begun ? ['--resume', folder, '--override'] : ['--runs', run, '--name', NAME];
  const flags = ['--init', 'random', '--steps', String(steps), '--no-final-eval', '--save-total-limit', '1'];
  return (await runChild(['distill', '-c', join(run, 'config.yaml'), ...place, ...flags], signal)) ? folder : null;
}

/** Runs a command of ours without output; false where it failed, which is warned of. */
function runChild(args: readonly string[], signal: AbortSignal): Promise<boolean> {
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
      resolve(false);
    });
    child.on('close', (code, by) => {
      signal.removeEventListener('abort', stop);
      process.removeListener('exit', kill);
      const cause = errors.trim().split('\n').at(-1) || `ended by ${by}`;
      if (code !== 0 && !signal.aborted) warn(`the comparison with random initialisation failed: ${cause}`);
      resolve(code === 0);
    });
  });
}
