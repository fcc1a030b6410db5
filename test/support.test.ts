import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { supportTable } from './support/support-table.ts';

const support = suite('support table');

support('docs/support.md says what runs where', async () => {
  const table = await supportTable('test/golden/ops');
  if (process.argv.includes('--print')) console.log(table);
  assert.ok(readFileSync('docs/support.md', 'utf8').includes(table), 'run this test with --print and paste the table');
});

support.run();
