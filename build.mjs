// One build for everything: `node build.mjs [--tests] [--package]`. Needs only Node: it installs what is
// missing first. Each file is written beside its place and renamed, and what the build before left for commands that
// are just starting stays until the next one: a command that runs meanwhile finds all it needs.
// dist/cli.js      the command line
// dist/lib/        engine, ops and model as ES modules (the package's exports)
// dist/web/        the page that `serve` serves
// dist/test/       test files, one bundle each (with --tests)
// dist/bench/      benchmarks
// dist/types/      declarations (with --package)
// dist/models/     the shipped models in f16 (with --package: a checkout has them in models/matvlm/assets)
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
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
const { notices } = await import('./notices.mjs');

const common = {
  bundle: true,
  format: 'esm',
  target: 'es2022',
  loader: { '.wgsl': 'text', '.wasm': 'binary', '.css': 'text', '.html': 'text' },
  define: { GRADIENTS: 'true' },
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
const add = (options) => options.entryPoints.length > 0 && jobs.push(options);

// Split, so that a command loads only what it needs.
add({
  ...node,
  splitting: true,
  entryPoints: present(['models/matvlm/app/cli/cli.ts']),
  outdir: 'dist',
  chunkNames: 'chunks/[name]-[hash]',
});
/** A page fetches the one WASM binary that it runs: as text in its script both would weigh twice as much. */
const fetchBinaries = {
  name: 'fetch-binaries',
  setup: ({ onResolve }) => {
    const path = join(root, 'wasm/binaries-page.ts');
    onResolve({ filter: /\/binaries\.ts$/ }, () => ({ path }));
  },
};
/**
 * What ops/ calls at the top level of a module declares (an op, a shader, a table of them): a bundler may leave out what
 * nobody uses. Where no gradients are computed, as in a page, ops go without `backward`, and so let go of all that only
 * those need; the engine's own part of it is behind the constant GRADIENTS.
 */
const declareOps = ({ gradients }) => ({
  name: 'declare-ops',
  setup: ({ onLoad }) => {
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      if (!path.startsWith(join(root, 'ops'))) return;
      const code = readFileSync(path, 'utf8').replace(/^((?:export )?const [^=\n]+ = )(?=\w+[(<])/gm, '$1/* @__PURE__ */ ');
      // Methods and arrow functions, and ops that only those apply: one line, or until a bracket closes where it began.
      const backward =
        /^( +)(?:const \w*[Bb]ackward\w* = |(?:backward|gradient)(?=[(:]))[^\n]*\(.*\n(?:(?:\1 .*)?\n)*(?:\1[\])}].*\n)?/gm;
      return { contents: gradients ? code : code.replace(backward, ''), loader: 'ts' };
    });
  },
});
/** Shaders travel as text: a page's come without comments and indentation. */
const shrinkShaders = {
  name: 'shrink-shaders',
  setup: ({ onLoad }) => {
    onLoad({ filter: /\.wgsl$/ }, ({ path }) => {
      const code = readFileSync(path, 'utf8').replace(/\/\/.*|\/\*[^]*?\*\//g, '').replace(/^\s+|[^\S\n]+$/gm, '');
      return { contents: code, loader: 'text' };
    });
  },
};
add({
  ...node,
  splitting: true,
  plugins: [declareOps({ gradients: true })],
  entryPoints: present(['engine/index.ts', 'engine/node/index.ts', 'ops/index.ts', 'models/matvlm/index.ts', 'models/matvlm/node.ts']),
  outdir: 'dist/lib',
  outbase: '.',
});
add({
  ...common,
  platform: 'browser',
  define: { GRADIENTS: 'false' },
  plugins: [fetchBinaries, shrinkShaders, declareOps({ gradients: false }), notices('notices.txt')],
  minify: true,
  entryPoints: present(['models/matvlm/app/web/page.ts', 'models/matvlm/app/web/worker.ts']),
  outdir: 'dist/web',
});
add({ ...node, splitting: true, entryPoints: list('bench', '.bench.ts').concat(present(['bench/bench.ts'])), outdir: 'dist/bench', outbase: 'bench' });
const folders = ['dist/chunks', 'dist/lib', 'dist/web', 'dist/bench'];
if (args.has('--tests')) {
  folders.push('dist/test');
  add({ ...node, splitting: true, entryPoints: list('test', '.test.ts').concat(present(['test/golden.ts'])), outdir: 'dist/test', outbase: 'test' });
}

const outputs = [];
// One after the other: several at a time have once waited for each other without end.
for (const options of jobs) {
  const { outputFiles } = await build({ ...options, write: false });
  outputs.push(...outputFiles.map((file) => [relative(root, file.path), file.contents]));
}
outputs.push(['dist/web/index.html', readFileSync('models/matvlm/app/web/page.html')]);
outputs.push(['dist/web/page.css', readFileSync('models/matvlm/app/web/page.css')]);
for (const file of ['matvlm-simd.wasm', 'matvlm-relaxed.wasm']) outputs.push([`dist/web/${file}`, readFileSync(`wasm/dist/${file}`)]);
place(outputs);

if (args.has('--package')) {
  rmSync('dist/types', { recursive: true, force: true });
  run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json']);
  run(process.execPath, ['models/matvlm/assets/pack.mjs', 'dist/models']);
}

/** Puts files into dist, parts before the wholes that load them, and removes what no build since the last has made. */
function place(files) {
  const hashed = ([path]) => /-[A-Z0-9]{8}\.\w+$/.test(basename(path));
  for (const [path, contents] of [...files.filter(hashed), ...files.filter((file) => !hashed(file))]) {
    if (existsSync(path) && readFileSync(path).equals(contents)) continue;
    mkdirSync(dirname(path), { recursive: true });
    const beside = `${path}.${process.pid}.new`;
    writeFileSync(beside, contents);
    renameSync(beside, path);
  }
  const record = 'dist/parts.json';
  const parts = files.filter(hashed).map(([path]) => path);
  const before = existsSync(record) ? JSON.parse(readFileSync(record, 'utf8')) : [];
  const stay = new Set([...before, ...files.map(([path]) => path)]);
  for (const path of folders.flatMap((folder) => list(folder, ''))) {
    if (statSync(path).isFile() && !stay.has(path) && !path.endsWith('.new')) rmSync(path);
  }
  writeFileSync(record, JSON.stringify(parts));
}

function run(command, argv) {
  const { status } = spawnSync(command, argv, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
