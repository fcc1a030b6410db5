import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CheckpointError } from '../engine/errors.ts';
import { Checkpoint, httpFolder, httpSource } from '../engine/safetensors/index.ts';

const BODY = Uint8Array.from({ length: 3000 }, (_, i) => (i * 7) & 255);
const FAST = { backoffMs: 1, stallMs: 150, retries: 3 };

type Handler = (request: IncomingMessage, response: ServerResponse, range: [number, number], count: number) => void;

/** Answers a range truly, with single things changed by the test. */
function answer(
  response: ServerResponse,
  [begin, end]: [number, number],
  { status = 206, headers = {}, body = BODY.subarray(begin, end + 1) as Uint8Array | string, file = BODY } = {},
): void {
  response.writeHead(status, { 'Content-Range': `bytes ${begin}-${end}/${file.length}`, ETag: '"1"', ...headers });
  response.end(body);
}

/** Runs `test` against a server on this machine. */
async function serving(handler: Handler, test: (url: string) => Promise<void>): Promise<void> {
  let count = 0;
  const server = createServer((request, response) => {
    const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!.map(Number);
    handler(request, response, [begin, end], ++count);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  try {
    await test(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
}

const http = suite('safetensors over HTTP');

http('reads ranges, sends If-Range, and gives null for what is not there', async () => {
  const seen: (string | undefined)[] = [];
  await serving(
    (request, response, range) => {
      seen.push(request.headers['if-range'] as string | undefined);
      if (request.url === '/none') response.writeHead(404).end();
      else answer(response, range);
    },
    async (url) => {
      assert.is(await httpSource(`${url}/none`, FAST), null);
      const source = (await httpSource(`${url}/x`, FAST))!;
      assert.is(await source.size(), 3000);
      assert.equal(await source.read(10, 500), BODY.slice(10, 510));
      assert.equal(await source.read(0, 3000), BODY);
      assert.is((await source.read(5, 0)).length, 0);
    },
  );
  assert.equal(seen, [undefined, undefined, '"1"', '"1"']);
});

/** Servers that lie from the second answer on: what they do, and what the error must say. */
const LIES: [string, Handler, RegExp][] = [
  ['200 for 206', (_, response) => void response.writeHead(200).end(BODY), /changed on the server/],
  ['an HTML page', (_, r) => void r.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>'), /a web page/],
  [
    'wrong begin',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b + 1}-${e}/3000` } }),
    /Content-Range/,
  ],
  [
    'wrong end',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e - 1}/3000` } }),
    /Content-Range/,
  ],
  [
    'unknown total',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e}/*` } }),
    /Content-Range/,
  ],
  [
    'another total',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e}/3001` } }),
    /changed/,
  ],
  ['another ETag', (_, r, range) => answer(r, range, { headers: { ETag: '"2"' } }), /changed/],
  [
    'no ETag any more',
    (_, r, [b, e]) => void r.writeHead(206, { 'Content-Range': `bytes ${b}-${e}/3000` }).end(BODY),
    /changed/,
  ],
  ['a long body', (_, r, range) => answer(r, range, { body: BODY.subarray(range[0]) }), /more than the 100 bytes/],
  ['always short', (_, r, range) => answer(r, range, { body: '' }), /ended at byte 10, expected 110, after 4 tries/],
  ['always 503', (_, r) => void r.writeHead(503).end(), /answered 503, after 4 tries/],
  ['403', (_, r) => void r.writeHead(403).end(), /answered 403, expected 206/],
  ['a redirect loop', (_, r) => void r.writeHead(302, { Location: '/x' }).end(), /broke.*after 4 tries/],
  ['silence', () => {}, /nothing came for 0.15 s, after 4 tries/],
  ['dropped', (request) => void request.socket.destroy(), /connection broke.*after 4 tries/],
];

for (const [lie, handler, expect] of LIES) {
  http(`a server that lies: ${lie}`, () =>
    serving(
      (request, response, range, count) =>
        count === 1 ? answer(response, range) : handler(request, response, range, count),
      async (url) => {
        const source = (await httpSource(`${url}/x`, FAST))!;
        const error = await source.read(10, 100).then(
          () => assert.unreachable(`${lie}: was believed`),
          (e: unknown) => e,
        );
        assert.instance(error, CheckpointError);
        assert.match((error as Error).message, expect);
        assert.match((error as Error).message, url);
      },
    ),
  );
}

http('a server that does not know ranges is told from the first answer', () =>
  serving(
    (_, response) => void response.writeHead(200).end(BODY),
    async (url) => {
      const error = await httpSource(url, FAST).then(
        () => assert.unreachable(),
        (e: unknown) => e as Error,
      );
      assert.match(error!.message, /answers 200 to a range/);
    },
  ),
);

http('a connection that drops or stalls in every answer is resumed from where it ended', () =>
  serving(
    (request, response, [begin, end], count) => {
      const body = BODY.subarray(begin, Math.min(end + 1, begin + 200));
      response.writeHead(206, {
        'Content-Range': `bytes ${begin}-${end}/3000`,
        ETag: '"1"',
        'Content-Length': end - begin + 1,
      });
      response.write(body);
      if (body.length === end - begin + 1) response.end();
      else if (count % 2) setTimeout(() => request.socket.destroy(), 20);
    },
    async (url) => assert.equal(await (await httpSource(url, FAST))!.read(0, 3000), BODY),
  ),
);

http('an aborted signal ends a read at once', () =>
  serving(
    (_, response, range, count) => void (count === 1 && answer(response, range)),
    async (url) => {
      const stop = new AbortController();
      const source = (await httpSource(url, { ...FAST, stallMs: 60_000, signal: stop.signal }))!;
      const begun = Date.now();
      setTimeout(() => stop.abort(), 30);
      const error = await source.read(0, 100).then(
        () => assert.unreachable(),
        (e: unknown) => e as Error,
      );
      assert.is(error!.name, 'AbortError');
      assert.ok(Date.now() - begun < 2000);
    },
  ),
);

http('a checkpoint behind a URL', async () => {
  const header = '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   ';
  const bytes = new Uint8Array(8 + header.length + 3);
  bytes.set([header.length]);
  bytes.set(new TextEncoder().encode(header), 8);
  bytes.set([1, 2, 3], 8 + header.length);
  await serving(
    (request, response, [begin, end]) => {
      if (request.url === '/m%20x/model.safetensors')
        answer(response, [begin, end], { body: bytes.subarray(begin, end + 1), file: bytes });
      else response.writeHead(404).end();
    },
    async (url) => {
      const weights = await Checkpoint.open(httpFolder(`${url}/m%20x`, FAST));
      assert.equal([...(await weights.readAs('a', 'i32'))], [1, 2, 3]);
      const error = await Checkpoint.open(httpFolder(url, FAST)).then(
        () => assert.unreachable(),
        (e: unknown) => e as Error,
      );
      assert.match(error!.message, /no weights/);
    },
  );
});

http.run();
