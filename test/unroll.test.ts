import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { unroll } from '../ops/attention/unroll.ts';

/** Runs WGSL-like statements as JavaScript: `u` suffixes and `u32` types mean nothing there. */
function run(code: string): number[] {
  const script = code.replace(/\b(\d+)u\b/g, '$1').replaceAll('var ', 'let ');
  return new Function('N', 'M', 'out', `${script}; return out;`)(3, 2, []) as number[];
}

test('an unrolled loop does what the loop does, nested loops included', () => {
  const code = `
for (var i = 0u; i < N; i++) {
  out.push(i);
  for (var j = 0u; j < M; j++) { if (j < i) { out.push(10u * i + j); } }
}
for (var k = 5u; k < N + 6u; k++) { out.push(k); }`;
  const choices: Record<string, number>[] = [{ N: 3, M: 2 }, { M: 2 }, { N: 3 }];
  for (const bounds of choices) {
    const unrolled = unroll(code, bounds);
    assert.equal(run(unrolled), run(code));
    for (const name of Object.keys(bounds)) assert.not.match(unrolled, `< ${name};`);
  }
});

test('loops with other bounds stay', () => {
  const code = 'for (var i = 0u; i < N; i++) { out.push(i); }';
  assert.is(unroll(code, { M: 2 }), code);
});

test.run();
