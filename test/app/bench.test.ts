import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { OP_CASES } from '../../bench/op-cases.ts';
import { modelCases } from '../../bench/model-cases.ts';
import { readReport, resultTable, writeReport } from '../../bench/results.ts';
import { runBench } from '../../bench/run.ts';
import { rejects } from '../support/expect.ts';
import { freshFolder } from '../support/folders.ts';

const bench = suite('bench');
const file = join(freshFolder(), 'out.json');

bench('times a case and a step, writes JSON, and compares with it', async () => {
  const options = { backends: ['wasm'], quick: true } as const;
  const report = await runBench({ ...options, filter: 'adamw 128×512' });
  const steps = await runBench({ ...options, filter: 'decode step, student' });
  assert.equal(report.results.map((r) => r.case), ['adamw 128×512']);
  assert.equal(steps.results.map((r) => r.case), ['decode step, student']);
  for (const r of [...report.results, ...steps.results]) {
    assert.ok(r.median > 0 && r.p75 >= r.median && r.p99 >= r.p75, JSON.stringify(r));
    assert.ok(r.samples >= 3 && r.calls >= 1 && r.spread >= 0, JSON.stringify(r));
  }
  const [op] = report.results;
  assert.is(op.unit, 'GB/s');
  // Seven values a parameter, and the seven of the hyperparameters.
  assert.ok(Math.abs(op.rate - (7 * 4 * (128 * 512 + 1)) / op.median / 1e6) < 1e-6 * op.rate);

  await writeReport(file, report);
  assert.equal(JSON.parse(readFileSync(file, 'utf8')), JSON.parse(JSON.stringify(report)));
  const slower = { ...op, median: 2 * op.median };
  const table = resultTable([slower, steps.results[0]], await readReport(file)).split('\n');
  assert.match(table[1], /^adamw 128×512 +wasm .* 0\.50×$/);
  assert.match(table[2], /^decode step, student +wasm .* new$/);
  assert.ok(new Set(table.slice(1, 3).map((line) => line.indexOf('wasm'))).size === 1, 'columns are aligned');
});

bench('a file that is no report is refused by name', async () => {
  writeFileSync(file, '{"format":"other"}');
  await rejects(readReport(file), Error, /out\.json: its format is other, expected matvlm-bench-1/);
});

bench('no two cases have one name', () => {
  const names = [...OP_CASES, ...modelCases(4, 20)].map((c) => c.name);
  assert.is(new Set(names).size, names.length);
});

bench.run();
