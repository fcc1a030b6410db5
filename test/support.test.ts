import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { assertNear } from './support/agree.ts';
import { closeBackend, openGpu, openWasms } from './support/backends.ts';
import { moreCases } from './support/more-cases.ts';
import { opNames, runAll, runCase, supportTable } from './support/support-table.ts';

const GOLDEN = 'test/golden/ops';
const support = suite('support table');

support('docs/support.md says what runs where', async () => {
  const table = await supportTable(await WasmBackend.create(), GOLDEN);
  if (process.argv.includes('--print')) console.log(table);
  assert.ok(readFileSync('docs/support.md', 'utf8').includes(table), 'run this test with --print and paste the table');
});

const reference = new ReferenceBackend();
const others = [...(await openWasms()), await openGpu()];

for (const backend of [reference, ...others]) {
  support(`every op runs on ${backend.description}`, async () => {
    assert.equal(await runAll(backend, GOLDEN), opNames(), 'an op without a case: add one to support/more-cases.ts');
    assert.is(backend.memory.live, 0, 'live bytes afterwards');
  });
}

for (const one of moreCases) {
  support(`${one.id} is the same on every backend`, async () => {
    const want = await runCase(reference, one);
    for (const backend of others) assertNear(await runCase(backend, one), want, `${one.id} on ${backend.description}`);
  });
}

support.after(() => others.forEach(closeBackend));
support.run();
