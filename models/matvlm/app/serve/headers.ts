import type { IncomingMessage } from 'node:http';
import type { Hosts } from './hosts.ts';

/**
 * Sent with every answer. The page runs WebAssembly and a worker of its own and talks to nobody else; COOP and COEP
 * isolate it, so that it may use precise timers and shared memory.
 */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy': [
    "default-src 'none'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "worker-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), microphone=(), geolocation=()',
  // Ask each time: a rebuilt page or a newer checkpoint must not meet an old one. The ETag keeps that cheap.
  'Cache-Control': 'no-cache',
};

/** Longest request body that is looked at before it is refused; no route takes one. */
export const BODY_LIMIT = 64 * 1024;

/** Why a request is refused. */
export interface Refusal {
  readonly status: number;
  readonly message: string;
}

/** Checks host, method, origin and body of a request; null when it may go on. Only reading is offered. */
export function refuse(request: IncomingMessage, hosts: Hosts): Refusal | null {
  const { host, origin } = request.headers;
  const told = request.rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host');
  // Of several one would be checked here, and another believed elsewhere.
  if (told.length > 1) return { status: 400, message: 'several Host headers, expected one' };
  if (!host || !hosts.allows(host, request.socket.localAddress)) {
    const message = 'this server does not answer to this host name; --allow-host NAME has it do so';
    return { status: 403, message };
  }
  const length = Number(request.headers['content-length'] ?? 0);
  if (length > BODY_LIMIT) return { status: 413, message: `a body of ${length} bytes is too large` };
  const reads = request.method === 'GET' || request.method === 'HEAD';
  // A page of another site may send a form here; the browser then tells where it comes from.
  const own = origin?.toLowerCase() === `http://${host.toLowerCase()}`;
  if (origin !== undefined ? !own : !reads) {
    return { status: 403, message: 'requests from other sites are refused' };
  }
  if (!reads) return { status: 405, message: 'only GET and HEAD are offered' };
  if (length > 0 || request.headers['transfer-encoding']) return { status: 400, message: 'a body was not expected' };
  return null;
}

/**
 * The segments of a request's path, decoded once; null for anything but a plain path: no `.` or `..`, no empty or
 * hidden segment, no backslash, no control character, nothing encoded twice.
 */
export function pathSegments(url: string): string[] | null {
  if (!url.startsWith('/') || url.length > 2048) return null;
  const path = url.slice(1).split('?', 1)[0];
  if (path === '') return [];
  const segments = path.split('/').map(decode);
  return segments.every((s) => s !== null && /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(s)) ? (segments as string[]) : null;
}

function decode(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
