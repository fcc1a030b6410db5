import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DataError, ImageError, SystemError } from '../engine/errors.ts';
import { loadEasyVqa, openEasyVqa } from '../models/matvlm/app/node/easy-vqa.ts';
import { EASY_VQA_SOURCE, fetchEasyVqa, filesDigest } from '../models/matvlm/app/node/easy-vqa-fetch.ts';

/** A set of two images, as the public one is laid out. */
const png = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#ff0000' } }).png().toBuffer();
const text = (value: string): Buffer => Buffer.from(value);
const FILES = new Map<string, Buffer>([
  ['answers.txt', text('circle\nred\nyes\nno\n')],
  ['train/questions.json', text('[["what shape?","circle",0],["is it red?","yes",2]]')],
  ['test/questions.json', text('[["is it red?","yes",0]]')],
  ['train/images/0.png', png],
  ['train/images/2.png', png],
  ['test/images/0.png', png],
]);

/** A tar archive as GitHub makes them, with a global header and other files around. */
function tarOf(files: ReadonlyMap<string, Buffer>): Buffer {
  const entry = (path: string, data: Buffer, type = '0'): Buffer[] => {
    const header = Buffer.alloc(512);
    header.write(path, 0);
    header.write(data.length.toString(8).padStart(11, '0'), 124);
    header.write(type, 156);
    header.write('ustar\x0000', 257);
    return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
  };
  const members = [...files].flatMap(([path, data]) => entry(`easy-VQA-1/easy_vqa/data/${path}`, data));
  const around = [...entry('pax_global_header', text('52 comment=x\n'), 'g'), ...entry('easy-VQA-1/', text(''), '5')];
  const escape = entry('../../easy_vqa/data/train/images/../../../../evil.png', png);
  const link = entry('easy-VQA-1/easy_vqa/data/train/images/7.png', text(''), '2');
  const others = [...entry('easy-VQA-1/setup.py', text('x')), ...escape, ...link];
  return Buffer.concat([...around, ...members, ...others, Buffer.alloc(1024)]);
}
const ARCHIVE = gzipSync(tarOf(FILES));
const DIGEST = filesDigest(FILES);

/** Runs `body` with a server and an empty cache folder; both are gone afterwards. */
async function withServer(
  answer: RequestListener,
  body: (url: string, cacheDir: string) => Promise<void>,
): Promise<void> {
  const cacheDir = mkdtempSync(join(tmpdir(), 'matvlm-cache-'));
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}/set`, cacheDir);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    rmSync(cacheDir, { recursive: true, force: true });
  }
}

async function failure(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => assert.unreachable('was accepted') as never,
    (error: Error) => error,
  );
}

const fetching = suite('fetching easy-VQA');

fetching('from the server once, then from the cache', async () => {
  let requests = 0;
  const serve: RequestListener = (_, response) => {
    requests++;
    response.writeHead(200, { 'content-type': 'application/x-gzip' }).end(ARCHIVE);
  };
  await withServer(serve, async (url, cacheDir) => {
    const source = { url, digest: DIGEST };
    let loaded = 0;
    const folder = await fetchEasyVqa({ source, cacheDir, onProgress: (p) => (loaded = p.loaded) });
    assert.is(loaded, ARCHIVE.length);
    const set = await loadEasyVqa('train', { source, cacheDir });
    assert.equal([set.length, requests], [2, 1]);
    const image = await set.get(1).image();
    assert.equal([image.width, image.height, ...image.data.slice(0, 3)], [64, 64, 255, 0, 0]);
    assert.equal(readdirSync(cacheDir).length, 1, 'nothing beside the set');
    assert.not.ok(existsSync(join(cacheDir, 'evil.png')));

    writeFileSync(join(folder, 'train/images/2.png'), 'damaged');
    await fetchEasyVqa({ source, cacheDir });
    assert.is(requests, 2, 'a damaged copy is fetched anew');
    assert.is((await loadEasyVqa('train', { folder })).length, 2);
  });
});

fetching('two at a time', async () => {
  await withServer((_, response) => response.end(ARCHIVE), async (url, cacheDir) => {
    const options = { source: { url, digest: DIGEST }, cacheDir };
    const folders = await Promise.all([fetchEasyVqa(options), fetchEasyVqa(options)]);
    assert.is(folders[0], folders[1]);
    assert.equal(readdirSync(cacheDir).length, 1);
  });
});

fetching('a passing server error is tried again', async () => {
  let requests = 0;
  const serve: RequestListener = (_, response) => {
    if (++requests < 3) response.writeHead(503).end();
    else response.end(ARCHIVE);
  };
  await withServer(serve, async (url, cacheDir) => {
    await fetchEasyVqa({ source: { url, digest: DIGEST }, cacheDir });
    assert.is(requests, 3);
  });
});

fetching('left-overs of a killed process are removed when old', async () => {
  await withServer((_, response) => response.end(ARCHIVE), async (url, cacheDir) => {
    for (const name of ['easy-vqa-0.tmp-old', 'easy-vqa-0.tmp-new', 'other']) mkdirSync(join(cacheDir, name));
    utimesSync(join(cacheDir, 'easy-vqa-0.tmp-old'), 1, 1);
    const folder = await fetchEasyVqa({ source: { url, digest: DIGEST }, cacheDir });
    assert.equal(readdirSync(cacheDir).map((n) => join(cacheDir, n)).sort(), [
      join(cacheDir, 'easy-vqa-0.tmp-new'), folder, join(cacheDir, 'other'),
    ].sort());
  });
});

const tampered = new Map(FILES).set('train/images/2.png', text('other'));
const short = new Map(FILES);
short.delete('test/questions.json');
const LONG = { 'content-length': 99999 };
/** Made beforehand: compressing takes longer than the stall that the tests allow. */
const BOMB = gzipSync(Buffer.alloc(65e6));
/** A byte now and then, for ever. */
const drip: RequestListener = (_, response) => {
  const timer = setInterval(() => response.write('x'), 20);
  response.on('close', () => clearInterval(timer));
};
const lies: [string, RequestListener, RegExp][] = [
  ['another content', (_, r) => r.end(gzipSync(tarOf(tampered))), /6 files with checksum [0-9a-f]{64}, expected/],
  ['a file less', (_, r) => r.end(gzipSync(tarOf(short))), /5 files with checksum/],
  ['an HTML page', (_, r) => r.writeHead(200, { 'content-type': 'text/html' }).end('<p>Log in</p>'), /a web page/],
  ['HTML said to be gzip', (_, r) => r.end('<p>Log in</p>'), /no gzip archive/],
  ['half an archive', (_, r) => r.end(ARCHIVE.subarray(0, ARCHIVE.length / 2)), /no gzip archive, or a broken one/],
  ['half a tar', (_, r) => r.end(gzipSync(tarOf(FILES).subarray(0, 2055))), /ends within the file/],
  ['no tar', (_, r) => r.end(gzipSync(Buffer.alloc(2000, 'x'))), /no tar header at byte 0/],
  ['a bomb', (_, r) => r.end(BOMB), /larger than 64000000 bytes/],
  ['404', (_, r) => r.writeHead(404).end(), /status 404/],
  ['204', (_, r) => r.writeHead(204).end(), /status 204/],
  ['500 for ever', (_, r) => r.writeHead(500).end(), /in 3 tries: status 500/],
  ['a redirect loop', (_, r) => r.writeHead(302, { location: '/set' }).end(), /redirect/],
  ['a short body', (_, r) => r.writeHead(200, LONG).write(ARCHIVE, () => r.destroy()), /3 tries/],
  ['a stall', (_, r) => r.writeHead(200, LONG).write(ARCHIVE), /nothing came for 0.2 s/],
  ['no answer', () => {}, /nothing came for 0.2 s/],
  ['a drip', drip, /too slow: only \d+ bytes came in \d+ s, expected 100 at least/],
];
for (const [kind, serve, message] of lies) {
  fetching(`${kind}: refused, nothing kept`, async () => {
    await withServer(serve, async (url, cacheDir) => {
      const limits = { stallMs: 200, floor: { bytes: 100, ms: 500 } };
      const error = await failure(fetchEasyVqa({ source: { url, digest: DIGEST }, cacheDir, ...limits }));
      assert.instance(error, DataError, String(error));
      assert.match(error.message, message);
      assert.equal(readdirSync(cacheDir), []);
    });
  });
}

fetching('no server, an abort, a cache that cannot be written', async () => {
  const cacheDir = join(tmpdir(), `matvlm-absent-${process.pid}`);
  const gone = await failure(fetchEasyVqa({ source: { url: 'http://127.0.0.1:9/', digest: DIGEST }, cacheDir }));
  assert.ok(gone instanceof DataError && !existsSync(cacheDir), String(gone));
  await withServer((_, response) => response.end(ARCHIVE), async (url, dir) => {
    const source = { url, digest: DIGEST };
    const aborted = await failure(fetchEasyVqa({ source, cacheDir: dir, signal: AbortSignal.abort() }));
    assert.is(aborted.name, 'AbortError');
    writeFileSync(join(dir, 'file'), '');
    const refused = await failure(fetchEasyVqa({ source, cacheDir: join(dir, 'file') }));
    assert.ok(refused instanceof SystemError && refused.message.includes(join(dir, 'file')), String(refused));
  });
});
fetching.run();

const folders = suite('easy-VQA folders');

function withFolder(files: ReadonlyMap<string, Buffer>, body: (folder: string) => void | Promise<void>) {
  return async (): Promise<void> => {
    const folder = mkdtempSync(join(tmpdir(), 'matvlm-set-'));
    try {
      for (const [path, data] of files) {
        mkdirSync(join(folder, dirname(path)), { recursive: true });
        writeFileSync(join(folder, path), data);
      }
      await body(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

for (const name of ['answers.txt', 'train/questions.json', 'train/images/2.png']) {
  const without = new Map(FILES);
  without.delete(name);
  folders(`without ${name}: named`, withFolder(without, (folder) => {
    const named = name.endsWith('png') ? /1 of 2 images are missing .*2\.png/ : new RegExp(name);
    assert.throws(() => openEasyVqa(folder, 'train'), (e: Error) => e instanceof DataError && named.test(e.message));
  }));
}

folders('another content than the public one has another name', withFolder(FILES, (folder) => {
  const { name } = openEasyVqa(folder, 'train');
  assert.is(name, `easy-vqa=${basename(folder)}`);
  assert.is(openEasyVqa(folder, 'train').get(0).questions[0].kind, name);
}));

folders('a broken image is an ImageError that names the file', withFolder(tampered, async (folder) => {
  const error = await failure(Promise.resolve(openEasyVqa(folder, 'train').get(1).image()));
  assert.ok(error instanceof ImageError && error.message.includes('2.png'), String(error));
}));

const publicSet = '../shared/data/easy-vqa';
if (existsSync(publicSet)) {
  folders('the public set: pinned checksum, counts, images', async () => {
    const files = new Map<string, Buffer>();
    for (const p of readdirSync(publicSet, { recursive: true }).map(String)) {
      if (/(answers\.txt|questions\.json|\.png)$/.test(p)) files.set(p, readFileSync(join(publicSet, p)));
    }
    assert.is(filesDigest(files), EASY_VQA_SOURCE.digest);
    for (const [split, images, questions] of [['train', 4000, 38575], ['test', 1000, 9673]] as const) {
      const set = openEasyVqa(publicSet, split);
      assert.is(set.name, 'easy-vqa');
      assert.is(set.length, images);
      const counts = Array.from({ length: images }, (_, i) => set.get(i).questions.length);
      assert.is(counts.reduce((a, b) => a + b), questions);
      const image = await set.get(0).image();
      assert.equal([image.width, image.height], [64, 64]);
    }
  });
} else {
  console.log(`Skipped: ${publicSet} with the public easy-VQA is absent.`);
}
folders.run();
