import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, ImageError } from '../engine/errors.ts';
import { bytesSource, SafetensorsFile } from '../engine/safetensors/index.ts';
import { readImageHeader } from '../models/nn/image/header.ts';
import { ImageCache } from '../models/nn/image/cache.ts';
import type { RgbImage } from '../models/nn/image/image.ts';
import { normalize, padToSquare, preprocess } from '../models/nn/image/preprocess.ts';
import { resizeBicubic } from '../models/nn/image/resize.ts';
import { decodeImage, readImage } from '../models/matvlm/app/node/decode.ts';
import { withPage } from './support/page.ts';

const folder = 'test/golden/images';
const golden = await SafetensorsFile.open(
  bytesSource('expect.safetensors', readFileSync(join(folder, 'expect.safetensors'))),
);

interface Expected {
  file: string;
  size: number;
  width?: number;
  height?: number;
  mean?: number;
  std?: number;
}
const cases: Expected[] = JSON.parse(readFileSync(join(folder, 'expect.json'), 'utf8'));

/** Mean and greatest absolute difference of an interleaved image and planes of bytes. */
function difference(image: RgbImage, planes: Uint8Array): { mean: number; max: number } {
  const plane = image.width * image.height;
  let sum = 0;
  let max = 0;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      const d = Math.abs(image.data[i * 3 + c] - planes[c * plane + i]);
      sum += d;
      max = Math.max(max, d);
    }
  }
  return { mean: sum / planes.length, max };
}

async function checkGolden(decoded: RgbImage, { file, size }: Expected): Promise<void> {
  const { mean, max } = difference(resizeBicubic(decoded, size, size), await golden.readAs(`${file}@${size}`, 'u8'));
  const where = `${file}@${size}: mean ${mean}, max ${max}`;
  if (file.endsWith('.png')) assert.ok(mean <= 0.5 && max <= 3, where);
  else assert.ok(mean <= 1.5, where);
}

const vectors = suite('golden images');
for (const expected of cases) {
  vectors(`${expected.file}@${expected.size}`, async () => {
    const image = await readImage(join(folder, expected.file));
    if (expected.width !== undefined) assert.equal([image.width, image.height], [expected.width, expected.height]);
    await checkGolden(image, expected);
    if (expected.mean === undefined) return;
    const pixels = preprocess(image, { size: expected.size });
    const mean = pixels.reduce((a, b) => a + b, 0) / pixels.length;
    const std = Math.sqrt(pixels.reduce((a, b) => a + (b - mean) ** 2, 0) / pixels.length);
    assert.ok(Math.abs(mean - expected.mean) < 2e-3 && Math.abs(std - expected.std!) < 2e-3, `${mean} ${std}`);
  });
}

vectors('PNG files differ from torchvision, which rounds weights to 16 bits, in rounding only', async () => {
  for (const { file, size } of cases.filter((c) => c.file.endsWith('.png'))) {
    const image = await readImage(join(folder, file));
    const planes = await golden.readAs(`${file}@${size}`, 'u8');
    const { mean, max } = difference(resizeBicubic(image, size, size), planes);
    assert.ok(mean < 0.01 && max <= 2, `${file}@${size}: mean ${mean}, max ${max}`);
  }
});
vectors.run();

const arithmetic = suite('preprocessing');

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
  const is = (e: Error): boolean => e instanceof ArgumentError;
  assert.throws(() => resizeBicubic({ width: 2, height: 2, data: new Uint8Array(5) }, 4, 4), is);
  assert.throws(() => resizeBicubic({ width: 0, height: 0, data: new Uint8Array(0) }, 4, 4), is);
  assert.throws(() => resizeBicubic(solid(2, 2, 0), 0, 4), is);
  assert.throws(() => normalize(solid(2, 2, 0), new Float32Array(12), 1), is);
  assert.throws(() => preprocess(solid(2, 2, 0), { size: 4, aspect: 'crop' as 'pad' }), is);
});
arithmetic.run();

const formats = suite('decoding');

const F = 'F'.charCodeAt(0);
/** A bright F on a dark ground, of blocks of 4 × 4 pixels, so that JPEG leaves it readable. */
const rows = ['FFFF', 'F...', 'FFF.', 'F...', 'F...', '....'];
const letter = rows.flatMap((row) => Array(4).fill(row.replace(/./g, '$&$&$&$&')));
const letterImage: RgbImage = {
  width: 16,
  height: 24,
  data: Uint8Array.from(letter.join('').split('').flatMap((c) => Array(3).fill(c.charCodeAt(0) === F ? 240 : 10))),
};
const encoder = (image: RgbImage) =>
  sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } });
const near = (got: RgbImage, want: RgbImage, tolerance: number, what: string): void => {
  assert.equal([got.width, got.height], [want.width, want.height], what);
  const worst = got.data.reduce((w, x, i) => Math.max(w, Math.abs(x - want.data[i])), 0);
  assert.ok(worst <= tolerance, `${what}: off by ${worst}`);
};

/** The image that a viewer shows for stored pixels under an EXIF orientation, from the definition of the tag. */
function shown(stored: RgbImage, orientation: number): RgbImage {
  const { width: w, height: h } = stored;
  const turned = orientation > 4;
  const width = turned ? h : w;
  const height = turned ? w : h;
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [sx, sy] = [
        [x, y], [w - 1 - x, y], [w - 1 - x, h - 1 - y], [x, h - 1 - y],
        [y, x], [y, h - 1 - x], [w - 1 - y, h - 1 - x], [w - 1 - y, x],
      ][orientation - 1];
      data.set(stored.data.subarray((sy * w + sx) * 3, (sy * w + sx) * 3 + 3), (y * width + x) * 3);
    }
  }
  return { width, height, data };
}

formats('EXIF orientations 1 to 8 are applied', async () => {
  for (let orientation = 1; orientation <= 8; orientation++) {
    const jpeg = encoder(letterImage).withMetadata({ orientation }).jpeg({ quality: 100, chromaSubsampling: '4:4:4' });
    near(await decodeImage(await jpeg.toBuffer()), shown(letterImage, orientation), 12, `orientation ${orientation}`);
  }
});

formats('16 bits become 8', async () => {
  const wide = Uint16Array.from(letterImage.data, (x) => x * 256 + 77);
  const png = sharp(wide, { raw: { width: 16, height: 24, channels: 3 } }).toColourspace('rgb16').png();
  const bytes = await png.toBuffer();
  assert.is(bytes[24], 16);
  near(await decodeImage(bytes), letterImage, 1, '16-bit RGB');
  const grey = Uint16Array.from({ length: 16 * 24 }, (_, i) => letterImage.data[i * 3] * 256 + 77);
  const greyPng = sharp(grey, { raw: { width: 16, height: 24, channels: 1 } }).toColourspace('grey16').png();
  const greyBytes = await greyPng.toBuffer();
  assert.equal([greyBytes[24], greyBytes[25]], [16, 0]);
  near(await decodeImage(greyBytes), letterImage, 1, '16-bit grey');
});

formats('CMYK, palette, grey with alpha, WebP', async () => {
  const cmyk = await encoder(letterImage).toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
  assert.is((await sharp(cmyk).metadata()).space, 'cmyk');
  near(await decodeImage(cmyk), letterImage, 40, 'CMYK');
  near(await decodeImage(await encoder(letterImage).png({ palette: true }).toBuffer()), letterImage, 1, 'palette');
  const greyAlpha = sharp(await encoder(letterImage).greyscale().png().toBuffer()).ensureAlpha(0.25);
  near(await decodeImage(await greyAlpha.png().toBuffer()), letterImage, 1, 'grey with alpha');
  near(await decodeImage(await encoder(letterImage).webp({ lossless: true }).toBuffer()), letterImage, 0, 'WebP');
  near(await decodeImage(await encoder(letterImage).webp({ quality: 90 }).toBuffer()), letterImage, 60, 'lossy WebP');
});

const avif = (image: RgbImage) => encoder(image).avif({ quality: 95, chromaSubsampling: '4:4:4' });

formats('AVIF, transparent or not, and one that claims to be large', async () => {
  const bytes = await avif(letterImage).toBuffer();
  near(await decodeImage(bytes), letterImage, 8, 'AVIF');
  near(await decodeImage(await avif(letterImage).ensureAlpha(0.25).toBuffer()), letterImage, 8, 'AVIF with alpha');
  await refused(bytes.subarray(0, bytes.indexOf('ispe')), /AVIF image does not tell its size/, 'without properties');
  const huge = Buffer.from(bytes);
  huge.writeUInt32BE(2 ** 31, bytes.indexOf('ispe') + 8);
  await refused(huge, /2147483648×24 pixels/, 'a bomb');
});

formats('of an animation the first frame', async () => {
  const frames = new Uint8Array(16 * 48 * 3).fill(200);
  frames.set(letterImage.data);
  const raw = { width: 16, height: 48, channels: 3, pageHeight: 24 } as const;
  for (const format of ['gif', 'webp'] as const) {
    const bytes = await sharp(frames, { raw }).toFormat(format, { lossless: true, delay: [10, 10] }).toBuffer();
    assert.is((await sharp(bytes).metadata()).pages, 2);
    near(await decodeImage(bytes), letterImage, 2, format);
  }
});

async function refused(bytes: Uint8Array, message: RegExp, what: string): Promise<void> {
  const error = await decodeImage(bytes).then(
    () => assert.unreachable(`${what} was decoded`),
    (e: unknown) => e as Error,
  );
  assert.instance(error, ImageError, `${what}: ${error}`);
  assert.match(error!.message, message, what);
}

formats('sizes are read before decoding and capped', async () => {
  const png = Buffer.from(await encoder(letterImage).png().toBuffer());
  const sized = (width: number, height: number): Buffer => {
    const copy = Buffer.from(png);
    copy.writeUInt32BE(width, 16);
    copy.writeUInt32BE(height, 20);
    return copy;
  };
  const before = process.memoryUsage().rss;
  await refused(sized(14_000, 14_000), /14000×14000/, '196 million pixels');
  await refused(sized(16_385, 1), /16385×1/, 'a long side');
  await refused(sized(2 ** 31, 2 ** 31), /2147483648×2147483648/, 'overflow');
  await refused(sized(0, 24), /0×24/, 'no width');
  await refused(sized(16, 0), /16×0/, 'no height');
  assert.ok(process.memoryUsage().rss - before < 50e6);
});

formats('headers tell size, format and transparency', async () => {
  const rgba = sharp(await encoder(letterImage).ensureAlpha(0.5).png().toBuffer());
  for (const [format, alpha] of [['png', false], ['jpeg', false], ['webp', false], ['gif', true], ['avif', false]] as const) {
    const header = readImageHeader(await encoder(letterImage).toFormat(format).toBuffer());
    assert.equal(header, { format, width: 16, height: 24, alpha });
    if (format === 'jpeg') continue;
    assert.is(readImageHeader(await rgba.clone().toFormat(format).toBuffer()).alpha, true, format);
    assert.is(readImageHeader(await rgba.clone().toFormat(format, { lossless: true }).toBuffer()).alpha, true, format);
  }
});

formats('what is no image is refused', async () => {
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>';
  await refused(Buffer.from(svg), /no PNG, JPEG, GIF, WebP or AVIF/, 'SVG');
  await refused(Buffer.from(`<?xml version="1.0"?>${svg}`), /no PNG/, 'SVG with a prolog');
  await refused(new Uint8Array(0), /empty/, 'nothing');
  await refused(Buffer.from('<!doctype html><title>404</title>'), /no PNG/, 'HTML');
  await refused(Buffer.from('%PDF-1.4'), /no PNG/, 'PDF');
  await refused(Buffer.from([0xff, 0xd8, 0xff, 0xd9]), /frame header/, 'JPEG without a frame');
});

formats('truncated anywhere: an ImageError, never a picture', async () => {
  for (const format of ['png', 'jpeg', 'gif', 'webp', 'avif'] as const) {
    const bytes = await encoder(letterImage).toFormat(format).toBuffer();
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
    const whole = await decodeImage(jpeg);
    assert.equal([whole.width, whole.height], [40, 30]);
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

formats('devices, pipes and files of /proc that have no end are refused unread', async () => {
  for (const path of ['/dev/zero', '/dev/null', '/proc/kmsg', '/proc/self/environ'].filter(existsSync)) {
    const error = await readImage(path).catch((e: Error) => e);
    assert.ok(error instanceof ImageError && error.message.includes(path), String(error));
  }
});

formats('files: the path is named', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'matvlm-images-'));
  try {
    const path = join(dir, 'a.png');
    writeFileSync(path, 'no image');
    for (const missing of [path, join(dir, 'b.png'), dir]) {
      const error = await readImage(missing).catch((e: Error) => e);
      assert.ok(error instanceof ImageError && error.message.includes(missing), String(error));
    }
  } finally {
    rmSync(dir, { recursive: true });
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
const chromium = process.env.CHROMIUM ?? '/usr/bin/chromium';
if (existsSync(chromium)) {
  browser('golden images, orientation, broken files', async () => {
    await withPage(chromium, 'models/nn/image/decode-browser.ts', async (call) => {
      const decode = async (bytes: Uint8Array): Promise<RgbImage> => {
        const image = await call<{ width: number; height: number; data: string }>('decodeImage', bytes);
        return { ...image, data: new Uint8Array(Buffer.from(image.data, 'latin1')) };
      };
      for (const expected of cases.filter((c) => c.size === 64)) {
        await checkGolden(await decode(readFileSync(join(folder, expected.file))), expected);
      }
      const turned = encoder(letterImage).withMetadata({ orientation: 6 }).jpeg({ quality: 100 });
      near(await decode(await turned.toBuffer()), shown(letterImage, 6), 12, 'orientation 6');
      near(await decode(await avif(letterImage).toBuffer()), letterImage, 8, 'AVIF');
      near(await decode(await avif(letterImage).ensureAlpha(0.25).toBuffer()), letterImage, 8, 'AVIF with alpha');
      const png = await encoder(letterImage).png().toBuffer();
      const claims = claiming((await jpegs()).baseline, 10_000, 10_000);
      for (const bytes of [png.subarray(0, 60), Buffer.from('<svg/>'), claims]) {
        const error = await decode(bytes).catch((e: Error) => e);
        assert.match(String(error), /cannot be decoded|no PNG|cannot hold/);
      }
    });
  });
} else {
  console.log(`Skipped: decoding in a browser, for want of ${chromium} (set CHROMIUM).`);
}
browser.run();
