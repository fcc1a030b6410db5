import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CheckpointError } from '../engine/errors.ts';
import { Checkpoint, httpFolder, httpSource } from '../engine/safetensors/index.ts';

/** What one request asks for at most. */
const BLOCK = 4 * 2 ** 20;
const SIZE = BLOCK + 3000;
const BODY = Uint8Array.from({ length: SIZE }, (_, i) => (i * 7 + (i >> 13)) & 255);
const FAST = { backoffMs: 1, retries: 3 };
/** For servers that fall silent. */
const STALLS = { ...FAST, stallMs: 150 };

type Handler = (request: IncomingMessage, response: ServerResponse, range: [number, number], count: number) => void;

/** Answers a range truly, with single things changed by the test. */
function answer(
  response: ServerResponse,
  [begin, last]: [number, number],
  { status = 206, headers = {}, body = undefined as Uint8Array | string | undefined, file = BODY } = {},
): void {
  const end = Math.min(last, file.length - 1);
  response.writeHead(status, { 'Content-Range': `bytes ${begin}-${end}/${file.length}`, ETag: '"1"', ...headers });
  response.end(body ?? file.subarray(begin, end + 1));
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
      else if (request.url === '/empty') response.writeHead(416, { 'Content-Range': 'bytes */0' }).end();
      else answer(response, range);
    },
    async (url) => {
      assert.is(await httpSource(`${url}/none`, FAST), null);
      const empty = (await httpSource(`${url}/empty`, FAST))!;
      assert.equal([await empty.size(), await empty.read(0, 0)], [0, new Uint8Array(0)]);
      const source = (await httpSource(`${url}/x`, FAST))!;
      assert.is(await source.size(), SIZE);
      assert.equal(await source.read(10, 500), BODY.slice(10, 510));
      assert.ok(Buffer.from(await source.read(0, SIZE)).equals(BODY));
      assert.is((await source.read(5, 0)).length, 0);
      const past = await source.read(SIZE - 5, 6).then(() => assert.unreachable(), (e: unknown) => e as Error);
      assert.match(past!.message, /the file ends here/);
    },
  );
  assert.equal(seen, [undefined, undefined, undefined, '"1"']);
});

/** Servers that lie from the second answer on, which is to [4194304, 4197303]: what they do, and what the error says. */
const LIES: [string, Handler, RegExp][] = [
  ['200 for 206', (_, response) => void response.writeHead(200).end(BODY), /changed on the server/],
  ['an HTML page', (_, r) => void r.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>'), /a web page/],
  [
    'wrong begin',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b + 1}-${e}/${SIZE}` } }),
    /Content-Range/,
  ],
  [
    'wrong end',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e - 1}/${SIZE}` } }),
    /Content-Range/,
  ],
  [
    'unknown total',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e}/*` } }),
    /Content-Range/,
  ],
  [
    'another total',
    (_, r, [b, e]) => answer(r, [b, e], { headers: { 'Content-Range': `bytes ${b}-${e}/${SIZE + 1}` } }),
    /changed/,
  ],
  ['another ETag', (_, r, range) => answer(r, range, { headers: { ETag: '"2"' } }), /changed/],
  [
    'no ETag any more',
    (_, r, [b, e]) => void r.writeHead(206, { 'Content-Range': `bytes ${b}-${e}/${SIZE}` }).end(BODY.subarray(b)),
    /changed/,
  ],
  ['a long body', (_, r, range) => answer(r, range, { body: BODY.subarray(range[0] - 1) }), /more than the 3000 bytes/],
  ['always short', (_, r, range) => answer(r, range, { body: '' }), /ended at byte 4194304, .* after 4 tries/],
  ['always 503', (_, r) => void r.writeHead(503).end(), /answered 503, after 4 tries/],
  ['403', (_, r) => void r.writeHead(403).end(), /answered 403, expected 206 or 200/],
  ['404', (_, r) => void r.writeHead(404).end(), /changed/],
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
        const source = (await httpSource(`${url}/x`, lie === 'silence' ? STALLS : FAST))!;
        const error = await source.read(BLOCK + 10, 100).then(
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

/** Sends a whole file with its length, however it was asked for. */
const whole = (response: ServerResponse, headers = {}) =>
  response.writeHead(200, { 'Content-Length': SIZE, ETag: '"1"', ...headers });

http('a server that knows no ranges sends the file once, as long as it is read onwards', async () => {
  let requests = 0;
  await serving(
    (_, response) => {
      requests++;
      whole(response).end(BODY);
    },
    async (url) => {
      const source = (await httpSource(url, FAST))!;
      assert.is(await source.size(), SIZE);
      assert.equal(await source.read(0, 8), BODY.slice(0, 8));
      const parts = await Promise.all([source.read(8, 1000), source.read(70_000, 500_000), source.read(SIZE - 9, 9)]);
      assert.equal(parts[0], BODY.slice(8, 1008));
      assert.ok(Buffer.from(parts[1]).equals(BODY.subarray(70_000, 570_000)));
      assert.equal(parts[2], BODY.slice(SIZE - 9));
      assert.is(requests, 1);
      assert.equal(await source.read(100, 8), BODY.slice(100, 108), 'going back begins anew');
      assert.is(requests, 2);
      await source.close();
    },
  );
});

http('of a file that is sent whole, no more is taken than is read', async () => {
  let sent = 0;
  const size = 2 ** 28;
  await serving(
    (_, response) => {
      response.writeHead(200, { 'Content-Length': size });
      const piece = new Uint8Array(2 ** 20);
      const more = () => {
        while (sent < size) {
          sent += piece.length;
          if (!response.write(piece)) return;
        }
        response.end();
      };
      response.on('drain', more);
      more();
    },
    async (url) => {
      const source = (await httpSource(url, FAST))!;
      await source.read(0, 2 ** 21);
      await new Promise((done) => setTimeout(done, 100));
      assert.ok(sent < size / 4, `${sent} bytes were sent for 2 MiB that were read`);
      await source.close();
    },
  );
});

http('a file that is sent whole: drops are made good, a change is told, an untold length is found', async () => {
  const drop = 2 ** 20;
  await serving(
    (request, response, _, count) => {
      whole(response, { ETag: request.url === '/changes' ? `"${count}"` : '"1"' });
      response.write(BODY.subarray(0, count * drop), () => count < 5 && setTimeout(() => request.socket.destroy(), 20));
      if (count >= 5) response.end(BODY.subarray(count * drop));
    },
    async (url) => {
      assert.ok(Buffer.from(await (await httpSource(url, FAST))!.read(0, SIZE)).equals(BODY));
    },
  );
  await serving(
    (request, response, _, count) => {
      whole(response, { ETag: `"${count}"` });
      response.write(BODY.subarray(0, drop), () => setTimeout(() => request.socket.destroy(), 20));
    },
    async (url) => {
      const source = (await httpSource(url, FAST))!;
      const error = await source.read(0, SIZE).then(() => assert.unreachable(), (e: unknown) => e as Error);
      assert.match(error!.message, /changed on the server/);
    },
  );
  await serving(
    (_, response) => void response.writeHead(200).end(BODY),
    async (url) => {
      const source = (await httpSource(url, FAST))!;
      assert.is(await source.size(), SIZE);
      assert.equal(await source.read(SIZE - 9, 9), BODY.slice(SIZE - 9));
    },
  );
});

http('many files that are sent whole are read in turns, with few connections open', async () => {
  let open = 0;
  let most = 0;
  await serving(
    (_, response) => {
      most = Math.max(most, ++open);
      response.on('close', () => open--);
      whole(response).write(BODY);
      response.end();
    },
    async (url) => {
      const folder = httpFolder(url, FAST);
      const files = await Promise.all(Array.from({ length: 9 }, (_, i) => folder.open(`${i}.safetensors`)));
      for (const file of files) assert.equal(await file!.read(0, 100), BODY.slice(0, 100));
      for (const file of files) assert.equal(await file!.read(SIZE - 100, 100), BODY.slice(SIZE - 100));
      for (const file of files) await file!.close();
    },
  );
  assert.ok(most <= 10, `${most} at a time`);
});

http('a reader who goes on has the next blocks asked for, a few at a time; one who jumps has not', async () => {
  const size = 20 * BLOCK;
  const asked: number[] = [];
  let open = 0;
  let most = 0;
  await serving(
    (_, response, [begin, last]) => {
      asked.push(begin / BLOCK);
      most = Math.max(most, ++open);
      const end = Math.min(last, size - 1);
      response.writeHead(206, { 'Content-Range': `bytes ${begin}-${end}/${size}` });
      response.write(new Uint8Array(end - begin));
      setTimeout(() => {
        open--;
        response.end(new Uint8Array(1));
      }, 10);
    },
    async (url) => {
      const source = (await httpSource(url, FAST))!;
      await source.read(0, 100);
      await source.read(19 * BLOCK, 100);
      assert.equal(asked, [0, 19]);
      for (let at = 0; at < 10 * BLOCK; at += BLOCK / 2) await source.read(at, 100);
      const once = new Set(asked);
      assert.is(once.size, asked.length, `asked twice: ${asked}`);
      assert.ok([...once].every((block) => block <= 12 || block === 19), `asked for ${asked}`);
      assert.ok(most > 1 && most <= 4, `${most} at a time`);
      await source.close();
    },
  );
});

http('a connection that drops or stalls in every answer is resumed from where it ended', () =>
  serving(
    (request, response, [begin, last], count) => {
      const end = Math.min(last, 2999);
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
    async (url) => {
      const source = (await httpSource(url, { ...STALLS, floor: { bytes: 200, ms: 60_000 } }))!;
      assert.equal(await source.read(0, 3000), BODY.slice(0, 3000));
    },
  ),
);

/** Ways to send a byte now and then, for ever. */
const DRIPS: Record<string, (request: IncomingMessage, response: ServerResponse) => void> = {
  'in one answer': (_, response) => {
    const timer = setInterval(() => response.write('x'), 5);
    response.on('close', () => clearInterval(timer));
  },
  'an answer at a time': (request, response) => void response.write('x', () => setTimeout(() => request.socket.destroy(), 5)),
};
for (const [how, drip] of Object.entries(DRIPS)) {
  for (const status of [206, 200]) {
    http(`a drip ends: ${how}, by ${status}`, () =>
      serving(
        (request, response, [begin]) => {
          const ranged = { 'Content-Range': `bytes ${begin}-${BLOCK - 1}/${SIZE}` };
          const length = { 'Content-Length': SIZE };
          response.writeHead(status, { ETag: '"1"', ...(status === 206 ? ranged : length) });
          drip(request, response);
        },
        async (url) => {
          const source = (await httpSource(url, { ...FAST, floor: { bytes: 1000, ms: 200 } }))!;
          const error = await source.read(0, SIZE).then(() => assert.unreachable(), (e: unknown) => e as Error);
          assert.instance(error, CheckpointError);
          assert.match(error!.message, /only \d+ bytes came in \d+ s, expected 1000|after 4 tries/);
        },
      ),
    );
  }
}

http('an aborted signal ends a read at once', () =>
  serving(
    (_, response, range, count) => void (count === 1 && answer(response, range)),
    async (url) => {
      const stop = new AbortController();
      const source = (await httpSource(url, { ...FAST, signal: stop.signal }))!;
      setTimeout(() => stop.abort(), 30);
      const error = await source.read(BLOCK, 100).then(
        () => assert.unreachable(),
        (e: unknown) => e as Error,
      );
      assert.is(error!.name, 'AbortError');
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
