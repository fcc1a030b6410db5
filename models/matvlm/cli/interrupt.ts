import { EXIT } from './errors.ts';
import { say } from './output.ts';

let controller: AbortController | null = null;

/**
 * The signal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process with 130. One for the process:
 * later calls give the same signal.
 */
export function interrupted(message: string): AbortSignal {
  if (controller) return controller.signal;
  const own = new AbortController();
  controller = own;
  const stop = () => {
    if (own.signal.aborted) process.exit(EXIT.interrupted);
    say(`\n${message}`);
    own.abort();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  return own.signal;
}
