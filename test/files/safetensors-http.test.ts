import type { IncomingMessage, ServerResponse } from 'node:http';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CheckpointError } from '../../engine/errors.ts';
import { type ByteSource, Checkpoint } from '../../engine/safetensors/index.ts';
import { httpFolder, type HttpOptions, httpSource } from '../../models/nn/http/source.ts';
import { rejects } from '../support/expect.ts';
import { drip, withServer } from '../support/http.ts';
import { fileOf } from '../support/safetensors-bytes.ts';

/** What one request asks for at most. */
const BLOCK = 4 * 2 ** 20;
const SIZE = BLOCK + 3000;
const BODY = Uint8Array.from({ length: SIZE }, (_, i) => (i * 7 + (i >> 13)) & 255);
const FAST = { backoffMs: 1, retries: 3 };
/** For servers that fall silent. */
const STALLS = { ...FAST, stallMs: 150 };

/** Answers a request for [begin, end], the `count`-th. */
type Handler = (response: ServerResponse, range: Range, count: number, request: IncomingMessage) => void;
type Range = [begin: number, end: number];

/** Answers a range truly, with single things changed by the test. */
function answer(
  response: ServerResponse,
  [begin, last]: Range,
  { status = 206, headers = {}, body = undefined as Uint8Array | string | undefined, file = BODY } = {},
): void {
  const end = Math.min(last, file.length - 1);
  response.writeHead(status, { 'Content-Range': `bytes ${begin}-${end}/${file.length}`, ETag: '"1"', ...headers });
  response.end(body ?? file.subarray(begin, end + 1));
}

/** Sends a whole file with its length, however it was asked for. */
const whole = (response: ServerResponse, headers = {}) =>
  response.writeHead(200, { 'Content-Length': SIZE, ETag: '"1"', ...headers });

/** Runs `test` against a server on this machine. */
async function serving(handler: Handler, test: (url: string) => Promise<unknown>): Promise<void> {
  let count = 0;
  await withServer((response, request) => {
    const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!.map(Number);
    handler(response, [begin, end], ++count, request);
  }, test);
}

/** The same, with its file opened. */
type Reader = (source: ByteSource, url: string) => Promise<unknown>;
const reading = (handler: Handler, test: Reader, options: HttpOptions = FAST) =>
  serving(handler, async (url) => test((await httpSource(`${url}/x`, options))!, url));

const same = (got: Uint8Array, begin = 0, end = SIZE) => assert.ok(Buffer.from(got).equals(BODY.subarray(begin, end)));

const http = suite('safetensors over HTTP');

http('reads ranges, sends If-Range, and gives null for what is not there', async () => {
  const seen: (string | undefined)[] = [];
  await serving(
    (response, range, _, request) => {
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
      same(await source.read(10, 500), 10, 510);
      same(await source.read(0, SIZE));
      assert.is((await source.read(5, 0)).length, 0);
      await rejects(source.read(SIZE - 5, 6), CheckpointError, /the file ends here/);
    },
  );
  assert.equal(seen, [undefined, undefined, undefined, '"1"']);
});

const claims = (said: (begin: number, end: number) => string): Handler => (response, [b, e]) =>
  answer(response, [b, e], { headers: { 'Content-Range': `bytes ${said(b, e)}` } });

/** Servers that lie from the second answer on, which is to [4194304, 4197303]: what they do, and what the error says. */
const LIES: [string, RegExp, Handler][] = [
  ['200 for 206', /changed on the server/, (response) => response.writeHead(200).end(BODY)],
  ['an HTML page', /a web page/, (response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>')],
  ['wrong begin', /Content-Range/, claims((b, e) => `${b + 1}-${e}/${SIZE}`)],
  ['wrong end', /Content-Range/, claims((b, e) => `${b}-${e - 1}/${SIZE}`)],
  ['unknown total', /Content-Range/, claims((b, e) => `${b}-${e}/*`)],
  ['another total', /changed/, claims((b, e) => `${b}-${e}/${SIZE + 1}`)],
  ['another ETag', /changed/, (response, range) => answer(response, range, { headers: { ETag: '"2"' } })],
  [
    'no ETag any more',
    /changed/,
    (response, [b, e]) => response.writeHead(206, { 'Content-Range': `bytes ${b}-${e}/${SIZE}` }).end(BODY.subarray(b)),
  ],
  ['a long body', /more than the 3000 bytes/, (response, at) => answer(response, at, { body: BODY.subarray(BLOCK - 1) })],
  ['always short', /ended at byte 4194304, .* after 4 tries/, (response, range) => answer(response, range, { body: '' })],
  ['always 503', /answered 503, after 4 tries/, (response) => response.writeHead(503).end()],
  ['403', /answered 403, expected 206 or 200/, (response) => response.writeHead(403).end()],
  ['404', /changed/, (response) => response.writeHead(404).end()],
  ['a redirect loop', /broke.*after 4 tries/, (response) => response.writeHead(302, { Location: '/x' }).end()],
  ['silence', /nothing came for 0.15 s, after 4 tries/, () => {}],
  ['dropped', /connection broke.*after 4 tries/, (response) => response.destroy()],
];

for (const [lie, says, handler] of LIES) {
  http(`a server that lies: ${lie}`, () =>
    reading(
      (response, range, count, request) => {
        if (count === 1) answer(response, range);
        else handler(response, range, count, request);
      },
      async (source, url) => {
        const { message } = await rejects(source.read(BLOCK + 10, 100), CheckpointError, says);
        assert.match(message, url);
      },
      lie === 'silence' ? STALLS : FAST,
    ),
  );
}

http('a server that knows no ranges sends the file once, as long as it is read onwards', async () => {
  let requests = 0;
  const send: Handler = (response) => {
    requests++;
    whole(response).end(BODY);
  };
  await reading(send, async (source) => {
    assert.is(await source.size(), SIZE);
    same(await source.read(0, 8), 0, 8);
    const spans = [[8, 1000], [70_000, 500_000], [SIZE - 9, 9]];
    const parts = await Promise.all(spans.map(([at, length]) => source.read(at, length)));
    for (const [i, [at, length]] of spans.entries()) same(parts[i], at, at + length);
    assert.is(requests, 1);
    same(await source.read(100, 8), 100, 108);
    assert.is(requests, 2, 'going back begins anew');
    await source.close();
  });
});

http('of a file that is sent whole, no more is taken than is read', async () => {
  let sent = 0;
  const size = 2 ** 28;
  const send: Handler = (response) => {
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
  };
  await reading(send, async (source) => {
    await source.read(0, 2 ** 21);
    await new Promise((done) => setTimeout(done, 100));
    assert.ok(sent < size / 4, `${sent} bytes were sent for 2 MiB that were read`);
    await source.close();
  });
});

http('a file that is sent whole: drops are made good, a change is told, an untold length is found', async () => {
  /** Each answer is a MiB longer than the one before, and breaks off unless it is the last. */
  const dropping = (etag: (count: number) => number): Handler => (response, _, count) => {
    whole(response, { ETag: `"${etag(count)}"` });
    if (count >= 5) response.end(BODY);
    else response.write(BODY.subarray(0, count * 2 ** 20), () => setTimeout(() => response.destroy(), 20));
  };
  await reading(dropping(() => 1), async (source) => same(await source.read(0, SIZE)));
  await reading(dropping((count) => count), (it) => rejects(it.read(0, SIZE), CheckpointError, /changed on the server/));
  await reading((response) => response.writeHead(200).end(BODY), async (source) => {
    assert.is(await source.size(), SIZE);
    same(await source.read(SIZE - 9, 9), SIZE - 9);
  });
});

/** Counts how many answers are under way. */
function openAnswers() {
  const counted = { open: 0, most: 0 };
  const count = (response: ServerResponse) => {
    counted.most = Math.max(counted.most, ++counted.open);
    response.on('close', () => counted.open--);
  };
  return { counted, count };
}

http('many files that are sent whole are read in turns, with few connections open', async () => {
  const { counted, count } = openAnswers();
  const send: Handler = (response) => {
    count(response);
    whole(response).end(BODY);
  };
  await serving(send, async (url) => {
    const folder = httpFolder(url, FAST);
    const files = await Promise.all(Array.from({ length: 9 }, (_, i) => folder.open(`${i}.safetensors`)));
    for (const at of [0, SIZE - 100]) for (const file of files) same(await file!.read(at, 100), at, at + 100);
    for (const file of files) await file!.close();
  });
  assert.ok(counted.most <= 10, `${counted.most} at a time`);
});

http('a reader who goes on has the next blocks asked for, a few at a time; one who jumps has not', async () => {
  const size = 20 * BLOCK;
  const asked: number[] = [];
  const { counted, count } = openAnswers();
  const send: Handler = (response, [begin, last]) => {
    asked.push(begin / BLOCK);
    count(response);
    const end = Math.min(last, size - 1);
    response.writeHead(206, { 'Content-Range': `bytes ${begin}-${end}/${size}` });
    response.write(new Uint8Array(end - begin));
    setTimeout(() => response.end(new Uint8Array(1)), 10);
  };
  await reading(send, async (source) => {
    await source.read(0, 100);
    await source.read(19 * BLOCK, 100);
    assert.equal(asked, [0, 19]);
    for (let at = 0; at < 10 * BLOCK; at += BLOCK / 2) await source.read(at, 100);
    const once = new Set(asked);
    assert.is(once.size, asked.length, `asked twice: ${asked}`);
    assert.ok([...once].every((block) => block <= 12 || block === 19), `asked for ${asked}`);
    assert.ok(counted.most > 1 && counted.most <= 4, `${counted.most} at a time`);
    await source.close();
  });
});

http('a connection that drops or stalls in every answer is resumed from where it ended', () =>
  reading(
    (response, [begin, last], count) => {
      const end = Math.min(last, 2999);
      const body = BODY.subarray(begin, Math.min(end + 1, begin + 200));
      const headers = { 'Content-Range': `bytes ${begin}-${end}/3000`, 'Content-Length': end - begin + 1 };
      response.writeHead(206, { ETag: '"1"', ...headers }).write(body);
      if (body.length === end - begin + 1) response.end();
      else if (count % 2) setTimeout(() => response.destroy(), 20);
    },
    async (source) => same(await source.read(0, 3000), 0, 3000),
    { ...STALLS, floor: { bytes: 200, ms: 60_000 } },
  ),
);

/** Ways to send a byte now and then, for ever. */
const DRIPS: Record<string, (response: ServerResponse) => void> = {
  'in one answer': (response) => drip(response, 5),
  'an answer at a time': (response) => response.write('x', () => setTimeout(() => response.destroy(), 5)),
};
for (const [how, send] of Object.entries(DRIPS)) {
  for (const status of [206, 200]) {
    http(`a drip ends: ${how}, by ${status}`, () =>
      reading(
        (response, [begin]) => {
          const ranged = { 'Content-Range': `bytes ${begin}-${BLOCK - 1}/${SIZE}` };
          response.writeHead(status, { ETag: '"1"', ...(status === 206 ? ranged : { 'Content-Length': SIZE }) });
          send(response);
        },
        (it) => rejects(it.read(0, SIZE), CheckpointError, /only \d+ bytes came in \d+ s, expected 1000|after 4 tries/),
        { ...FAST, floor: { bytes: 1000, ms: 200 } },
      ),
    );
  }
}

http('an aborted signal ends a read at once', () => {
  const stop = new AbortController();
  return reading(
    (response, range, count) => void (count === 1 && answer(response, range)),
    async (source) => {
      setTimeout(() => stop.abort(), 30);
      const error = await rejects(source.read(BLOCK, 100), Error);
      assert.is(error.name, 'AbortError');
    },
    { ...FAST, signal: stop.signal },
  );
});

http('a checkpoint behind a URL', async () => {
  const file = fileOf('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   ', Uint8Array.of(1, 2, 3));
  const send: Handler = (response, range, _, request) => {
    if (request.url === '/m%20x/model.safetensors') answer(response, range, { file });
    else response.writeHead(404).end();
  };
  await serving(send, async (url) => {
    const weights = await Checkpoint.open(httpFolder(`${url}/m%20x`, FAST));
    assert.equal([...(await weights.readAs('a', 'i32'))], [1, 2, 3]);
    await rejects(Checkpoint.open(httpFolder(url, FAST)), CheckpointError, /no weights/);
  });
});

http.run();
