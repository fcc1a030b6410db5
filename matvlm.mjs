#!/usr/bin/env node
// The command line. A package has it built; a checkout that was never built builds it first.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
if (!existsSync(path('dist/cli.js'))) {
  console.error('matvlm: this checkout is built first, once (node build.mjs) …');
  const { status } = spawnSync(process.execPath, [path('build.mjs')], { stdio: ['ignore', 2, 2] });
  if (status !== 0) process.exit(1);
}
await import('./dist/cli.js');
