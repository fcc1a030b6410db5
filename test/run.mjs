// Runs every built test file in a process of its own, one for each core at a time, and adds up what uvu counted.
// usage: node test/run.mjs [part of a name …]
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';

const DIR = 'dist/test';
/** Files at a time: more than a few would wait for one another's GPU, browser and ports. */
const AT_ONCE = Math.min(4, availableParallelism());
/** A file that runs longer than this hangs. */
const LIMIT = 20 * 60_000;

const wanted = process.argv.slice(2);
const files = readdirSync(DIR, { recursive: true })
  .filter((f) => f.endsWith('.test.js') && (wanted.length === 0 || wanted.some((w) => basename(f).includes(w))))
  .sort();

function runFile(file) {
  return new Promise((resolve) => {
    const start = performance.now();
    const child = spawn(process.execPath, [join(DIR, file)], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk) => (output += chunk);
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      resolve({ file, code, signal, seconds, ...count(output), output });
    });
  });
}

/** uvu's own summary, without its colours. */
function count(output) {
  // biome-ignore lint: the escape character is what colours begin with
  const plain = output.replace(/\u001b\[[0-9;]*m/g, '');
  const read = (word) => [...plain.matchAll(new RegExp(`^\\s*${word}:\\s+(\\d+)`, 'gm'))].reduce((n, m) => n + Number(m[1]), 0);
  return { total: read('Total'), passed: read('Passed'), skipped: read('Skipped') };
}

let passed = 0;
let failed = 0;
let skipped = 0;
async function next() {
  const file = files.shift();
  if (file === undefined) return;
  const run = await runFile(file);
  // uvu leaves skipped tests out of its total.
  const lost = run.total - run.passed;
  const broken = run.code !== 0 && lost === 0 ? 1 : 0;
  const empty = run.total === 0 && run.code === 0 ? 1 : 0;
  passed += run.passed;
  skipped += run.skipped;
  failed += lost + broken + empty;
  const good = run.code === 0 && lost === 0 && !empty;
  console.log(`${good ? 'ok  ' : 'FAIL'} ${file}  ${run.passed}/${run.total} in ${run.seconds} s`);
  if (!good) console.log(run.output, run.signal ? `ended by ${run.signal}` : '', empty ? 'ran no test' : '');
  return next();
}

await Promise.all(Array.from({ length: AT_ONCE }, next));
if (skipped > 0) console.log(`${skipped} skipped: their messages say why`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
