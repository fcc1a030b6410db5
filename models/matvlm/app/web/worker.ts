/** The worker in which models run, so that the page answers to its user all the while. */
import { DeviceError, DeviceLostError, KernelError } from '../../../../engine/errors.ts';
import { BrowserEngine } from './engine.ts';
import type { FailureKind, Reply, Request } from './protocol.ts';

interface WorkerScope {
  postMessage(reply: Reply): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}

const worker = globalThis as unknown as WorkerScope;
const engine = new BrowserEngine((message) => worker.postMessage({ lost: message }));
const running = new Map<number, AbortController>();
let last: Promise<void> = Promise.resolve();

worker.onmessage = ({ data: request }) => {
  if (request.name === 'abort') {
    running.get(request.id)?.abort(new DOMException('stopped', 'AbortError'));
    return;
  }
  const controller = new AbortController();
  running.set(request.id, controller);
  // One at a time: they share a backend, and times are measured.
  last = last.then(() => run(request, controller.signal));
};

async function run(request: Exclude<Request, { name: 'abort' }>, signal: AbortSignal): Promise<void> {
  const { id } = request;
  try {
    signal.throwIfAborted();
    worker.postMessage({ id, result: await perform(request, signal) });
  } catch (error) {
    worker.postMessage({ id, error: await describe(error as Error) });
  } finally {
    running.delete(id);
  }
}

/** An error as it travels. */
async function describe(error: Error): Promise<{ kind: FailureKind; message: string }> {
  if (error.name === 'AbortError') return { kind: 'stopped', message: 'stopped' };
  if (error instanceof DeviceError) return { kind: 'no gpu', message: error.message };
  // A loss shows first in whatever was under way.
  const fromGpu = error instanceof DeviceLostError || error instanceof KernelError;
  const loss = fromGpu ? await engine.gpuLoss() : null;
  if (loss === null) return { kind: 'other', message: error.message };
  engine.reset();
  return { kind: 'gpu lost', message: loss };
}

async function perform(request: Exclude<Request, { name: 'abort' }>, signal: AbortSignal): Promise<unknown> {
  const tell = (event: unknown) => worker.postMessage({ id: request.id, event });
  switch (request.name) {
    case 'probe':
      return engine.probe();
    case 'look':
      return engine.look(request.image);
    case 'load':
      return engine.load(request.backend, request.model, tell, signal);
    case 'answer':
      await engine.load(request.backend, request.model, () => {}, signal);
      return engine.answer(request.model.url, request.image, request.question, (piece) => tell({ piece }), signal);
    default:
      return request satisfies never;
  }
}
