import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SystemError } from '../../engine/errors.ts';
import { DataError, ImageError } from '../../models/nn/errors.ts';
import { loadEasyVqa, openEasyVqa } from '../../models/matvlm/app/node/easy-vqa.ts';
import { EASY_VQA_SOURCE, fetchEasyVqa, filesDigest } from '../../models/matvlm/app/node/easy-vqa-fetch.ts';
import { rejects, throws } from '../support/expect.ts';
import { freshFolder, freshPath } from '../support/folders.ts';
import { type Answer, drip, withServer } from '../support/http.ts';

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

type Fetching = NonNullable<Parameters<typeof fetchEasyVqa>[0]>;

/** Runs `body` with what fetches the archive from a server into an empty cache folder. */
const fetchingFrom = (answer: Answer, body: (options: Fetching & { cacheDir: string }) => Promise<unknown>) => async () => {
  const cacheDir = freshFolder();
  await withServer(answer, (url) => body({ source: { url: `${url}/set`, digest: DIGEST }, cacheDir }));
};

const fetching = suite('fetching easy-VQA');

let requests = 0;
fetching.before.each(() => void (requests = 0));
const whole: Answer = (response) => {
  requests++;
  response.writeHead(200, { 'content-type': 'application/x-gzip' }).end(ARCHIVE);
};

fetching('fetched once, checked, complete, and opened from then on', fetchingFrom(whole, async (options) => {
  const { cacheDir } = options;
  let loaded = 0;
  const folder = await fetchEasyVqa({ ...options, onProgress: (p) => (loaded = p.loaded) });
  assert.is(loaded, ARCHIVE.length);
  const set = await loadEasyVqa('train', options);
  assert.equal([set.length, requests], [2, 1]);
  const image = await set.get(1).image();
  assert.equal([image.width, image.height, ...image.data.slice(0, 3)], [64, 64, 255, 0, 0]);
  assert.equal(readdirSync(cacheDir).length, 1, 'nothing beside the set');
  assert.not.ok(existsSync(join(cacheDir, 'evil.png')));

  writeFileSync(join(folder, 'train/images/2.png'), 'damaged');
  await fetchEasyVqa(options);
  assert.is(requests, 2, 'a damaged copy is fetched anew');
  assert.is((await loadEasyVqa('train', { folder })).length, 2);
}));

fetching('two at a time', fetchingFrom(whole, async (options) => {
  const folders = await Promise.all([fetchEasyVqa(options), fetchEasyVqa(options)]);
  assert.is(folders[0], folders[1]);
  assert.equal(readdirSync(options.cacheDir).length, 1);
}));

const seldom: Answer = (response, request) => (requests < 2 ? (requests++, response.writeHead(503).end()) : whole(response, request));
fetching('a passing server error is tried again', fetchingFrom(seldom, async (options) => {
  await fetchEasyVqa(options);
  assert.is(requests, 3);
}));

fetching('left-overs of a killed process are removed when old', fetchingFrom(whole, async ({ cacheDir, ...options }) => {
  for (const name of ['easy-vqa-0.tmp-old', 'easy-vqa-0.tmp-new', 'other']) mkdirSync(join(cacheDir, name));
  utimesSync(join(cacheDir, 'easy-vqa-0.tmp-old'), 1, 1);
  const folder = await fetchEasyVqa({ ...options, cacheDir });
  assert.equal(readdirSync(cacheDir).sort(), ['easy-vqa-0.tmp-new', basename(folder), 'other'].sort());
}));

const without = (name: string) => new Map([...FILES].filter(([path]) => path !== name));
const tampered = new Map(FILES).set('train/images/2.png', text('other'));
const LONG = { 'content-length': 99999 };
/** Made beforehand: compressing takes longer than the stall that the tests allow. */
const BOMB = gzipSync(Buffer.alloc(65e6));
const lies: [string, Answer, RegExp][] = [
  ['another content', (r) => r.end(gzipSync(tarOf(tampered))), /6 files with checksum [0-9a-f]{64}, expected/],
  ['a file less', (r) => r.end(gzipSync(tarOf(without('test/questions.json')))), /5 files with checksum/],
  ['an HTML page', (r) => r.writeHead(200, { 'content-type': 'text/html' }).end('<p>Log in</p>'), /a web page/],
  ['HTML said to be gzip', (r) => r.end('<p>Log in</p>'), /no gzip archive/],
  ['half an archive', (r) => r.end(ARCHIVE.subarray(0, ARCHIVE.length / 2)), /no gzip archive, or a broken one/],
  ['half a tar', (r) => r.end(gzipSync(tarOf(FILES).subarray(0, 2055))), /ends within the file/],
  ['no tar', (r) => r.end(gzipSync(Buffer.alloc(2000, 'x'))), /no tar header at byte 0/],
  ['a bomb', (r) => r.end(BOMB), /larger than 64000000 bytes/],
  ['404', (r) => r.writeHead(404).end(), /status 404/],
  ['204', (r) => r.writeHead(204).end(), /status 204/],
  ['500 for ever', (r) => r.writeHead(500).end(), /in 3 tries: status 500/],
  ['a redirect loop', (r) => r.writeHead(302, { location: '/set' }).end(), /redirect/],
  ['a short body', (r) => r.writeHead(200, LONG).write(ARCHIVE, () => r.destroy()), /3 tries/],
  ['a stall', (r) => r.writeHead(200, LONG).write(ARCHIVE), /nothing came for 0.2 s/],
  ['no answer', () => {}, /nothing came for 0.2 s/],
  ['a drip', (r) => drip(r, 20), /too slow: only \d+ bytes came in \d+ s, expected 100 at least/],
];
for (const [kind, answer, says] of lies) {
  fetching(`${kind}: refused, nothing kept`, fetchingFrom(answer, async (options) => {
    const limits = { stallMs: 200, floor: { bytes: 100, ms: 500 } };
    await rejects(fetchEasyVqa({ ...options, ...limits }), DataError, says, kind);
    assert.equal(readdirSync(options.cacheDir), []);
  }));
}

fetching('no server, an abort, a cache that cannot be written', fetchingFrom(whole, async ({ source, cacheDir }) => {
  const absent = freshPath();
  await rejects(fetchEasyVqa({ source: { url: 'http://127.0.0.1:9/', digest: DIGEST }, cacheDir: absent }), DataError);
  assert.not(existsSync(absent));
  const aborted = await rejects(fetchEasyVqa({ source, cacheDir, signal: AbortSignal.abort() }), Error);
  assert.is(aborted.name, 'AbortError');
  writeFileSync(join(cacheDir, 'file'), '');
  await rejects(fetchEasyVqa({ source, cacheDir: join(cacheDir, 'file') }), SystemError, join(cacheDir, 'file'));
}));
fetching.run();

const folders = suite('easy-VQA folders');

folders('without one of their files: it is named', () => {
  const names = { 'answers.txt': 'answers.txt', 'train/questions.json': 'train/questions.json' };
  const missing = { ...names, 'train/images/2.png': /1 of 2 images are missing .*2\.png/ };
  for (const [name, says] of Object.entries(missing)) {
    throws(() => openEasyVqa(freshFolder(without(name)), 'train'), DataError, says);
  }
});

folders('another content than the public one has another name', () => {
  const folder = freshFolder(FILES);
  const { name } = openEasyVqa(folder, 'train');
  assert.is(name, `easy-vqa=${basename(folder)}`);
  assert.is(openEasyVqa(folder, 'train').get(0).questions[0].kind, name);
});

folders('a broken image is an ImageError that names the file', async () => {
  const set = openEasyVqa(freshFolder(tampered), 'train');
  await rejects(Promise.resolve(set.get(1).image()), ImageError, '2.png');
});

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
