/** At most so long between two turns of the event loop, in milliseconds. */
const PERIOD = 20;
let last = 0;

/**
 * Lets the event loop turn where it has not for some time: on the CPU every await of a result is a microtask, so that
 * neither Ctrl-C nor a message would be heard until the work is done.
 */
export async function yieldToEventLoop(): Promise<void> {
  if (performance.now() - last < PERIOD) return;
  await turn();
  last = performance.now();
}

/** The end of one turn. Browsers make nested timers wait for 4 ms; a message does not wait. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === 'function') return void setImmediate(resolve);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** A promise that is awaited later: its failure is thrown there, and is no unhandled rejection until then. */
export function held<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
