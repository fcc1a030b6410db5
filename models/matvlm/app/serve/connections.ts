import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { type Floor, FLOOR, Pace } from '../../../nn/http/transfer.ts';

export interface ConnectionLimits {
  /** Connections that are open at a time. */
  readonly max: number;
  /** What a client must take of an answer at least, while there is some to send. */
  readonly floor?: Floor;
}

interface Client {
  readonly address: string;
  readonly pace: Pace;
  /** Bytes that went either way, and when there were last more of them. */
  moved: number;
  since: number;
}

/**
 * Keeps a server open to new clients however slow others are. Who takes less of an answer than the floor is cut off;
 * and where there are too many connections, one of the client with the most of them goes, the one that has been still
 * for the longest time.
 */
export function limitConnections(server: Server, { max, floor = FLOOR }: ConnectionLimits): void {
  const clients = new Map<Socket, Client>();
  let last = performance.now();

  const look = () => {
    const now = performance.now();
    for (const [socket, client] of clients) {
      const moved = socket.bytesRead + socket.bytesWritten - socket.writableLength;
      const fault = socket.writableLength > 0 && client.pace.note(now - last, moved - client.moved);
      if (moved > client.moved) client.since = now;
      client.moved = moved;
      if (fault) socket.destroy();
    }
    last = now;
  };

  const makeRoomFor = (newcomer: Socket) => {
    look();
    const counts = new Map<string, number>();
    for (const { address } of clients.values()) counts.set(address, (counts.get(address) ?? 0) + 1);
    const most = Math.max(...counts.values());
    // Who has only just come had no time to move anything.
    const others = [...clients].filter(([socket]) => socket !== newcomer);
    const candidates = others.filter(([, { address }]) => counts.get(address) === most);
    const [socket] = candidates.reduce((a, b) => (b[1].since < a[1].since ? b : a));
    clients.delete(socket);
    socket.destroy();
  };

  server.on('connection', (socket: Socket) => {
    clients.set(socket, {
      address: socket.remoteAddress ?? '',
      pace: new Pace(floor),
      moved: 0,
      since: performance.now(),
    });
    socket.once('close', () => clients.delete(socket));
    if (clients.size > max) makeRoomFor(socket);
  });
  const timer = setInterval(look, Math.min(1000, floor.ms / 4)).unref();
  server.once('close', () => clearInterval(timer));
}
