import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

/** Where Chromium is: $CHROMIUM, or as Debian installs it. */
export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

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
