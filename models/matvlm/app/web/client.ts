import type { CommandName, Commands, FailureKind, Reply, Request } from './protocol.ts';

/** How long a stopped command may take to end before its worker is ended in its place. */
const PATIENCE = 2000;

/** An error that came from the worker. */
export class WorkerError extends Error {
  constructor(
    readonly kind: FailureKind,
    message: string,
  ) {
    super(message);
    this.name = 'WorkerError';
  }
}

interface Pending {
  readonly resolve: (result: never) => void;
  readonly reject: (error: Error) => void;
  readonly onEvent: (event: never) => void;
}

/** The page's side of the worker. A worker that fails or hangs is replaced, and whoever waits hears of it. */
export class EngineClient {
  private worker: Worker | null = null;
  private readonly pending = new Map<number, Pending>();
  private lastId = 0;

  /** @param onLost hears when the GPU goes away by itself */
  constructor(
    private readonly url: string,
    private readonly onLost: (message: string) => void,
  ) {}

  /** Runs a command. Rejects with a WorkerError; kind 'stopped' when `signal` stopped it. */
  call<N extends CommandName>(
    name: N,
    send: Commands[N]['send'],
    onEvent: (event: Commands[N]['event']) => void = () => {},
    signal?: AbortSignal,
  ): Promise<Commands[N]['result']> {
    const id = ++this.lastId;
    const result = new Promise<Commands[N]['result']>((resolve, reject) => {
      this.pending.set(id, { resolve, reject, onEvent });
      this.running().postMessage({ id, name, ...send } as Request);
    });
    const stop = () => this.stop(id);
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop);
    return result.finally(() => signal?.removeEventListener('abort', stop));
  }

  private running(): Worker {
    if (this.worker) return this.worker;
    const worker = new Worker(this.url, { type: 'module' });
    worker.onmessage = ({ data }: MessageEvent<Reply>) => this.hear(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.replace(new WorkerError('other', `the worker failed: ${event.message || 'it could not be started'}`));
    };
    return (this.worker = worker);
  }

  private hear(reply: Reply): void {
    if ('lost' in reply) return this.onLost(reply.lost);
    const waiting = this.pending.get(reply.id);
    if (!waiting) return;
    if ('event' in reply) return waiting.onEvent(reply.event as never);
    this.pending.delete(reply.id);
    if ('error' in reply) waiting.reject(new WorkerError(reply.error.kind, reply.error.message));
    else waiting.resolve(reply.result as never);
  }

  private stop(id: number): void {
    this.worker?.postMessage({ id, name: 'abort' } satisfies Request);
    setTimeout(() => {
      if (this.pending.has(id)) this.replace(new WorkerError('stopped', 'stopped'));
    }, PATIENCE);
  }

  /** Ends the worker; the next command starts another. */
  private replace(error: WorkerError): void {
    this.worker?.terminate();
    this.worker = null;
    const waiting = [...this.pending.values()];
    this.pending.clear();
    for (const { reject } of waiting) reject(error);
  }
}
