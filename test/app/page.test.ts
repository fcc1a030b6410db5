import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Browser, Page } from 'playwright-core';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import type { RgbImage } from '../../models/nn/image/image.ts';
import { encodePng } from '../../models/matvlm/app/node/encode-png.ts';
import { type Served, startServer } from '../../models/matvlm/app/serve/server.ts';
import { haveChromium, launchChromium } from '../support/chromium.ts';
import { freshPath } from '../support/folders.ts';
import { writeRandomModel } from '../support/model-folder.ts';

const EVIL = '<img src=x onerror="document.title=\'owned\'">';
const QUESTION = 'is the blue object on the left?';
/** Compiling shaders on a software driver takes seconds. */
const LONG = { timeout: 120_000 };

let server: Served;
let browser: Browser;
/** The page of the test that runs. */
let page: Page;

type Use = () => Promise<void>;

async function serveModels(): Promise<void> {
  // Cards as training writes them: the third is of pictures that the page knows nothing of.
  const made = [['teacher', [], 'sort-of-clevr, easy-vqa'], [EVIL, [0], 'sort-of-clevr'], ['shipped', [0, 2], 'own']] as const;
  const models = made.map(([name]) => ({ name, folder: freshPath() }));
  for (const [i, [, layers, sets]] of made.entries()) {
    await writeRandomModel(models[i].folder, i + 2, layers);
    writeFileSync(join(models[i].folder, 'README.md'), `---\ndatasets: [${sets}]\n---\n# A model\n`);
  }
  server = await startServer({ port: 0, models, pageDir: 'dist/web' });
}

/** Opens the page and runs `body` once models are loaded; fails at the end on any error that the page logged. */
async function withPage(body: Use, prepare?: Use, url = server.url): Promise<void> {
  page = await browser.newPage();
  const errors: string[] = [];
  page.on('pageerror', (e) => errors.push(e.message));
  page.on('console', (m) => m.type() === 'error' && errors.push(m.text()));
  // What a browser's network panel shows in red: cancelled and refused requests.
  page.on('requestfailed', (r) => errors.push(`${r.url()}: ${r.failure()?.errorText}`));
  page.on('response', (r) => r.status() >= 400 && errors.push(`${r.url()}: ${r.status()}`));
  try {
    await prepare?.();
    await page.goto(url);
    await ready();
    await body();
    assert.equal(errors, []);
    assert.not.match(await page.title(), 'owned');
  } finally {
    await page.close();
  }
}

const ready = () => page.waitForSelector('#ask:enabled', LONG);
const until = (done: () => boolean) => page.waitForFunction(done, null, LONG);
const said = () => until(() => document.querySelector('#verdict')!.textContent !== '');
const text = async (at: string): Promise<string> => (await page.textContent(at))!;
const all = (at: string): Promise<string[]> => page.$$eval(at, (list) => list.map((e) => e.textContent!));
const alt = () => page.getAttribute('#preview', 'alt');
const pictured = (name: string) =>
  page.waitForFunction((alt) => document.querySelector('#preview')!.getAttribute('alt') === alt, name);
const problem = async (): Promise<string> => (await page.waitForSelector('#problem:visible'), text('#problem'));

/** Asks and waits for the verdict: what teacher and student say. */
async function ask(question: string): Promise<{ readonly teacher: string; readonly student: string }> {
  await page.fill('#question', question);
  await page.click('#ask');
  await said();
  return { teacher: await text('#teacher .said'), student: await text('#student .said') };
}

/** Chooses the example of a place in the list, from 1. */
async function choose(example: number): Promise<void> {
  await page.click(`#examples button:nth-child(${example})`);
  await page.waitForSelector(`#examples button:nth-child(${example})[aria-pressed=true]`);
}

async function useBackend(name: 'webgpu' | 'wasm'): Promise<void> {
  await page.selectOption('#backend', name);
  await ready();
}

async function useStudent(label: string): Promise<void> {
  await page.selectOption('#student select', { label });
  await ready();
}

const give = (name: string, buffer: Buffer, mimeType = 'image/png') =>
  page.setInputFiles('#file', { name, mimeType, buffer });

const dataTransfer = (name: string, bytes: Uint8Array) =>
  page.evaluateHandle(
    ([file, base64]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], file));
      return transfer;
    },
    [name, Buffer.from(bytes).toString('base64')],
  );

async function drop(name: string, bytes: Uint8Array): Promise<void> {
  await page.dispatchEvent('#drop', 'drop', { dataTransfer: await dataTransfer(name, bytes) });
}

const picture = (color: string) =>
  sharp({ create: { width: 90, height: 60, channels: 3, background: color } }).png().toBuffer();

/** A suite of tests in the page, in a browser with WebGPU or without. */
function inBrowser(name: string, webgpu: boolean) {
  const tests = suite(name);
  tests.before(async () => {
    await serveModels();
    browser = await launchChromium(webgpu);
  });
  tests.after(async () => {
    await browser.close();
    await server.close();
  });
  return tests;
}

const gpu = inBrowser('page: WebGPU and WASM', true);

gpu('both backends give the same answers, and tell what they cost', () => withPage(async () => {
  assert.ok(await page.evaluate(() => crossOriginIsolated));
  assert.is(await page.inputValue('#backend'), 'wasm', 'a software adapter is slower than WASM');
  assert.match(await text('#device'), /WebAssembly/);
  const wasm = await ask(QUESTION);
  assert.ok(wasm.teacher.length > 0 && wasm.student.length > 0);
  assert.is.not(wasm.teacher, wasm.student);
  for (const role of ['teacher', 'student']) {
    const [first, rate, cache] = await all(`#${role} [data-stat]`);
    assert.match(first, /^\d[\d.]* m?s$/);
    assert.match(rate, /^\d[\d.,]*$/);
    assert.match(cache, /^[\d.]+ K?B\+ [\d.]+ K?B a token$/);
  }
  await drop('red.png', await picture('red'));
  await pictured('red.png');
  const red = await ask(QUESTION);
  await useBackend('webgpu');
  assert.match(await text('#device'), /swiftshader.*WebGPU/i);
  assert.equal(await ask(QUESTION), red);
  await choose(1);
  assert.equal(await ask(QUESTION), wasm);
}));

/** Keeps the device of the page's worker in reach. */
const HOLD_DEVICE = `{
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    return (self.heldDevice = await request.apply(this, args));
  };
}`;
const holdDevice = async () => {
  await page.route('**/worker.js', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: HOLD_DEVICE + (await response.text()) });
  });
};

gpu('falls back to WASM when the GPU is lost, asks again by itself, and says so', () => withPage(async () => {
  const before = await ask(QUESTION);
  const lose = () =>
    page.workers()[0].evaluate(() => (self as unknown as { heldDevice: GPUDevice }).heldDevice.destroy());
  await useBackend('webgpu');
  await page.fill('#question', QUESTION);
  await page.click('#ask');
  await until(() => document.querySelector('#teacher .said')!.textContent!.length > 3);
  await lose();
  await said();
  assert.equal(await ask(QUESTION), before, 'the answer of the fallback');
  assert.is(await page.inputValue('#backend'), 'wasm');
  assert.match(await text('#notice'), /WebAssembly now/);
  await useBackend('webgpu');
  await lose();
  await until(() => document.querySelector<HTMLSelectElement>('#backend')!.value === 'wasm');
  await ready();
  assert.match(await text('#notice'), /device was lost/);
  assert.equal(await ask(QUESTION), before);
}, holdDevice));

const plain = inBrowser('page: without WebGPU', false);

plain('says that WebGPU is missing and runs on WASM', () => withPage(async () => {
  assert.match(await text('#notice'), /WebGPU is not available: .*WebAssembly/);
  assert.ok(await page.isDisabled('#backend option[value=webgpu]'));
  assert.ok((await ask(QUESTION)).teacher.length > 0);
}));

plain('picks by file dialog, paste and example; refuses what is no picture, in text', () => withPage(async () => {
  await give(EVIL, await picture('blue'));
  await pictured(EVIL);
  await give('x.svg', Buffer.from('<svg onload="alert(1)"/>'), 'image/svg+xml');
  assert.match(await problem(), /cannot be used: .*no PNG, JPEG, GIF, WebP or AVIF/);
  assert.is(await alt(), EVIL, 'the picture before stays');
  await page.evaluate((clipboardData) => {
    document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: clipboardData as DataTransfer }));
  }, await dataTransfer('pasted.png', await picture('green')));
  await pictured('pasted.png');
  assert.ok(await page.isHidden('#problem'), 'an error goes when it is over');
  await drop('broken.png', (await picture('red')).subarray(0, 50));
  await problem();
  assert.is(await alt(), 'pasted.png');
  await choose(2);
  await give('blue\u202egnp.avif', await sharp(await picture('blue')).avif({ quality: 95 }).toBuffer(), 'image/avif');
  await pictured('blue\\u202egnp.avif');
  await ask(`${QUESTION} \u202e`);
  assert.is(await text('#rows td:nth-child(2)'), `${QUESTION} \\u202e`, 'marks that would turn the text are spelt out');
}));

plain('offers questions with known answers, marks right and wrong, keeps a history', () => withPage(async () => {
  await page.click('#suggestions button');
  await until(() => /right answer is/.test(document.querySelector('#verdict')!.textContent!));
  assert.ok(await page.isVisible('#teacher.wrong, #teacher.right'));
  assert.match(await text('#rows tr td:nth-child(3)'), /^[✓✗] /);
  await ask(`${EVIL} what?`);
  assert.is((await all('#rows tr')).length, 2);
  assert.is(await text('#rows td:nth-child(2)'), `${EVIL} what?`);
  assert.equal(await all('[onerror]'), []);
  assert.is(await text('#student select option'), EVIL);
}));

plain('the shipped teacher and student answer right, nearly always', async () => {
  const models = ['teacher', 'student'].map((name) => ({ name, folder: `models/matvlm/assets/${name}` }));
  const shipped = await startServer({ port: 0, models, pageDir: 'dist/web' });
  await withPage(async () => {
    const right = { teacher: 0, student: 0, asked: 0 };
    for (const example of [1, 2, 3]) {
      await choose(example);
      for (const question of await all('#suggestions button')) {
        await ask(question);
        right.asked++;
        for (const role of ['teacher', 'student'] as const) if (await page.isVisible(`#${role}.right`)) right[role]++;
      }
    }
    assert.ok(right.asked >= 15 && Math.min(right.teacher, right.student) >= right.asked - 3, JSON.stringify(right));
  }, undefined, shipped.url);
  await shipped.close();
});

plain('another student or picture can be chosen: what was said goes', () => withPage(async () => {
  const empty = () => until(() => {
    const texts = ['#verdict', '#teacher .said', '#student .said'].map((at) => document.querySelector(at)!.textContent);
    return texts.every((text) => text === '');
  });
  const layers = () => page.getAttribute('#student .layers', 'aria-label');
  const first = await ask(QUESTION);
  assert.match((await layers())!, '2 attention, 1 Mamba-2');
  await useStudent('shipped');
  await empty();
  assert.match((await layers())!, '1 attention, 2 Mamba-2');
  const second = await ask(QUESTION);
  assert.is(second.teacher, first.teacher);
  assert.is.not(second.student, first.student);
  await choose(2);
  await empty();
  assert.ok(await page.isVisible('#history'), 'the history stays');
}));

plain('numbers out of range are refused, with what is expected', () => withPage(async () => {
  await page.fill('#question', QUESTION);
  const refused = async (field: string, value: string, says: RegExp) => {
    await page.click('#options:not([open]) summary', { timeout: 1000 }).catch(() => {});
    await page.fill(field, value);
    await page.click('#ask');
    assert.match(await problem(), says);
    assert.is(await page.getAttribute(field, 'aria-invalid'), 'true');
    const box = (await page.locator('#problem').boundingBox())!;
    assert.ok(box.y >= 0 && box.y + box.height <= page.viewportSize()!.height, 'in sight');
    assert.ok(await page.evaluate((at) => document.activeElement === document.querySelector(at), field));
    assert.is(await text('#verdict'), '');
  };
  await refused('#temperature', '99', /Temperature is 99, expected a number from 0 to 2\./);
  await page.setViewportSize({ width: 390, height: 800 });
  await refused('#temperature', '-0.1', /Temperature is -0\.1, expected/);
  await refused('#temperature', '', /Temperature is empty, expected/);
  await page.fill('#temperature', '0.25');
  await refused('#most', '0', /Tokens at most is 0, expected a whole number from 1 to 256/);
  await refused('#most', '3.5', /Tokens at most is 3\.5, expected a whole number/);
  await page.fill('#most', '16');
  await ask(QUESTION);
  assert.is(await page.getAttribute('#temperature', 'aria-invalid'), 'false');
  assert.ok(await page.isHidden('#problem'));
}));

plain('says what the models know when asked of anything else', () => withPage(async () => {
  const outside = async (says: RegExp) => assert.match(await text('#outside'), says);
  assert.match(await text('#teacher .about'), /Has seen drawings of six coloured circles .* triangle, nothing else/);
  await ask(QUESTION);
  assert.ok(await page.isHidden('#outside'), 'nothing is outside');
  await ask('is the ＤＯＧ on the naïve zebra?');
  await outside(/^The teacher and the student have no word for “ＤＯＧ”, “naïve”, “zebra”: the answer is a guess\. Ask for/);
  await outside(/Ask for instance “[^”]+\?”$/);
  await ask(QUESTION);
  assert.ok(await page.isHidden('#outside'));
  const upload = async (name: string, buffer: Buffer) => (await give(name, buffer), pictured(name));
  await upload('photo.jpg', readFileSync('test/golden/images/coffee.jpg'));
  await outside(/^The models have seen drawings of .*, nothing else\. Yours is none \(its twelve commonest colours make up \d+ %/);
  await ask('is the dog red?');
  await outside(/Yours is none .*\nThe teacher and the student have no word for “dog”/);
  await upload('grey.png', readFileSync('test/golden/images/chelsea-gray.png'));
  await outside(/Yours is none/);
  const scene = await encodePng((await new SortOfClevr('test').get(9).image()) as RgbImage);
  await upload('scene.jpg', await sharp(scene).jpeg().toBuffer());
  await outside(/nothing else\. Whether yours is such a picture was not looked at/);
  await page.selectOption('#student select', '1');
  await outside(/^The teacher has seen drawings/); // Nobody knows what the other student has seen.
  await page.click('#examples button');
  await page.waitForSelector('#outside', { state: 'hidden' });
}));

plain('an answer can be stopped, by button and by Escape; a worker that dies is replaced', () => withPage(async () => {
  const whole = await ask(QUESTION);
  await page.click('details summary');
  await page.fill('#most', '256');
  for (const stop of [() => page.click('#stop'), () => page.keyboard.press('Escape')]) {
    await page.evaluate(() => (document.querySelector('#verdict')!.textContent = ''));
    // However fast the model, it has not answered before it is stopped: its worker is busy until then.
    await page.workers()[0].evaluate(() => void setTimeout(() => { for (const end = Date.now() + 1000; Date.now() < end; ); }));
    await page.press('#question', 'Enter');
    await page.waitForSelector('#stop:visible');
    await stop();
    await page.waitForSelector('#verdict:text("Stopped.")', LONG);
    await page.waitForSelector('#ask:visible');
  }
  await page.fill('#most', '16');
  assert.equal(await ask(QUESTION), whole);
  const [worker] = page.workers();
  const closed = worker.waitForEvent('close', LONG);
  await worker.evaluate(() => void setTimeout(() => { throw new Error('a fault for the test'); }));
  await closed;
  assert.equal(await ask(QUESTION), whole);
  assert.is(page.workers().length, 1);
}));

plain('a broken checkpoint is an error in words', async () => {
  page = await browser.newPage();
  await page.route('**/models/0/config.json', (route) => {
    const whole = '{"text_config": {}}';
    const body = route.request().headers().range === 'bytes=0-0' ? whole[0] : whole;
    const headers = { 'Content-Range': `bytes 0-${body.length - 1}/${whole.length}` };
    return route.fulfill({ status: 206, headers, body });
  });
  await page.goto(server.url);
  assert.match(await problem(), /config\.json: \w+_config/);
  assert.ok(await page.isDisabled('#ask'));
  await page.close();
});

plain('every control has a name, and the page fits a telephone', () => withPage(async () => {
  const nameless = await page.$$eval('button, input, select, img:not([alt])', (list) =>
    list
      .filter((e) => e instanceof HTMLElement && e.offsetParent !== null)
      .filter((e) => !(e.textContent?.trim() || e.getAttribute('aria-label') || (e as HTMLInputElement).labels?.length))
      .map((e) => e.outerHTML),
  );
  assert.equal(nameless, []);
  await ask(`${QUESTION} ${'unbreakable'.repeat(20)}`);
  for (const width of [1280, 768, 390, 360]) {
    await page.setViewportSize({ width, height: 800 });
    const fits = () => ['html', '.scroll'].every((at) => {
      const { scrollWidth, clientWidth } = document.querySelector(at)!;
      return scrollWidth <= clientWidth;
    });
    assert.ok(await page.evaluate(fits), `${width} pixels`);
  }
  assert.ok(await page.isVisible('#rows [data-of=student]'));
}));

const bundle = suite('page: its files');

bundle('its scripts stay below 120 KB compressed, and hold nothing of Node and of gradients', () => {
  const scripts = ['page.js', 'worker.js'].map((file) => readFileSync(join('dist/web', file)));
  const compressed = scripts.reduce((sum, bytes) => sum + gzipSync(bytes, { level: 9 }).length, 0);
  assert.ok(compressed < 120_000, `${compressed} bytes`);
  assert.not.match(scripts.join(''), /\brequire\(|["'`]node:/);
  assert.not.match(scripts.join(''), /(attention|ssd_scan)_backward/);
});

bundle('it loads nothing from elsewhere and has no script or style of its own inside', () => {
  const html = readFileSync('dist/web/index.html', 'utf8');
  for (const [, url] of html.matchAll(/(?:src|href)="([^"]*)"/g)) assert.match(url, /^(page\.(js|css)$|notices\.txt$|data:image)/);
  assert.not.match(html, /<style|style="|<script(?![^>]* src=)|\son\w+=/);
  assert.not.match(readFileSync('dist/web/page.css', 'utf8'), /url\(|@import/);
});
bundle('its scripts name the terms of every library in them, which are served and linked', async () => {
  const terms = readFileSync('dist/web/notices.txt', 'utf8');
  for (const part of ['Apache License', '@huggingface/tokenizers ', 'valibot ', 'MIT License', 'Copyright (c)']) {
    assert.match(terms, part);
  }
  for (const file of ['page.js', 'worker.js']) {
    assert.match(readFileSync(join('dist/web', file), 'utf8'), /^\/\*! matvlm, .*: notices\.txt \*\//);
  }
  assert.match(readFileSync('dist/web/index.html', 'utf8'), '<a href="notices.txt">');
  const { url, close } = await startServer({ port: 0, models: [], pageDir: 'dist/web', examples: [] });
  try {
    const answer = await fetch(`${url}notices.txt`);
    assert.is(answer.headers.get('content-type'), 'text/plain; charset=utf-8');
    assert.is(await answer.text(), terms);
  } finally {
    await close();
  }
});
bundle.run();

if (haveChromium('the served page in a browser')) for (const tests of [gpu, plain]) tests.run();
else {
  const absent = suite('page: in a browser');
  absent.skip('left out');
  absent.run();
}
