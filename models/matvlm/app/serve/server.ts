import { existsSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { ArgumentError, SystemError } from '../../../../engine/errors.ts';
import { codeOf } from '../../../../engine/node/system.ts';
import type { Floor } from '../../../nn/http/transfer.ts';
import { catalogue, type OpenModel, type ServedModel } from './catalogue.ts';
import { limitConnections } from './connections.ts';
import { printable } from '../printable.ts';
import { type Asset, asset, closeAll, fileAsset, openServed, sendAsset, sendModelFile } from './files.ts';
import { type Example, sceneExamples } from './examples.ts';
import { type Hosts, hostsOf } from './hosts.ts';
import { BODY_LIMIT, pathSegments, refuse, SECURITY_HEADERS } from './headers.ts';

export type { ServedModel } from './catalogue.ts';

export interface ServeOptions {
  /** Address to bind; only programs of this machine reach the default. */
  readonly host?: string;
  /** 0 takes any that is free. */
  readonly port: number;
  /** Teachers and students, in the order of the page's lists. */
  readonly models: readonly ServedModel[];
  /** The built page, `dist/web`. */
  readonly pageDir: string;
  /** Images to offer; scenes of the built-in test split unless given. */
  readonly examples?: readonly Example[];
  /** Names by which the server may be addressed beside those of this machine, with a port or for any. */
  readonly allowHosts?: readonly string[];
  /** Connections open at a time; 256 unless given. */
  readonly maxConnections?: number;
  /** What a client must take of an answer at least; 64 KiB a minute unless given. */
  readonly floor?: Floor;
  /** Milliseconds in which a client must have sent its request; 10 s unless given. */
  readonly requestTimeout?: number;
}

/** A running server. */
export interface Served {
  /** Address to open in a browser. */
  readonly url: string;
  /** All of them: a server on a network has one for each address of this machine. */
  readonly urls: readonly string[];
  readonly port: number;
  close(): Promise<void>;
}

const PAGE_FILES = ['index.html', 'page.css', 'page.js', 'worker.js', 'notices.txt', 'matvlm-simd.wasm', 'matvlm-relaxed.wasm'];

/**
 * Serves the page, the checkpoint folders (read-only, by range) and example images. Models run in the browser: the
 * server computes nothing and takes no input but paths. Folders are served as they are at the beginning, also where
 * they are deleted later, as a run deletes its older checkpoints.
 * @throws SystemError when the port is taken, the page is not built or a folder is gone, ArgumentError for a port that
 *   is none
 */
export async function startServer(options: ServeOptions): Promise<Served> {
  const { port } = options;
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new ArgumentError(`port is ${port}, expected a whole number from 0 to 65535`);
  }
  const models: OpenModel[] = [];
  const release = () => Promise.all(models.map(({ files }) => closeAll(files)));
  try {
    for (const model of options.models) models.push(await openModel(model));
    const { close, ...served } = await listenTo(options, models);
    return { ...served, close: () => close().then(async () => void (await release())) };
  } catch (error) {
    await release();
    throw error;
  }
}

async function openModel(model: ServedModel): Promise<OpenModel> {
  const files = await openServed(model);
  if (files.has('config.json') && existsSync(model.folder)) return { ...model, files };
  await closeAll(files);
  throw new SystemError(`${model.folder}: it was deleted meanwhile; serve the model again`);
}

async function listenTo(options: ServeOptions, models: readonly OpenModel[]): Promise<Served> {
  const { host = '127.0.0.1', port, requestTimeout = 10_000, maxConnections = 256, floor } = options;
  const assets = await loadAssets(options, models);
  const server = createServer({ requestTimeout, headersTimeout: requestTimeout, connectionsCheckingInterval: 500 });
  server.timeout = 60_000;
  limitConnections(server, { max: maxConnections, floor });
  const actual = await listen(server, port, host);
  const hosts = hostsOf(host, actual, options.allowHosts);
  const handler = (request: IncomingMessage, response: ServerResponse) => {
    handle(request, response, hosts, assets, models).catch((error: unknown) => {
      console.error(printable(String((error as Error).stack)));
      if (response.headersSent) response.destroy();
      else sendError(request, response, 500, 'the server failed; its terminal says why');
    });
  };
  server.on('request', handler);
  // The same answer for clients that ask first whether a body is welcome: it is not.
  server.on('checkContinue', handler);
  return { url: hosts.urls[0], urls: hosts.urls, port: actual, close: () => close(server) };
}

async function loadAssets({ pageDir, examples }: ServeOptions, models: readonly OpenModel[]): Promise<Map<string, Asset>> {
  const assets = new Map<string, Asset>();
  for (const file of PAGE_FILES) assets.set(file, await pageAsset(join(pageDir, file)));
  assets.set('', assets.get('index.html')!);
  const shown = examples ?? (await sceneExamples());
  shown.forEach((e, i) => assets.set(`examples/${i}.png`, asset('example.png', e.png)));
  assets.set('api/models.json', asset('models.json', JSON.stringify(await catalogue(models, shown))));
  return assets;
}

async function pageAsset(path: string): Promise<Asset> {
  try {
    return await fileAsset(path);
  } catch (error) {
    throw new SystemError(`cannot read ${path}: the page is not built; run npm run build`, { cause: error });
  }
}

function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, port, host)));
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
  });
}

function listenError(error: Error, port: number, host: string): Error {
  const code = codeOf(error);
  const advice: Record<string, string> = {
    EADDRINUSE: `port ${port} of ${host} is in use: stop the program that has it or choose another with --port`,
    EACCES: `port ${port} of ${host} may not be taken: choose one above 1023 with --port`,
    EADDRNOTAVAIL: `this machine has no address ${host}: leave out --host or give one that it has`,
    ENOTFOUND: `the host name ${host} is unknown: leave out --host or give an address of this machine`,
  };
  return new SystemError(`cannot serve: ${advice[code ?? ''] ?? error.message}`, { cause: error });
}

async function handle(
  request: IncomingMessage,
  response: ServerResponse,
  hosts: Hosts,
  assets: ReadonlyMap<string, Asset>,
  models: readonly OpenModel[],
): Promise<void> {
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.setHeader(name, value);
  const refusal = refuse(request, hosts);
  if (refusal) return sendError(request, response, refusal.status, refusal.message);
  const path = pathSegments(request.url ?? '');
  if (!path) return sendError(request, response, 400, 'the path is malformed');
  const found = assets.get(path.join('/'));
  if (found) return sendAsset(request, response, found);
  const [top, index, file] = path;
  const model = path.length === 3 && top === 'models' && /^\d{1,4}$/.test(index) ? models[Number(index)] : undefined;
  const open = model?.files.get(file);
  if (open) return sendModelFile(request, response, open, file);
  sendError(request, response, 404, 'there is nothing here');
}

/** A refusal in plain text; the connection ends with it, and of a body that still comes only a little is read. */
function sendError(request: IncomingMessage, response: ServerResponse, status: number, message: string): void {
  const body = `${message}\n`;
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
    ...(status === 405 ? { Allow: 'GET, HEAD' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
  let read = 0;
  request.on('data', (chunk: Buffer) => {
    read += chunk.length;
    if (read > BODY_LIMIT) request.destroy();
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
