// One build for everything: `node build.mjs [--tests] [--bench]`. Needs only Node: it installs what is missing first.
// dist/cli.js      the command line
// dist/lib/        engine, ops and model as ES modules (the package's exports)
// dist/web/        the page that `serve` serves
// dist/test/       test files, one bundle each (with --tests)
// dist/bench/      benchmarks (with --bench)
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.url));
process.chdir(root);
const args = new Set(process.argv.slice(2));

/** Runs `npm ci` unless node_modules already is what the lock file says. */
function ensureDependencies() {
  const installed = 'node_modules/.package-lock.json';
  if (existsSync(installed)) {
    const want = JSON.parse(readFileSync('package-lock.json', 'utf8')).packages;
    const have = JSON.parse(readFileSync(installed, 'utf8')).packages;
    const stale = Object.entries(want).filter(([k, v]) => k && !v.optional && have[k]?.version !== v.version);
    if (stale.length === 0) return;
    if (lstatSync('node_modules').isSymbolicLink()) {
      // npm ci would empty the folder of the checkout that it belongs to.
      const names = stale.map(([path]) => path.replace(/^.*node_modules\//, '')).join(', ');
      console.warn(`node_modules is a link to a folder with other versions of ${names}: run npm ci there if that matters`);
      return;
    }
  }
  console.log('Installing dependencies (npm ci) …');
  const run = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (run.status !== 0) {
    console.error('npm ci failed: see its message above; a network or proxy setting is the usual cause.');
    process.exit(1);
  }
}

ensureDependencies();
const { build } = await import('esbuild');

const common = {
  bundle: true,
  format: 'esm',
  target: 'es2022',
  loader: { '.wgsl': 'text', '.wasm': 'binary', '.css': 'text', '.html': 'text' },
  sourcemap: false,
  logLevel: 'warning',
};
const node = { ...common, platform: 'node', packages: 'external' };
const list = (dir, suffix) =>
  existsSync(dir)
    ? readdirSync(dir, { recursive: true })
        .map(String)
        .filter((f) => f.endsWith(suffix))
        .map((f) => join(dir, f))
    : [];
const present = (files) => files.filter((f) => existsSync(f) && statSync(f).isFile());

const jobs = [];
const add = (options) => options.entryPoints.length > 0 && jobs.push(build(options));

if (args.size === 0 || args.has('--all')) rmSync('dist', { recursive: true, force: true });
// Split, so that a command loads only what it needs.
rmSync('dist/chunks', { recursive: true, force: true });
add({
  ...node,
  splitting: true,
  entryPoints: present(['models/matvlm/cli/cli.ts']),
  outdir: 'dist',
  chunkNames: 'chunks/[name]-[hash]',
});
add({
  ...node,
  splitting: true,
  entryPoints: present(['engine/index.ts', 'engine/node/index.ts', 'ops/index.ts', 'models/matvlm/index.ts', 'models/matvlm/node.ts']),
  outdir: 'dist/lib',
  outbase: '.',
});
/** A page fetches the one WASM binary that it runs: as text in its script both would weigh twice as much. */
const fetchBinaries = {
  name: 'fetch-binaries',
  setup: ({ onResolve }) => {
    const path = join(root, 'wasm/binaries-page.ts');
    onResolve({ filter: /\/binaries\.ts$/ }, () => ({ path }));
  },
};
add({
  ...common,
  platform: 'browser',
  plugins: [fetchBinaries],
  minify: true,
  entryPoints: present(['models/matvlm/web/page.ts', 'models/matvlm/web/worker.ts']),
  outdir: 'dist/web',
});
mkdirSync('dist/web', { recursive: true });
copyFileSync('models/matvlm/web/page.html', 'dist/web/index.html');
copyFileSync('models/matvlm/web/page.css', 'dist/web/page.css');
for (const file of ['matvlm-simd.wasm', 'matvlm-relaxed.wasm']) copyFileSync(`wasm/dist/${file}`, `dist/web/${file}`);
if (args.has('--tests') || args.has('--all')) {
  rmSync('dist/test', { recursive: true, force: true });
  add({ ...node, splitting: true, entryPoints: list('test', '.test.ts').concat(present(['test/golden.ts'])), outdir: 'dist/test', outbase: 'test' });
}
if (args.has('--bench') || args.has('--all')) {
  rmSync('dist/bench', { recursive: true, force: true });
  add({ ...node, splitting: true, entryPoints: list('bench', '.bench.ts').concat(present(['bench/bench.ts'])), outdir: 'dist/bench', outbase: 'bench' });
}
await Promise.all(jobs);
