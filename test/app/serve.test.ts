import { cpSync, linkSync, mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, CheckpointError, SystemError } from '../../engine/errors.ts';
import { httpFolder } from '../../models/nn/http/source.ts';
import { linkedFiles } from '../../models/matvlm/app/serve/files.ts';
import { catalogue } from '../../models/matvlm/app/serve/catalogue.ts';
import { parseRange } from '../../models/matvlm/app/serve/range.ts';
import { type Served, startServer } from '../../models/matvlm/app/serve/server.ts';
import { rejects } from '../support/expect.ts';
import { freshFolder } from '../support/folders.ts';

const weights = Uint8Array.from({ length: 3 * 2 ** 20 + 7 }, (_, i) => (i * 31) % 251);
const PAGE = ['index.html', 'page.css', 'page.js', 'worker.js', 'notices.txt', 'matvlm-simd.wasm', 'matvlm-relaxed.wasm'];
const root = freshFolder([
  ...PAGE.map((file) => [`page/${file}`, `/* ${file} */`] as const),
  ['config.json', '"outside"'],
  ['model/config.json', '{"a": 1}'],
  ['model/mamba_config.json', '{}'],
  ['model/model.safetensors', weights],
  ['model/optimizer.safetensors', 'state'],
  ['model/empty.safetensors', ''],
  ['model/large.safetensors', ''],
]);
const [pageDir, modelDir] = [join(root, 'page'), join(root, 'model')];
symlinkSync(join(root, 'config.json'), join(modelDir, 'tokenizer.json'));
symlinkSync('/etc', join(modelDir, 'etc.safetensors'));
linkSync(join(root, 'config.json'), join(modelDir, 'tokenizer_config.json'));
truncateSync(join(modelDir, 'large.safetensors'), 2 ** 26);
mkdirSync(join(modelDir, 'model-folder.safetensors'));

const start = (more: object = {}) =>
  startServer({ port: 0, models: [{ name: 'tiny <b>', folder: modelDir }], pageDir, requestTimeout: 1000, ...more });
const server = await start();

/** Runs `body` with a server of its own. */
async function withOwn(more: object, body: (server: Served) => Promise<unknown>): Promise<void> {
  const own = await start(more);
  try {
    await body(own);
  } finally {
    await own.close();
  }
}

/** Sends raw bytes and gives all that comes back until the server closes. */
async function raw(bytes: string, port = server.port): Promise<string> {
  const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk) => (text += chunk));
  socket.on('error', () => {});
  await new Promise((done) => socket.on('close', done));
  return text;
}

const get = (path: string, headers: Record<string, string> = {}, method = 'GET', body = '', port = server.port) => {
  const all = { Host: `127.0.0.1:${port}`, Connection: 'close', ...headers };
  const lines = Object.entries(all).map(([k, v]) => `${k}: ${v}\r\n`);
  return raw(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`, port);
};
const status = (answer: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);

const served = suite('serve');
served.after(() => server.close());

served('cards name the pictures of data sets that are known, and nothing where they are silent, broken or of others', async () => {
  const both = ['drawings of six coloured circles and squares', 'drawings of one coloured circle, rectangle or triangle'];
  const folder = freshFolder();
  const pictures = async () => (await catalogue([{ name: 'm', folder, files: new Map() }], [])).models[0].pictures;
  const told = (card: string | Uint8Array) => (writeFileSync(join(folder, 'README.md'), card), pictures());
  assert.equal(await told('---\ndatasets: [sort-of-clevr, easy-vqa]\n---\n# T'), both);
  assert.equal(await told('---\nlicense: x\ndatasets:\n- easy-vqa\n---\n'), [both[1]]);
  const lists = ['easy-vqa', '[own]', '[easy-vqa, easy-vqa=/srv/cats]', '[toString]', '['.repeat(9000)];
  const silent = ['', '# no front matter', '---\n[\n---\n', ...lists.map((list) => `---\ndatasets: ${list}\n---\n`)];
  silent.push(`---\na: &a [x]\ndatasets: [${'*a,'.repeat(99)}]\n---\n`);
  for (const card of silent) assert.is(await told(card), null, card.slice(0, 60));
  assert.is(await told(new Uint8Array(2 ** 20).fill(255)), null);
  rmSync(join(folder, 'README.md'));
  symlinkSync('/dev/zero', join(folder, 'README.md'));
  assert.is(await pictures(), null, 'a link to a device');
});

const lives = async () => assert.is(status(await get('/')), 200, 'the server must live');

/** Out of the folders, out of the tables, and what is not meant for others. */
const PATHS = [
  ...['/models/0/../config.json', '/../../etc/passwd', '/models/0/%2e%2e/config.json', '/models/0/.%2E/config.json'],
  ...['/models/0/..%2fconfig.json', '/models/0/%252e%252e/config.json', '/models/0/%c0%ae%c0%ae/config.json'],
  ...['/models/0/..\\config.json', '/models/0/%5c..%5cconfig.json', '/models/0/config.json%00.png'],
  ...['/models/0/config.json%0d%0aX-Evil: 1', '/models/0/%zz', '//etc/passwd', 'http://elsewhere.example/config.json'],
  ...['*', '/models/0/.git', '/models/1/config.json', '/models/-1/config.json', '/models/length/config.json'],
  ...['/__proto__', '/cli.js', `/${'a'.repeat(10_000)}`, '/models/0/optimizer.safetensors'],
  // A link out, a hard link out, a link to a folder, a folder.
  ...['/models/0/tokenizer.json', '/models/0/tokenizer_config.json', '/models/0/etc.safetensors'],
  '/models/0/model-folder.safetensors',
];
for (const path of PATHS) {
  served(`refuses ${path.slice(0, 80)}`, async () => {
    const answer = await get(path);
    assert.ok(status(answer) >= 400 && status(answer) < 500, answer.slice(0, 200));
    assert.not.match(answer, /outside|root:|X-Evil/);
    await lives();
  });
}

served('answers to its own hosts and origins only, and never opens itself to others', async () => {
  const { port } = server;
  const Origin = `http://127.0.0.1:${port}`;
  const api = '/api/models.json';
  const asked = { Origin: 'http://evil.example', 'Access-Control-Request-Method': 'POST' };
  const rows: [status: number, path: string, headers: Record<string, string>, method?: string][] = [
    ...['localhost', 'LOCALHOST', '[::1]'].map((host): [number, string, { Host: string }] => [200, '/', { Host: `${host}:${port}` }]),
    [403, api, { Host: 'evil.example' }],
    [403, api, { Host: `evil.example:${port}` }],
    [403, api, { Host: '127.0.0.1:1' }],
    [403, api, { Host: `127.0.0.1:${port}@evil.example` }],
    [403, '/', { Host: `${hostname()}:${port}` }], // On the loopback names are not needed.
    [200, '/', { Origin }],
    [405, '/', { Origin }, 'POST'],
    [403, api, {}, 'POST'],
    [403, api, { Origin: 'http://evil.example' }, 'POST'],
    [403, api, { Origin: 'null' }, 'POST'],
    [403, api, { Origin: `https://127.0.0.1:${port}` }, 'POST'],
    [403, api, { Origin: 'http://evil.example' }],
    [403, '/', asked, 'OPTIONS'],
  ];
  for (const [want, path, headers, method] of rows) {
    const answer = await get(path, headers, method);
    assert.is(status(answer), want, `${method} ${path} ${JSON.stringify(headers)}`);
    assert.not.match(answer, /access-control-allow/i);
  }
  const own = `Host: 127.0.0.1:${port}\r\n`;
  for (const hosts of ['', `${own}Host: evil.example\r\n`, `hOST: evil.example\r\n${own}`, own + own]) {
    const answer = await raw(`GET /api/models.json HTTP/1.1\r\n${hosts}Connection: close\r\n\r\n`);
    assert.is(status(answer), 400, 'one Host header');
    assert.not.match(answer, /tiny/);
  }
});

served('on a network it answers to the names and addresses of this machine, and to names that are allowed', () =>
  withOwn({ host: '0.0.0.0', allowHosts: ['Models.example.org', 'proxy.example.org:8443'] }, async ({ port, url, urls }) => {
    const [name] = hostname().split('.');
    const addresses = Object.values(networkInterfaces()).flatMap((list) => list!).filter(({ family }) => family === 'IPv4');
    const own = [...addresses.map(({ address }) => address), hostname(), name, `${name.toUpperCase()}.local`, 'localhost', '0.0.0.0'];
    const allowed = ['models.example.org', 'models.example.org:9000', 'proxy.example.org:8443'];
    const others = [`${name}.example.org:${port}`, `evil.example:${port}`, 'proxy.example.org:80', `192.0.2.1:${port}`];
    const hosts: [number, string[]][] = [
      [200, [...own.map((host) => `${host}:${port}`), ...allowed]],
      [403, [...others, `x.models.example.org`, `${name}:${port + 1}`, '127.0.0.1', `[::2]:${port}`]],
    ];
    for (const [want, list] of hosts) {
      for (const Host of list) assert.is(status(await get('/', { Host }, 'GET', '', port)), want, Host);
    }
    assert.is(url, `http://127.0.0.1:${port}/`);
    for (const url of urls) assert.is((await fetch(url)).status, 200, url);
  }));

/** Asks for a large file and takes nothing of it. */
const slowReader = (port: number, localAddress = '127.0.0.1'): Promise<Socket> =>
  new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', localAddress }, () => {
      socket.pause();
      socket.on('error', () => {});
      socket.write(`GET /models/0/large.safetensors HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
      resolve(socket);
    });
  });

/** Bytes that come until the connection is closed, or the whole file has. */
async function taken(socket: Socket): Promise<number> {
  let bytes = 0;
  try {
    for await (const chunk of socket.resume()) if ((bytes += chunk.length) > 2 ** 26) break;
  } catch {
    // It was reset.
  }
  return bytes;
}

served('slow readers do not shut others out: of too many connections the stillest of the greediest client goes', () =>
  withOwn({ maxConnections: 8 }, async ({ port, url }) => {
    const other = await slowReader(port, '127.0.0.2');
    const readers = await Promise.all(Array.from({ length: 24 }, () => slowReader(port)));
    for (let i = 0; i < 3; i++) assert.is((await fetch(`${url}?${i}`)).status, 200);
    assert.ok((await taken(other)) > 2 ** 26, 'the first client has one connection, and keeps it');
    const cut = await Promise.all(readers.map(taken));
    assert.ok(cut.filter((bytes) => bytes < 2 ** 26).length >= 24 - 8, `${cut}`);
  }));

served('cuts off who takes less of an answer than the floor', () =>
  withOwn({ floor: { bytes: 2 ** 20, ms: 200 } }, async ({ port, url }) => {
    const socket = await slowReader(port);
    await sleep(800);
    const bytes = await taken(socket);
    assert.ok(bytes < 2 ** 26, `${bytes} bytes came all the same`);
    assert.is((await fetch(url)).status, 200);
  }));

served('sends the headers that fence the page in', async () => {
  for (const path of ['/', '/api/models.json', '/nothing', '/models/0/config.json']) {
    const answer = await get(path);
    assert.match(answer, /content-security-policy: default-src 'none'; script-src 'self' 'wasm-unsafe-eval'/i);
    assert.not.match(answer, /unsafe-inline|'unsafe-eval'/);
    assert.match(answer, /x-content-type-options: nosniff/i);
    assert.match(answer, /cross-origin-opener-policy: same-origin/i);
    assert.match(answer, /cross-origin-embedder-policy: require-corp/i);
  }
});

served('refuses huge bodies, told and untold, without reading them', async () => {
  assert.is(status(await get('/', { 'Content-Length': '999999999999' }, 'POST', 'x')), 413);
  assert.is(status(await get('/', { 'Content-Length': '999999999999', Expect: '100-continue' }, 'POST')), 413);
  assert.is(status(await get('/', { 'Content-Length': '3' }, 'GET', 'abc')), 400);
  const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
  const answer = await get('/', { 'Transfer-Encoding': 'chunked' }, 'POST', chunk.repeat(200));
  assert.ok(answer === '' || status(answer) === 403, answer.slice(0, 100));
  await lives();
});

served('cuts off slow clients and broken requests', async () => {
  // Answered before this side would close the connection.
  const slow = await raw(`GET / HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\nX-Slow: `);
  assert.is(status(slow), 408);
  for (const text of ['\0\0\0\r\n\r\n', 'GET\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n']) {
    assert.is(status(await raw(text)), 400);
  }
  assert.is(status(await get('/', { 'X-Big': 'x'.repeat(40_000) })), 431);
  await lives();
});

served('outlives clients that leave in the middle of a file', async () => {
  for (let i = 0; i < 20; i++) {
    const socket = connect(server.port, '127.0.0.1', () => {
      socket.write(`GET /models/0/model.safetensors HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\n\r\n`);
    });
    socket.once('data', () => socket.destroy());
    await new Promise((done) => socket.on('close', done));
  }
  await lives();
});

served('reads Range headers as RFC 9110 has them', () => {
  const spans = { '0-0': [0, 0], '2-99': [2, 9], '7-': [7, 9], '-3': [7, 9], '-99': [0, 9] };
  for (const [range, [first, last]] of Object.entries(spans)) assert.equal(parseRange(`bytes=${range}`, 10), { first, last });
  for (const none of ['bytes=10-', 'bytes=99-100', 'bytes=-0']) assert.is(parseRange(none, 10), 'unsatisfiable');
  assert.is(parseRange('bytes=0-0', 0), 'unsatisfiable');
  for (const all of [undefined, '', 'bytes=', 'bytes=-', 'bytes=5-2', 'bytes=0-1,3-4', 'items=0-1', 'bytes=a-b']) {
    assert.is(parseRange(all, 10), null);
  }
});

served('serves ranges, whole files, 304 and HEAD', async () => {
  const url = `${server.url}models/0/model.safetensors`;
  const ask = async (headers: Record<string, string>, method = 'GET', from = url) => {
    const answer = await fetch(from, { headers, method });
    return { status: answer.status, header: (name: string) => answer.headers.get(name)!, body: new Uint8Array(await answer.arrayBuffer()) };
  };
  const part = await ask({ Range: 'bytes=100-109' });
  assert.equal([part.status, part.header('content-range')], [206, `bytes 100-109/${weights.length}`]);
  assert.equal(part.body, weights.slice(100, 110));
  const whole = await ask({ Range: 'bytes=0-1', 'If-Range': '"other"' });
  assert.is(whole.status, 200);
  assert.is(Buffer.compare(whole.body, weights), 0);
  assert.is((await ask({ Range: 'bytes=0-1', 'If-Range': part.header('etag') })).status, 206);
  assert.is((await ask({ Range: `bytes=${weights.length}-` })).status, 416);
  const head = await ask({}, 'HEAD');
  const told = [head.header('content-length'), head.header('content-type')];
  assert.equal(told, [String(weights.length), 'application/octet-stream']);
  const page = await ask({}, 'GET', server.url);
  assert.is(page.header('content-type'), 'text/html; charset=utf-8');
  assert.is((await ask({ 'If-None-Match': page.header('etag') }, 'GET', server.url)).status, 304);
});

served('lists models by role, and examples with the answers of their questions', async () => {
  const list = await (await fetch(`${server.url}api/models.json`)).json();
  const files = ['config.json', 'empty.safetensors', 'large.safetensors', 'mamba_config.json', 'model.safetensors'];
  assert.equal(list.models, [{ name: 'tiny <b>', role: 'student', url: '/models/0', files, pictures: null }]);
  assert.is(list.examples.length, 8);
  assert.ok(list.examples.every((e: { questions: unknown[] }) => e.questions.length > 5));
  const png = await fetch(new URL(list.examples[0].url, server.url));
  assert.is(png.headers.get('content-type'), 'image/png');
  assert.equal([...new Uint8Array(await png.arrayBuffer())].slice(1, 4), [80, 78, 71]);
});

served('a folder over HTTP reads as one on disk', async () => {
  const folder = httpFolder(`${server.url}models/0`);
  assert.is(await folder.open('none.safetensors'), null);
  const file = (await folder.open('model.safetensors'))!;
  assert.is(await file.size(), weights.length);
  for (const [offset, length] of [[0, 10], [2 ** 20 - 5, 10], [5, 2 ** 21], [weights.length - 3, 3], [7, 0]]) {
    assert.equal(await file.read(offset, length), weights.slice(offset, offset + length));
  }
  await rejects(file.read(weights.length - 3, 4), CheckpointError, /the file ends here/);
  await file.close();
  const empty = (await folder.open('empty.safetensors'))!;
  assert.is(await empty.size(), 0);
});

served('goes on serving a checkpoint that its run deletes, and tells of one that is gone at the beginning', async () => {
  const folder = join(root, 'checkpoint-1');
  cpSync(modelDir, folder, { recursive: true });
  const models = [{ name: 'live', folder }];
  await withOwn({ models }, async (live) => {
    const url = `${live.url}models/0`;
    const range = async (first: number, last: number) => {
      const answer = await fetch(`${url}/model.safetensors`, { headers: { Range: `bytes=${first}-${last}` } });
      return new Uint8Array(await answer.arrayBuffer());
    };
    assert.equal(await range(0, 9), weights.slice(0, 10));
    rmSync(folder, { recursive: true });
    // More of them than an emitter takes listeners without a warning.
    for (let i = 1; i < 20; i++) assert.equal(await range(i, i + 2 ** 17), weights.slice(i, i + 2 ** 17 + 1));
    assert.is(await (await fetch(`${url}/config.json`)).text(), '{"a": 1}');
    assert.is((await fetch(`${url}/optimizer.safetensors`)).status, 404);
  });
  await rejects(start({ models }), SystemError, /checkpoint-1: it was deleted meanwhile; serve/);
});

served('serves a file with several names where that is allowed', async () => {
  const name = 'tokenizer_config.json';
  assert.equal(await linkedFiles(modelDir), [join(modelDir, name)]);
  await withOwn({ models: [{ name: 'linked', folder: modelDir, hardLinks: true }] }, async ({ url }) => {
    assert.is(await (await fetch(`${url}models/0/${name}`)).text(), '"outside"');
  });
});

served('a port that is none and a page that is not built are errors that say what to do', async () => {
  await rejects(start({ port: 70000 }), ArgumentError, /port is 70000/);
  await rejects(start({ pageDir: root }), SystemError, /page is not built/);
});

served.run();
