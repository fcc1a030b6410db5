import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Browser, Page } from 'playwright-core';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SortOfClevr } from '../models/matvlm/data/sort-of-clevr.ts';
import type { RgbImage } from '../models/nn/image/image.ts';
import { encodePng } from '../models/matvlm/app/node/encode-png.ts';
import { type Served, startServer } from '../models/matvlm/app/serve/server.ts';
import { haveChromium, launchChromium } from './support/chromium.ts';
import { writeRandomModel } from './support/model-folder.ts';

const EVIL = '<img src=x onerror="document.title=\'owned\'">';
const QUESTION = 'is the blue object on the left?';
/** Compiling shaders on a software driver takes seconds. */
const LONG = { timeout: 120_000 };

let root: string;
let server: Served;

async function serveModels(): Promise<void> {
  root = mkdtempSync(join(tmpdir(), 'matvlm-page-'));
  const folder = (name: string) => join(root, name);
  await writeRandomModel(folder('teacher'), 1);
  await writeRandomModel(folder('student'), 2, [0]);
  await writeRandomModel(folder('other'), 3, [0, 2]);
  // Cards as training writes them: the third is of pictures that the page knows nothing of.
  for (const [name, sets] of [['teacher', 'sort-of-clevr, easy-vqa'], ['student', 'sort-of-clevr'], ['other', 'own']]) {
    writeFileSync(join(folder(name), 'README.md'), `---\ndatasets: [${sets}]\n---\n# A model\n`);
  }
  const names = { teacher: 'teacher', student: EVIL, other: 'shipped' };
  const models = Object.entries(names).map(([at, name]) => ({ name, folder: folder(at) }));
  server = await startServer({ port: 0, models, pageDir: 'dist/web' });
}

async function stopAll(): Promise<void> {
  await browser.close();
  await server.close();
  rmSync(root, { recursive: true });
}

/** Opens the page, waits until models are loaded, and fails at the end on any error that the page logged. */
type Use = (page: Page) => Promise<void>;

async function withPage(browser: Browser, body: Use, prepare?: Use): Promise<void> {
  const page = await browser.newPage();
  const errors: string[] = [];
  page.on('pageerror', (e) => errors.push(e.message));
  page.on('console', (m) => m.type() === 'error' && errors.push(m.text()));
  // What a browser's network panel shows in red: cancelled and refused requests.
  page.on('requestfailed', (r) => errors.push(`${r.url()}: ${r.failure()?.errorText}`));
  page.on('response', (r) => r.status() >= 400 && errors.push(`${r.url()}: ${r.status()}`));
  try {
    await prepare?.(page);
    await page.goto(server.url);
    await page.waitForSelector('#ask:enabled', LONG);
    await body(page);
    assert.equal(errors, []);
    assert.not.match(await page.title(), 'owned');
  } finally {
    await page.close();
  }
}

interface Said {
  readonly teacher: string;
  readonly student: string;
}

/** Asks and waits for the verdict. */
async function ask(page: Page, question: string): Promise<Said> {
  await page.fill('#question', question);
  await page.click('#ask');
  await page.waitForFunction(() => document.querySelector('#verdict')!.textContent !== '', null, LONG);
  const said = async (role: string) => (await page.textContent(`#${role} .said`))!;
  return { teacher: await said('teacher'), student: await said('student') };
}

async function useBackend(page: Page, name: 'webgpu' | 'wasm'): Promise<void> {
  await page.selectOption('#backend', name);
  await page.waitForSelector('#ask:enabled', LONG);
}

const dataTransfer = (page: Page, name: string, bytes: Uint8Array) =>
  page.evaluateHandle(
    ([file, base64]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], file));
      return transfer;
    },
    [name, Buffer.from(bytes).toString('base64')],
  );

async function drop(page: Page, name: string, bytes: Uint8Array): Promise<void> {
  await page.dispatchEvent('#drop', 'drop', { dataTransfer: await dataTransfer(page, name, bytes) });
}

const picture = (color: string) =>
  sharp({ create: { width: 90, height: 60, channels: 3, background: color } }).png().toBuffer();

/** Numbers of a card's statistics. */
async function stats(page: Page, role: string): Promise<string[]> {
  return page.$$eval(`#${role} [data-stat]`, (list) => list.map((e) => e.textContent!));
}

const gpu = suite('page: WebGPU and WASM');
let browser: Browser;
gpu.before(async () => {
  await serveModels();
  browser = await launchChromium(true);
});
gpu.after(stopAll);

gpu('both backends give the same answers, and tell what they cost', async () => {
  await withPage(browser, async (page) => {
    assert.ok(await page.evaluate(() => crossOriginIsolated));
    assert.is(await page.inputValue('#backend'), 'wasm', 'a software adapter is slower than WASM');
    assert.match((await page.textContent('#device'))!, /WebAssembly/);
    const wasm = await ask(page, QUESTION);
    assert.ok(wasm.teacher.length > 0 && wasm.student.length > 0);
    assert.is.not(wasm.teacher, wasm.student);
    for (const role of ['teacher', 'student']) {
      const [first, rate, cache] = await stats(page, role);
      assert.match(first, /^\d[\d.]* m?s$/);
      assert.match(rate, /^\d[\d.,]*$/);
      assert.match(cache, /^\d+ KB\+ [\d.]+ KB a token$/);
    }
    await drop(page, 'red.png', await picture('red'));
    await page.waitForFunction(() => document.querySelector('#preview')!.getAttribute('alt') === 'red.png');
    const red = await ask(page, QUESTION);
    await useBackend(page, 'webgpu');
    assert.match((await page.textContent('#device'))!, /swiftshader.*WebGPU/i);
    assert.equal(await ask(page, QUESTION), red);
    await page.click('#examples button');
    await page.waitForSelector('#examples button[aria-pressed=true]');
    assert.equal(await ask(page, QUESTION), wasm);
  });
});

gpu('falls back to WASM when the GPU is lost, asks again by itself, and says so', async () => {
  const holdDevice = `{
    const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) {
      return (self.heldDevice = await request.apply(this, args));
    };
  }`;
  const prepare = async (page: Page) => {
    await page.route('**/worker.js', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: holdDevice + (await response.text()) });
    });
  };
  await withPage(
    browser,
    async (page) => {
      const before = await ask(page, QUESTION);
      const lose = () =>
        page.workers()[0].evaluate(() => (self as unknown as { heldDevice: GPUDevice }).heldDevice.destroy());
      await useBackend(page, 'webgpu');
      await page.fill('#question', QUESTION);
      await page.click('#ask');
      await page.waitForFunction(() => document.querySelector('#teacher .said')!.textContent!.length > 3, null, LONG);
      await lose();
      await page.waitForFunction(() => document.querySelector('#verdict')!.textContent !== '', null, LONG);
      assert.equal(await ask(page, QUESTION), before, 'the answer of the fallback');
      assert.is(await page.inputValue('#backend'), 'wasm');
      assert.match((await page.textContent('#notice'))!, /WebAssembly now/);
      await useBackend(page, 'webgpu');
      await lose();
      await page.waitForFunction(() => document.querySelector<HTMLSelectElement>('#backend')!.value === 'wasm', null, LONG);
      await page.waitForSelector('#ask:enabled', LONG);
      assert.match((await page.textContent('#notice'))!, /device was lost/);
      assert.equal(await ask(page, QUESTION), before);
    },
    prepare,
  );
});

const plain = suite('page: without WebGPU');
plain.before(async () => {
  await serveModels();
  browser = await launchChromium(false);
});
plain.after(stopAll);
plain('says that WebGPU is missing and runs on WASM', async () => {
  await withPage(browser, async (page) => {
    assert.match((await page.textContent('#notice'))!, /WebGPU is not available: .*WebAssembly/);
    assert.ok(await page.isDisabled('#backend option[value=webgpu]'));
    const { teacher } = await ask(page, QUESTION);
    assert.ok(teacher.length > 0);
  });
});

plain('picks by file dialog, paste and example; refuses what is no picture, in text', async () => {
  await withPage(browser, async (page) => {
    const alt = () => page.getAttribute('#preview', 'alt');
    await page.setInputFiles('#file', { name: EVIL, mimeType: 'image/png', buffer: await picture('blue') });
    await page.waitForFunction((name) => document.querySelector('#preview')!.getAttribute('alt') === name, EVIL);
    const svg = Buffer.from('<svg onload="alert(1)"/>');
    await page.setInputFiles('#file', { name: 'x.svg', mimeType: 'image/svg+xml', buffer: svg });
    await page.waitForSelector('#problem:visible');
    assert.match((await page.textContent('#problem'))!, /cannot be used: .*no PNG, JPEG, GIF, WebP or AVIF/);
    assert.is(await alt(), EVIL, 'the picture before stays');
    await page.evaluate((clipboardData) => {
      document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: clipboardData as DataTransfer }));
    }, await dataTransfer(page, 'pasted.png', await picture('green')));
    await page.waitForFunction(() => document.querySelector('#preview')!.getAttribute('alt') === 'pasted.png');
    assert.ok(await page.isHidden('#problem'), 'an error goes when it is over');
    await drop(page, 'broken.png', (await picture('red')).subarray(0, 50));
    await page.waitForSelector('#problem:visible');
    assert.is(await alt(), 'pasted.png');
    await page.click('#examples button:nth-child(2)');
    await page.waitForSelector('#examples button:nth-child(2)[aria-pressed=true]');
  });
});

plain('offers questions with known answers, marks right and wrong, keeps a history', async () => {
  await withPage(browser, async (page) => {
    await page.click('#suggestions button');
    await page.waitForFunction(() => /right answer is/.test(document.querySelector('#verdict')!.textContent!), null, LONG);
    assert.ok(await page.isVisible('#teacher.wrong, #teacher.right'));
    assert.match((await page.textContent('#rows tr td:nth-child(3)'))!, /^[✓✗] /);
    await ask(page, `${EVIL} what?`);
    assert.is(await page.$$eval('#rows tr', (list) => list.length), 2);
    assert.is(await page.textContent('#rows td:nth-child(2)'), `${EVIL} what?`);
    assert.is(await page.$$eval('[onerror]', (list) => list.length), 0);
    assert.is(await page.textContent('#student select option'), EVIL);
  });
});

plain('the shipped teacher and student answer right, nearly always', async () => {
  const models = ['teacher', 'student'].map((name) => ({ name, folder: `models/matvlm/assets/${name}` }));
  const shipped = await startServer({ port: 0, models, pageDir: 'dist/web' });
  const page = await browser.newPage();
  try {
    await page.goto(shipped.url);
    await page.waitForSelector('#ask:enabled', LONG);
    const right = { teacher: 0, student: 0, asked: 0 };
    for (const example of [1, 2, 3]) {
      await page.click(`#examples button:nth-child(${example})`);
      await page.waitForSelector(`#examples button:nth-child(${example})[aria-pressed=true]`);
      for (const question of await page.$$eval('#suggestions button', (list) => list.map((e) => e.textContent!))) {
        await ask(page, question);
        right.asked++;
        for (const role of ['teacher', 'student'] as const) if (await page.isVisible(`#${role}.right`)) right[role]++;
      }
    }
    assert.ok(right.asked >= 15 && Math.min(right.teacher, right.student) >= right.asked - 3, JSON.stringify(right));
  } finally {
    await page.close();
    await shipped.close();
  }
});

plain('another student can be chosen', async () => {
  await withPage(browser, async (page) => {
    const first = await ask(page, QUESTION);
    assert.match((await page.getAttribute('#student .layers', 'aria-label'))!, '2 attention, 1 Mamba-2');
    await page.selectOption('#student select', { label: 'shipped' });
    await page.waitForSelector('#ask:enabled', LONG);
    assert.match((await page.getAttribute('#student .layers', 'aria-label'))!, '1 attention, 2 Mamba-2');
    const second = await ask(page, QUESTION);
    assert.is(second.teacher, first.teacher);
    assert.is.not(second.student, first.student);
  });
});

plain('what was said goes when another model or picture is chosen', async () => {
  await withPage(browser, async (page) => {
    const empty = () => page.waitForFunction(() => {
      const texts = ['#verdict', '#teacher .said', '#student .said'].map((at) => document.querySelector(at)!.textContent);
      return texts.every((text) => text === '');
    });
    await ask(page, QUESTION);
    await page.selectOption('#student select', { label: 'shipped' });
    await empty();
    await page.waitForSelector('#ask:enabled', LONG);
    await ask(page, QUESTION);
    await page.click('#examples button:nth-child(2)');
    await empty();
    assert.ok(await page.isVisible('#history'), 'the history stays');
  });
});

plain('numbers out of range are refused, with what is expected', async () => {
  await withPage(browser, async (page) => {
    await page.fill('#question', QUESTION);
    const refused = async (field: string, value: string, says: RegExp) => {
      await page.click('#options:not([open]) summary', { timeout: 1000 }).catch(() => {});
      await page.fill(field, value);
      await page.click('#ask');
      await page.waitForSelector('#problem:visible');
      assert.match((await page.textContent('#problem'))!, says);
      assert.is(await page.getAttribute(field, 'aria-invalid'), 'true');
      const box = (await page.locator('#problem').boundingBox())!;
      assert.ok(box.y >= 0 && box.y + box.height <= page.viewportSize()!.height, 'in sight');
      assert.ok(await page.evaluate((at) => document.activeElement === document.querySelector(at), field));
      assert.is(await page.textContent('#verdict'), '');
    };
    await refused('#temperature', '99', /Temperature is 99, expected a number from 0 to 2\./);
    await page.setViewportSize({ width: 390, height: 800 });
    await refused('#temperature', '-0.1', /Temperature is -0\.1, expected/);
    await refused('#temperature', '', /Temperature is empty, expected/);
    await page.fill('#temperature', '0.25');
    await refused('#most', '0', /Tokens at most is 0, expected a whole number from 1 to 256/);
    await refused('#most', '3.5', /Tokens at most is 3\.5, expected a whole number/);
    await page.fill('#most', '16');
    await ask(page, QUESTION);
    assert.is(await page.getAttribute('#temperature', 'aria-invalid'), 'false');
    assert.ok(await page.isHidden('#problem'));
  });
});

plain('says what the models know when asked of anything else', async () => {
  const outside = (page: Page) => page.textContent('#outside');
  await withPage(browser, async (page) => {
    assert.match((await page.textContent('#teacher .about'))!, /Has seen drawings of six coloured circles .* triangle, nothing else/);
    await ask(page, QUESTION);
    assert.ok(await page.isHidden('#outside'), 'nothing is outside');
    await ask(page, 'is the ＤＯＧ on the naïve zebra?');
    assert.match((await outside(page))!, /^The teacher and the student have no word for “ＤＯＧ”, “naïve”, “zebra”: the answer is a guess\. Ask for instance “[^”]+\?”$/);
    await ask(page, QUESTION);
    assert.ok(await page.isHidden('#outside'));
    const upload = async (name: string, buffer: Buffer) => {
      await page.setInputFiles('#file', { name, mimeType: 'image/png', buffer });
      await page.waitForFunction((alt) => document.querySelector('#preview')!.getAttribute('alt') === alt, name);
    };
    await upload('photo.jpg', readFileSync('test/golden/images/coffee.jpg'));
    assert.match((await outside(page))!, /^The models have seen drawings of .*, nothing else\. Yours is none \(its twelve commonest colours make up \d+ % of it/);
    await ask(page, 'is the dog red?');
    assert.match((await outside(page))!, /Yours is none .*\nThe teacher and the student have no word for “dog”/);
    await upload('grey.png', readFileSync('test/golden/images/chelsea-gray.png'));
    assert.match((await outside(page))!, /Yours is none/);
    const scene = await encodePng((await new SortOfClevr('test').get(9).image()) as RgbImage);
    await upload('scene.jpg', await sharp(scene).jpeg().toBuffer());
    assert.match((await outside(page))!, /nothing else\. Whether yours is such a picture was not looked at/);
    await page.selectOption('#student select', '1');
    assert.match((await outside(page))!, /^The teacher has seen drawings/, 'nobody knows what the other student has seen');
    await page.click('#examples button');
    await page.waitForSelector('#outside', { state: 'hidden' });
  });
});

plain('takes AVIF, and spells out marks that would turn the text', async () => {
  await withPage(browser, async (page) => {
    const avif = await sharp(await picture('blue')).avif({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
    await page.setInputFiles('#file', { name: 'blue\u202egnp.avif', mimeType: 'image/avif', buffer: avif });
    await page.waitForFunction(() => document.querySelector('#preview')!.getAttribute('alt') === 'blue\\u202egnp.avif');
    await ask(page, `${QUESTION} \u202e`);
    assert.is(await page.textContent('#rows td:nth-child(2)'), `${QUESTION} \\u202e`);
  });
});

plain('an answer can be stopped, by button and by Escape, and the next one works', async () => {
  await withPage(browser, async (page) => {
    const whole = await ask(page, QUESTION);
    await page.click('details summary');
    await page.fill('#most', '256');
    for (const stop of [() => page.click('#stop'), () => page.keyboard.press('Escape')]) {
      await page.evaluate(() => (document.querySelector('#verdict')!.textContent = ''));
      // However fast the model, it has not answered before it is stopped: its worker is busy until then.
      await page.workers()[0].evaluate(() => void setTimeout(() => { for (const end = Date.now() + 1000; Date.now() < end; ); }));
      await page.press('#question', 'Enter');
      await page.waitForSelector('#stop:visible');
      await stop();
      await page.waitForSelector('#verdict:text("Stopped.")', { timeout: 5000 });
      await page.waitForSelector('#ask:visible');
    }
    await page.fill('#most', '16');
    assert.equal(await ask(page, QUESTION), whole);
  });
});

plain('a worker that dies is told of and replaced', async () => {
  await withPage(browser, async (page) => {
    const whole = await ask(page, QUESTION);
    await page.workers()[0].evaluate(() => void setTimeout(() => { throw new Error('a fault for the test'); }));
    await page.waitForTimeout(200);
    assert.equal(await ask(page, QUESTION), whole);
    assert.is(page.workers().length, 1);
  });
});

plain('a broken checkpoint is an error in words', async () => {
  const page = await browser.newPage();
  await page.route('**/models/0/config.json', (route) => {
    const whole = '{"text_config": {}}';
    const body = route.request().headers().range === 'bytes=0-0' ? whole[0] : whole;
    const headers = { 'Content-Range': `bytes 0-${body.length - 1}/${whole.length}` };
    return route.fulfill({ status: 206, headers, body });
  });
  await page.goto(server.url);
  await page.waitForSelector('#problem:visible');
  assert.match((await page.textContent('#problem'))!, /config\.json: \w+_config/);
  assert.ok(await page.isDisabled('#ask'));
  await page.close();
});

plain('every control has a name, and the page fits a telephone', async () => {
  await withPage(browser, async (page) => {
    const nameless = await page.$$eval('button, input, select, img:not([alt])', (list) =>
      list
        .filter((e) => e instanceof HTMLElement && e.offsetParent !== null)
        .filter((e) => {
          const { labels } = e as HTMLInputElement;
          return !(e.textContent?.trim() || e.getAttribute('aria-label') || labels?.length);
        })
        .map((e) => e.outerHTML),
    );
    assert.equal(nameless, []);
    await ask(page, `${QUESTION} ${'unbreakable'.repeat(20)}`);
    for (const width of [1280, 768, 390, 360]) {
      await page.setViewportSize({ width, height: 800 });
      const fits = () => ['html', '.scroll'].every((at) => {
        const { scrollWidth, clientWidth } = document.querySelector(at)!;
        return scrollWidth <= clientWidth;
      });
      assert.ok(await page.evaluate(fits), `${width} pixels`);
    }
    assert.ok(await page.isVisible('#rows [data-of=student]'));
  });
});

const bundle = suite('page: its files');

bundle('its scripts stay below 118 KB compressed, and hold nothing of Node and of gradients', () => {
  const scripts = ['page.js', 'worker.js'].map((file) => readFileSync(join('dist/web', file)));
  const compressed = scripts.reduce((sum, bytes) => sum + gzipSync(bytes, { level: 9 }).length, 0);
  assert.ok(compressed < 118_000, `${compressed} bytes`);
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

if (haveChromium('the served page in a browser')) {
  gpu.run();
  plain.run();
} else {
  const absent = suite('page: in a browser');
  absent.skip('left out');
  absent.run();
}
