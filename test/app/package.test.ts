import { createPackageFromTarballData, checkPackage } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { freshFolder } from '../support/folders.ts';

const run = promisify(execFile);
const root = process.cwd();
const folder = freshFolder();
/** A copy of the checkout without dist: what a clone holds. */
const checkout = join(folder, 'checkout');
/** A project into which the package is installed, with the dependencies that it declares and no others. */
const consumer = join(folder, 'consumer');
const installed = join(consumer, 'node_modules', 'matvlm');
/** What a clone does not hold. */
const MADE = ['.git', 'dist', 'node_modules', 'runs', 'bench/node_modules'].map((name) => join(root, name));

const packaging = suite('package');

packaging.before(() => {
  cpSync(root, checkout, { recursive: true, filter: (path) => !MADE.includes(path) });
  symlinkSync(join(root, 'node_modules'), join(checkout, 'node_modules'));
});

/** What Node prints when it runs this in a folder. */
const node = async (cwd: string, ...args: string[]) => (await run(process.execPath, args, { cwd })).stdout;

packaging('a checkout that was never built builds itself when its command is called', async () => {
  assert.match(await node(checkout, 'matvlm.mjs', 'recipes', 'ls'), /tiny-teacher/);
});

packaging('commands run on while a build replaces the code below them', async () => {
  // Another text in what every command loads gives other parts than those that are there.
  const shared = join(checkout, 'engine', 'errors.ts');
  writeFileSync(shared, `${readFileSync(shared, 'utf8')}\nglobalThis.console.assert(Date.now() > 0);\n`);
  let building = true;
  const built = node(checkout, 'build.mjs', '--package').finally(() => (building = false));
  let commands = 0;
  for (; building; commands++) await node(checkout, 'dist/cli.js', 'recipes', 'ls');
  await built;
  assert.ok(commands > 1);
});

packaging('the tarball holds what runs and its types resolve', async () => {
  const { stdout } = await run('npm', ['pack', '--json', '--silent', '--ignore-scripts'], { cwd: checkout });
  const [{ filename, files, size }] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[]; size: number }];
  // The parts of both builds are there.
  assert.ok(size < 12.5e6, `${size} bytes`);
  const tops = new Set(files.map(({ path }) => path.split('/').slice(0, 2).join('/')));
  assert.equal([...tops].sort(), [
    ...['LICENSE', 'NOTICE.md', 'README.md', 'dist/bench', 'dist/chunks', 'dist/cli.js', 'dist/lib', 'dist/models'],
    ...['dist/types', 'dist/web', 'docs/page.png', 'docs/report.png', 'matvlm.mjs', 'models/matvlm', 'package.json'],
  ]);
  const tarball = join(checkout, filename);
  mkdirSync(join(consumer, 'node_modules', '@types'), { recursive: true });
  await run('tar', ['xzf', tarball, '-C', consumer]);
  renameSync(join(consumer, 'package'), installed);
  const checked = await checkPackage(createPackageFromTarballData(readFileSync(tarball)));
  const { problems } = checked as { problems: { kind: string; resolutionKind?: string }[] };
  // An ES module cannot be required by old resolvers, and does not say that it could.
  const faults = problems.filter((p) => p.resolutionKind !== 'node10' && p.kind !== 'CJSResolvesToESM');
  assert.equal(faults, []);
  const { messages } = await publint({ pkgDir: installed, pack: false, strict: true });
  assert.equal(messages, []);
});

packaging('the installed command and the examples of the README run, and compile strictly', async () => {
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> };
  for (const name of [...Object.keys(dependencies), '@types/node']) {
    const link = join(consumer, 'node_modules', name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(root, 'node_modules', name), link);
  }
  writeFileSync(join(consumer, 'package.json'), JSON.stringify({ type: 'module' }));
  const examples = [...readFileSync('README.md', 'utf8').matchAll(/```js\n([^]*?)```/g)].map((match) => match[1]);
  assert.is(examples.length, 3);
  for (const [i, text] of examples.entries()) {
    for (const type of ['ts', 'mjs']) writeFileSync(join(consumer, `example-${i}.${type}`), text);
  }
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const strict = ['--strict', '--noEmit', '--target', 'es2022', '--types', 'node', ...examples.map((_, i) => `example-${i}.ts`)];
  for (const [module, resolution] of [['esnext', 'bundler'], ['node16', 'node16'], ['nodenext', 'nodenext']]) {
    const compiled = node(consumer, tsc, ...strict, '--module', module, '--moduleResolution', resolution);
    assert.is(await compiled.catch((failure: { stdout: string }) => failure.stdout), '', resolution);
  }
  const command = join(installed, 'matvlm.mjs');
  assert.match(await node(consumer, command, '--version'), /^\d+\.\d+\.\d+/);
  assert.match(await node(consumer, command, 'bench', '--help'), /matvlm bench \[options\][^]*--quick/);
  assert.match(await node(consumer, 'example-0.mjs'), /circle|square/);
  assert.match(await node(consumer, 'example-2.mjs'), /Float32Array\(4\) \[\s*170,\s*204,\s*390,\s*468\s*\]/);
});

packaging.run();
