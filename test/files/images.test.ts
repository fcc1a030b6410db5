import { existsSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { ImageError } from '../../models/nn/errors.ts';
import { readImageHeader } from '../../models/nn/image/header.ts';
import { ImageCache } from '../../models/nn/image/cache.ts';
import type { RgbImage } from '../../models/nn/image/image.ts';
import { normalize, padToSquare, preprocess } from '../../models/nn/image/preprocess.ts';
import { resizeBicubic } from '../../models/nn/image/resize.ts';
import { decodeImage, readImage } from '../../models/matvlm/app/node/decode.ts';
import { haveChromium, withModuleInPage } from '../support/chromium.ts';
import { rejects, throws } from '../support/expect.ts';
import { freshFolder } from '../support/folders.ts';
import { measureImages } from '../support/golden-images.ts';

/** Checks the golden images, of which JPEG decoders may differ a little. */
async function golden(decode: (path: string) => Promise<RgbImage>): Promise<void> {
  let count = 0;
  for await (const one of measureImages('test/golden/images', decode)) {
    const what = JSON.stringify(one);
    assert.not.ok('error' in one, what);
    if ('error' in one) continue;
    // torchvision rounds weights to 16 bits.
    const close = one.file.endsWith('.png') ? one.difference < 0.01 && one.most <= 2 : one.difference <= 1.5;
    assert.ok(close && Math.max(...one.moments) < 2e-3, what);
    count++;
  }
  assert.ok(count >= 14, `${count} images`);
}

const arithmetic = suite('preprocessing');

arithmetic('golden images differ in rounding only', () => golden(readImage));

const solid = (width: number, height: number, value: number): RgbImage => ({
  width,
  height,
  data: new Uint8Array(width * height * 3).fill(value),
});

arithmetic('resizing keeps a solid colour and an image of the size', () => {
  const solidOut = resizeBicubic(solid(75, 31, 200), 64, 64).data;
  assert.ok(solidOut.length === 64 * 64 * 3 && solidOut.every((x) => x === 200));
  const noise = { width: 8, height: 8, data: Uint8Array.from({ length: 192 }, (_, i) => (i * 89) % 256) };
  assert.equal(resizeBicubic(noise, 8, 8).data, noise.data);
});

arithmetic('padding centres on the mean colour', () => {
  const wide = padToSquare(solid(5, 2, 9));
  const rows = Array.from({ length: 5 }, (_, y) => wide.data[y * 15]);
  assert.equal([wide.width, wide.height, rows], [5, 5, [127, 9, 9, 127, 127]]);
  const tall = padToSquare(solid(1, 4, 9));
  assert.equal([...tall.data.slice(0, 12)].filter((_, i) => i % 3 === 0), [127, 9, 127, 127]);
  const pixels = preprocess(solid(4, 1, 255), { size: 4, aspect: 'pad' });
  assert.equal([...pixels.slice(4, 8)], [1, 1, 1, 1]);
});

arithmetic('normalizing gives planes in [-1, 1], into a batch if asked', () => {
  const image = { width: 2, height: 1, data: Uint8Array.of(0, 51, 255, 255, 51, 0) };
  const want = [-1, 1, -0.6, -0.6, 1, -1].map(Math.fround);
  assert.equal([...normalize(image)], want);
  const batch = new Float32Array(12);
  normalize(image, batch, 6);
  assert.equal([...batch], [0, 0, 0, 0, 0, 0, ...want]);
});

arithmetic('malformed arguments are refused', () => {
  const image = solid(2, 2, 0);
  const calls = [
    () => resizeBicubic({ width: 2, height: 2, data: new Uint8Array(5) }, 4, 4),
    () => resizeBicubic({ width: 0, height: 0, data: new Uint8Array(0) }, 4, 4),
    () => resizeBicubic(image, 0, 4),
    () => normalize(image, new Float32Array(12), 1),
    () => preprocess(image, { size: 4, aspect: 'crop' as 'pad' }),
  ];
  for (const call of calls) throws(call, ArgumentError, '', String(call));
});
arithmetic.run();

const formats = suite('decoding');

/** A bright F on a dark ground, of blocks of 4 × 4 pixels, so that JPEG leaves it readable. */
const rows = ['FFFF', 'F...', 'FFF.', 'F...', 'F...', '....'];
const letter = rows.flatMap((row) => Array(4).fill(row.replace(/./g, '$&$&$&$&'))).join('');
const letterImage: RgbImage = {
  width: 16,
  height: 24,
  data: Uint8Array.from([...letter].flatMap((c) => Array(3).fill(c === 'F' ? 240 : 10))),
};
const raw = { width: 16, height: 24, channels: 3 } as const;
const encoder = () => sharp(letterImage.data, { raw });
const near = (got: RgbImage, want: RgbImage, tolerance: number, what: string): void => {
  assert.equal([got.width, got.height], [want.width, want.height], what);
  const worst = got.data.reduce((w, x, i) => Math.max(w, Math.abs(x - want.data[i])), 0);
  assert.ok(worst <= tolerance, `${what}: off by ${worst}`);
};

/** The image that a viewer shows for stored pixels under an EXIF orientation, from the definition of the tag. */
function shown({ width: w, height: h, data: stored }: RgbImage, orientation: number): RgbImage {
  const [width, height] = orientation > 4 ? [h, w] : [w, h];
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [sx, sy] = [
        [x, y], [w - 1 - x, y], [w - 1 - x, h - 1 - y], [x, h - 1 - y],
        [y, x], [y, h - 1 - x], [w - 1 - y, h - 1 - x], [w - 1 - y, x],
      ][orientation - 1];
      data.set(stored.subarray((sy * w + sx) * 3, (sy * w + sx) * 3 + 3), (y * width + x) * 3);
    }
  }
  return { width, height, data };
}

const turned = (orientation: number) =>
  encoder().withMetadata({ orientation }).jpeg({ quality: 100, chromaSubsampling: '4:4:4' }).toBuffer();

formats('EXIF orientations 1 to 8 are applied', async () => {
  for (let orientation = 1; orientation <= 8; orientation++) {
    const image = await decodeImage(await turned(orientation));
    near(image, shown(letterImage, orientation), 12, `orientation ${orientation}`);
  }
});

const wide = Uint16Array.from(letterImage.data, (x) => x * 256 + 77);
const wideGrey = wide.filter((_, i) => i % 3 === 0);
const avif = (image = encoder()) => image.avif({ quality: 95, chromaSubsampling: '4:4:4' });
const translucent = async (image: Sharp) => sharp(await image.png().toBuffer()).ensureAlpha(0.25);
const frames = Buffer.concat([letterImage.data, Buffer.alloc(letterImage.data.length, 200)]);
const animation = sharp(frames, { raw: { width: 16, height: 48, channels: 3, pageHeight: 24 } });
const moving = { lossless: true, delay: [10, 10] };

/** Encoded letters, how far off decoding may be, and what the encoder must have made of them. */
const LETTERS: [string, () => Sharp | Promise<Sharp>, tolerance: number, is?: object][] = [
  ['16-bit RGB', () => sharp(wide, { raw }).toColourspace('rgb16').png(), 1, { depth: 'ushort', channels: 3 }],
  [
    '16-bit grey',
    () => sharp(wideGrey, { raw: { ...raw, channels: 1 } }).toColourspace('grey16').png(),
    ...[1, { depth: 'ushort', channels: 1 }] as const,
  ],
  ['CMYK', () => encoder().toColourspace('cmyk').jpeg({ quality: 100 }), 40, { space: 'cmyk' }],
  ['palette', () => encoder().png({ palette: true }), 1, { isPalette: true }],
  ['grey with alpha', async () => (await translucent(encoder().greyscale())).png(), 1, { hasAlpha: true }],
  ['WebP', () => encoder().webp({ lossless: true }), 0, { format: 'webp' }],
  ['lossy WebP', () => encoder().webp({ quality: 90 }), 60, { format: 'webp' }],
  ['AVIF', () => avif(), 8, { hasAlpha: false }],
  ['AVIF with alpha', () => avif(encoder().ensureAlpha(0.25)), 8, { hasAlpha: true }],
  ['first frame of a GIF', () => animation.clone().gif(moving), 2, { pages: 2 }],
  ['first frame of a WebP', () => animation.clone().webp(moving), 2, { pages: 2 }],
];
for (const [what, encode, tolerance, is = {}] of LETTERS) {
  formats(`an image is decoded: ${what}`, async () => {
    const bytes = await (await encode()).toBuffer();
    const metadata = (await sharp(bytes).metadata()) as unknown as Record<string, unknown>;
    for (const [key, value] of Object.entries(is)) assert.is(metadata[key], value, `${what}: ${key}`);
    near(await decodeImage(bytes), letterImage, tolerance, what);
  });
}

const refused = (bytes: Uint8Array, says: RegExp, what: string) => rejects(decodeImage(bytes), ImageError, says, what);

formats('sizes are read before decoding and capped', async () => {
  const png = await encoder().png().toBuffer();
  const sized = (width: number, height: number): Buffer => {
    const copy = Buffer.from(png);
    copy.writeUInt32BE(width, 16);
    copy.writeUInt32BE(height, 20);
    return copy;
  };
  const before = process.memoryUsage().rss;
  for (const [w, h] of [[14_000, 14_000], [16_385, 1], [2 ** 31, 2 ** 31], [0, 24], [16, 0]]) {
    await refused(sized(w, h), new RegExp(`${w}×${h}`), `${w} × ${h}`);
  }
  const bytes = await avif().toBuffer();
  await refused(bytes.subarray(0, bytes.indexOf('ispe')), /AVIF image does not tell its size/, 'without properties');
  bytes.writeUInt32BE(2 ** 31, bytes.indexOf('ispe') + 8);
  await refused(bytes, /2147483648×24 pixels/, 'a bomb');
  assert.ok(process.memoryUsage().rss - before < 50e6);
});

formats('headers tell size, format and transparency', async () => {
  const rgba = await translucent(encoder());
  for (const [format, alpha] of [['png', false], ['jpeg', false], ['webp', false], ['gif', true], ['avif', false]] as const) {
    const header = readImageHeader(await encoder().toFormat(format).toBuffer());
    assert.equal(header, { format, width: 16, height: 24, alpha });
    if (format === 'jpeg') continue;
    for (const options of [{}, { lossless: true }, { palette: true }]) {
      assert.is(readImageHeader(await rgba.clone().toFormat(format, options).toBuffer()).alpha, true, format);
    }
  }
});

formats('what is no image is refused', async () => {
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>';
  await refused(Buffer.from(svg), /no PNG, JPEG, GIF, WebP or AVIF/, 'SVG');
  for (const text of [`<?xml version="1.0"?>${svg}`, '<!doctype html><title>404</title>', '%PDF-1.4']) {
    await refused(Buffer.from(text), /no PNG/, text);
  }
  await refused(new Uint8Array(0), /empty; give an image in PNG, JPEG, GIF, WebP or AVIF/, 'nothing');
  await refused(Buffer.from([0xff, 0xd8, 0xff, 0xd9]), /frame header/, 'JPEG without a frame');
});

formats('truncated anywhere: an ImageError, never a picture', async () => {
  for (const format of ['png', 'jpeg', 'gif', 'webp', 'avif'] as const) {
    const bytes = await encoder().toFormat(format).toBuffer();
    const last = Math.floor(bytes.length * 0.8);
    for (let n = 0; n <= last; n += Math.max(1, Math.floor(last / 60))) {
      await refused(bytes.subarray(0, n), /\w/, `${format} cut to ${n} of ${bytes.length} bytes`);
    }
  }
});

/** A JPEG whose frame header tells another size than its data has. */
function claiming(jpeg: Uint8Array, width: number, height: number): Uint8Array {
  const copy = Buffer.from(jpeg);
  let at = 2;
  while (![0xc0, 0xc2].includes(copy[at + 1])) at += 2 + copy.readUInt16BE(at + 2);
  copy.writeUInt16BE(height, at + 5);
  copy.writeUInt16BE(width, at + 7);
  return copy;
}

/** Noise of 40 × 30 as JPEGs of each kind. */
const noisy = sharp(Uint8Array.from({ length: 3600 }, (_, i) => (i * 7919) % 256), {
  raw: { width: 40, height: 30, channels: 3 },
});
const jpegs = async () => ({
  baseline: await noisy.clone().jpeg().toBuffer(),
  progressive: await noisy.clone().jpeg({ progressive: true }).toBuffer(),
  grey: await noisy.clone().toColourspace('b-w').jpeg().toBuffer(),
});

formats('JPEG data that ends before the size it claims is refused, where the bytes tell before it is decoded', async () => {
  for (const [kind, jpeg] of Object.entries(await jpegs())) {
    const { width, height } = await decodeImage(jpeg);
    assert.equal([width, height], [40, 30]);
    const before = process.memoryUsage().rss;
    for (const [width, height] of [[10_000, 10_000], [1000, 1000], [16_384, 300]]) {
      await refused(claiming(jpeg, width, height), /says it is \d+×\d+ pixels, which \d+ bytes cannot hold/, kind);
    }
    assert.ok(process.memoryUsage().rss - before < 50e6, kind);
    for (const [width, height] of [[80, 90], [40, 120], [200, 100]]) {
      await refused(claiming(jpeg, width, height), /truncated or damaged/, `${kind} as ${width}×${height}`);
    }
    const ended = Buffer.concat([jpeg.subarray(0, Math.floor(jpeg.length * 0.8)), Buffer.from([0xff, 0xd9])]);
    await refused(ended, /truncated or damaged/, `${kind}, ended early`);
    const claims = claiming(jpeg, 80, 90);
    const all = await Promise.allSettled(Array.from({ length: 12 }, (_, i) => decodeImage(i % 3 ? jpeg : claims)));
    const taken = all.map(({ status }) => status === 'fulfilled');
    assert.equal(taken, Array.from({ length: 12 }, (_, i) => i % 3 > 0), `${kind}, many at a time`);
  }
});

formats('what other viewers pass over is passed over', async () => {
  const { baseline, progressive } = await jpegs();
  const zeros = [baseline.subarray(0, -2), Buffer.alloc(9), baseline.subarray(-2)];
  for (const odd of [[baseline, Buffer.from('and more')], zeros, [claiming(progressive, 20, 15)]]) {
    assert.ok((await decodeImage(Buffer.concat(odd))).width > 0);
  }
  const blank = await sharp({ create: { width: 4000, height: 3000, channels: 3, background: 'white' } })
    .jpeg({ quality: 1, mozjpeg: true })
    .toBuffer();
  assert.is((await decodeImage(blank)).width, 4000);
});

formats('files: the path is named; devices, pipes and files of /proc that have no end are refused unread', async () => {
  const folder = freshFolder([['a.png', 'no image'], ['huge.png', '']]);
  truncateSync(join(folder, 'huge.png'), 3e8);
  await rejects(readImage(join(folder, 'huge.png')), ImageError, /huge.png: 300 MB, expected .* at most 200 MB/);
  const endless = ['/dev/zero', '/dev/null', '/proc/kmsg', '/proc/self/environ'].filter(existsSync);
  for (const path of [...endless, join(folder, 'a.png'), join(folder, 'b.png'), folder]) {
    await rejects(readImage(path), ImageError, path);
  }
});

formats('a cache of images keeps those used last, within its bytes', () => {
  const cache = new ImageCache<number>(10 * 3);
  const image = (pixels: number) => solid(pixels, 1, 0);
  for (let key = 0; key < 3; key++) cache.add(key, image(3));
  cache.get(0);
  cache.add(3, image(4));
  assert.equal([0, 1, 2, 3].map((key) => cache.get(key)?.width), [3, undefined, 3, 4]);
  cache.add(4, image(11));
  assert.equal([0, 1, 2, 3, 4].map((key) => cache.get(key)), Array(5).fill(undefined));
  cache.add(5, image(10));
  assert.is(cache.get(5)!.width, 10);
});
formats.run();

const browser = suite('decoding in a browser');
const inBrowser = haveChromium('decoding in a browser') ? browser : browser.skip;
inBrowser('golden images, orientation, AVIF, broken files', () =>
  withModuleInPage('models/nn/image/decode-browser.ts', async (call) => {
    const decode = async (bytes: Uint8Array): Promise<RgbImage> => {
      const image = await call<{ width: number; height: number; data: string }>('decodeImage', bytes);
      return { ...image, data: new Uint8Array(Buffer.from(image.data, 'latin1')) };
    };
    await golden(async (path) => decode(readFileSync(path)));
    near(await decode(await turned(6)), shown(letterImage, 6), 12, 'orientation 6');
    for (const image of [avif(), avif(encoder().ensureAlpha(0.25))]) {
      near(await decode(await image.toBuffer()), letterImage, 8, 'AVIF');
    }
    const png = await encoder().png().toBuffer();
    const claims = claiming((await jpegs()).baseline, 10_000, 10_000);
    for (const bytes of [png.subarray(0, 60), Buffer.from('<svg/>'), claims]) {
      await rejects(decode(bytes), Error, /cannot be decoded|no PNG|cannot hold/);
    }
  }),
);
browser.run();
