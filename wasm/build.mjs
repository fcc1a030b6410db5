// Builds wasm/dist/*.wasm from wasm/src/*.c: `npm run build:wasm`, or `node wasm/build.mjs --check` to compare what is
// checked in with a fresh build. Needs emcc (PATH or EMSDK); where it is older than the final relaxed SIMD opcodes,
// clang-19 and wasm-ld-19 as well. Without emcc, clang-19 builds both.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kernelTypes } from './prototypes.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, 'dist');
const VARIANTS = {
  simd: { file: 'matvlm-simd.wasm', flags: ['-msimd128'] },
  relaxed: { file: 'matvlm-relaxed.wasm', flags: ['-msimd128', '-mrelaxed-simd'] },
};
/** The first emcc (LLVM 18) that is sure to emit the opcodes engines ship. */
const RELAXED_SINCE = [3, 1, 50];

const COMPILE = ['-std=c11', '-O3', '-ffreestanding', '-fno-builtin', '-mbulk-memory', '-Wall', '-Wextra', '-Werror'];
// Only pointers that may be null are marked.
COMPILE.push('-Wno-nullability-completeness', '-Wno-nullability-extension');
// No data is ever shared but through the memory's owner: the stack comes first, then constants, then the heap.
const LINK = ['--no-entry', '--import-memory', '--max-memory=4294967296', '-z', 'stack-size=65536', '--stack-first'];
LINK.push('--export=__heap_base', '--strip-all');

function fail(message) {
  console.error(message);
  process.exit(1);
}

/** Runs a tool; returns its output, or null when `probe` and it is not there or fails. */
function run(command, args, probe = false) {
  // Debian's emcc 3.1.6 finds its own JavaScript packages only so.
  const env = { ...process.env };
  if (existsSync('/usr/share/nodejs')) env.NODE_PATH ??= '/usr/share/nodejs';
  const result = spawnSync(command, args, { encoding: 'utf8', env });
  if (!result.error && result.status === 0) return result.stdout.trim();
  if (probe) return null;
  return fail(`${command} ${args.join(' ')}\n${result.error?.message ?? result.stderr}`);
}

const version = (text) => text.match(/\d+\.\d+\.\d+/)?.[0] ?? 'unknown';
const atLeast = (have, want) => {
  const parts = have.split('.').map(Number);
  const at = want.findIndex((w, i) => parts[i] !== w);
  return at < 0 || parts[at] > want[at];
};

/** emcc as compiler, and the wasm-ld of its own LLVM as linker; null when there is none. */
function findEmcc() {
  const root = process.env.EMSDK ? join(process.env.EMSDK, 'upstream', 'emscripten') : '';
  const emcc = [root && join(root, 'emcc'), 'emcc'].find((c) => c && run(c, ['--version'], true) !== null);
  if (!emcc) return null;
  const llvm = run(emcc === 'emcc' ? 'em-config' : join(root, 'em-config'), ['LLVM_ROOT']);
  const name = readdirSync(llvm).filter((f) => /^wasm-ld(-\d+)?(\.exe)?$/.test(f)).sort()[0];
  if (!name) fail(`emcc is at ${emcc}, but its LLVM folder ${llvm} holds no wasm-ld: install lld, or another emsdk.`);
  const linker = join(llvm, name);
  return {
    compiler: emcc,
    linker,
    flags: [],
    versions: { emcc: version(run(emcc, ['--version'])), 'wasm-ld': version(run(linker, ['--version'])) },
  };
}

/** clang 19 and its wasm-ld; null when one of them is missing. */
function findClang() {
  const clang = ['clang-19', 'clang'].find((c) => / 19\./.test(run(c, ['--version'], true) ?? ''));
  const linker = ['wasm-ld-19', 'wasm-ld'].find((c) => / 19\./.test(run(c, ['--version'], true) ?? ''));
  if (!clang || !linker) return null;
  return {
    compiler: clang,
    linker,
    // emcc turns loop strength reduction off by itself: the engine addresses memory better than LLVM expects
    flags: ['--target=wasm32', '-nostdlib', '-mllvm', '-disable-lsr'],
    versions: { clang: version(run(clang, ['--version'])), 'wasm-ld': version(run(linker, ['--version'])) },
  };
}

/** Which tools build which variant. */
function toolchains() {
  const emcc = findEmcc();
  const clang = findClang();
  const relaxed = emcc && atLeast(emcc.versions.emcc, RELAXED_SINCE) ? emcc : clang;
  const simd = emcc ?? clang;
  if (!simd) fail('No compiler: put emcc on PATH or set EMSDK, or install clang-19 and lld-19 (both from LLVM 19).');
  if (!relaxed) {
    fail(`emcc ${emcc.versions.emcc} is too old for relaxed SIMD: install a newer one, or clang-19 and lld-19 too.`);
  }
  return { simd, relaxed };
}

function buildVariant(tools, { file, flags }, folder) {
  const sources = readdirSync(join(here, 'src')).filter((f) => f.endsWith('.c')).sort();
  const objects = sources.map((source) => {
    const object = join(folder, `${file}.${source}.o`);
    const args = [...tools.flags, ...COMPILE, ...flags, '-c', join('src', source), '-o', object];
    run(tools.compiler, args);
    return object;
  });
  run(tools.linker, [...LINK, ...objects, '-o', join(folder, file)]);
  const bytes = readFileSync(join(folder, file));
  if (!WebAssembly.validate(bytes) && file === VARIANTS.simd.file) fail(`${file}: the engine refuses what was built.`);
  return bytes;
}

/** A source with its macros expanded and its comments kept. */
function preprocess(file) {
  const { compiler, flags } = tools.simd;
  return run(compiler, [...flags, ...COMPILE, ...VARIANTS.simd.flags, '-E', '-C', '-P', file]);
}

process.chdir(here);
const tools = toolchains();
const built = Object.fromEntries(Object.entries(tools).map(([variant, t]) => [variant, t.versions]));
const folder = mkdtempSync(join(tmpdir(), 'matvlm-wasm-'));
const output = Object.entries(VARIANTS).map(([name, v]) => [join('dist', v.file), buildVariant(tools[name], v, folder)]);
output.push(['kernels.ts', Buffer.from(kernelTypes(join(here, 'src'), preprocess))]);
rmSync(folder, { recursive: true });

if (process.argv.includes('--check')) {
  const recorded = JSON.parse(readFileSync(join(dist, 'BUILD.json'), 'utf8'));
  const same = JSON.stringify(recorded) === JSON.stringify(built);
  if (!same) {
    console.warn('This toolchain is not the one in wasm/dist/BUILD.json; bytes may differ for that reason alone.');
    console.warn(`  recorded ${JSON.stringify(recorded)}\n  here     ${JSON.stringify(built)}`);
  }
  const stored = (file) => (existsSync(file) ? readFileSync(file) : Buffer.alloc(0));
  const changed = output.filter(([file, bytes]) => !stored(file).equals(bytes));
  if (changed.length > 0) {
    const advice = 'the sources have changed: run `npm run build:wasm` and commit what it makes';
    const cause = same ? advice : 'because of the sources or of the toolchain';
    fail(`wasm differs from a fresh build in ${changed.map(([f]) => f).join(', ')} (${cause}).`);
  }
  console.log(`wasm/dist is what its sources build${same ? '' : ', with this other toolchain too'}.`);
} else {
  mkdirSync(dist, { recursive: true });
  for (const [file, bytes] of output) {
    writeFileSync(file, bytes);
    console.log(`wasm/${file}  ${(bytes.length / 1024).toFixed(1)} KiB`);
  }
  writeFileSync(join(dist, 'BUILD.json'), `${JSON.stringify(built, null, 2)}\n`);
}
