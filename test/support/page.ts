import { build } from 'esbuild';
import { chromium } from 'playwright-core';

/** Calls an async function of the module in the page with bytes; bytes in the result's `data` come as Latin-1. */
export type CallInPage = <T>(name: string, bytes: Uint8Array) => Promise<T>;

/** Opens an empty page in headless Chromium with a module's exports in reach, and closes all when `body` is done. */
export async function withPage(path: string, module: string, body: (call: CallInPage) => Promise<void>): Promise<void> {
  const options = { bundle: true, format: 'iife', globalName: 'exported', write: false } as const;
  const bundle = await build({ ...options, entryPoints: [module] });
  const browser = await chromium.launch({ executablePath: path, args: ['--no-sandbox'] });
  try {
    const page = await browser.newPage();
    await page.addScriptTag({ content: bundle.outputFiles[0].text });
    await body((name, bytes) =>
      page.evaluate(
        async ([fn, base64]) => {
          const module = (globalThis as unknown as Record<string, Record<string, Function>>).exported;
          const result = await module[fn](Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
          return { ...result, data: Array.from(result.data as Uint8Array, (x) => String.fromCharCode(x)).join('') };
        },
        [name, Buffer.from(bytes).toString('base64')],
      ),
    );
  } finally {
    await browser.close();
  }
}
