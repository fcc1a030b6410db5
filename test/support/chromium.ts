import { existsSync } from 'node:fs';
import { build } from 'esbuild';
import { type Browser, chromium } from 'playwright-core';

/** Where Chromium is: $CHROMIUM, or as Debian installs it. */
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

/**
 * Whether there is a Chromium to test in. Without one a developer's run says what it leaves out; under CI it fails.
 * @throws Error where CI=true and there is none
 */
export function haveChromium(what: string): boolean {
  if (existsSync(CHROMIUM)) return true;
  const message = `${what}: no Chromium at ${CHROMIUM}; install it or set CHROMIUM`;
  if (process.env.CI === 'true') throw new Error(message);
  console.log(`Left out: ${message}.`);
  return false;
}

const QUIET = ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Headless Chromium; with `gpu`, WebGPU on the software driver that comes with it, else no adapter at all. */
export function launchChromium(gpu: boolean): Promise<Browser> {
  const args = gpu ? [...QUIET, '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : QUIET;
  return chromium.launch({ executablePath: CHROMIUM, args });
}

/** Calls an async function of the module in the page with bytes; bytes in the result's `data` come as Latin-1. */
export type CallInPage = <T>(name: string, bytes: Uint8Array) => Promise<T>;

/** Opens an empty page with a module's exports in reach, and closes all when `body` is done. */
export async function withModuleInPage(module: string, body: (call: CallInPage) => Promise<void>): Promise<void> {
  const options = { bundle: true, format: 'iife', globalName: 'exported', write: false } as const;
  const bundle = await build({ ...options, entryPoints: [module] });
  const browser = await launchChromium(false);
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
