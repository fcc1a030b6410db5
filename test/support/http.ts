import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Answer = (response: ServerResponse, request: IncomingMessage) => unknown;

/** Sends a byte now and then, for ever. */
export function drip(response: ServerResponse, ms: number): void {
  const timer = setInterval(() => response.write('x'), ms);
  response.on('close', () => clearInterval(timer));
}

/** Runs `body` with the address of a server on this machine, which is gone afterwards with all its connections. */
export async function withServer<T>(answer: Answer, body: (url: string) => Promise<T>): Promise<T> {
  const listener: RequestListener = (request, response) => void answer(response, request);
  const server = createServer(listener);
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  try {
    return await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
}
