import { EXIT } from './errors.ts';
import { say } from './output.ts';

let controller: AbortController | null = null;
let announced = '';

/**
 * The signal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process with 130. One for the process:
 * later calls give the same signal.
 * @param message what is said on the first
 */
export function interrupted(message: string): AbortSignal {
  announced = message;
  if (controller) return controller.signal;
  const own = new AbortController();
  controller = own;
  const stop = () => {
    if (own.signal.aborted) process.exit(EXIT.interrupted);
    say();
    say(announced);
    own.abort();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  return own.signal;
}

/** Whether an error only tells that the user stopped what was going on. */
export function isInterruption(error: unknown): boolean {
  return controller !== null && controller.signal.aborted && error === controller.signal.reason;
}
