import { EXIT } from './errors.ts';
import { say } from './output.ts';
import { quit } from './terminal.ts';

let controller: AbortController | null = null;
let announced = '';

/**
 * The signal that Ctrl-C aborts, and so do SIGTERM, a terminal that closes (SIGHUP), and the end of a process that
 * started this one with a channel to it. Ctrl-C after that ends the process with 130; the others often come in pairs,
 * and change nothing then. One for the process: later calls give the same signal.
 * @param message what is said on the first
 */
export function interrupted(message: string): AbortSignal {
  announced = message;
  if (controller) return controller.signal;
  const own = new AbortController();
  controller = own;
  const stop = () => {
    if (own.signal.aborted) return;
    say();
    say(announced);
    own.abort();
  };
  process.on('SIGINT', () => (own.signal.aborted ? quit(EXIT.interrupted) : stop()));
  process.on('SIGTERM', stop);
  process.on('SIGHUP', stop);
  process.on('disconnect', stop);
  return own.signal;
}

/** Whether an error only tells that the user stopped what was going on. */
export function isInterruption(error: unknown): boolean {
  return controller !== null && controller.signal.aborted && error === controller.signal.reason;
}
