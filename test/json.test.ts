// What is said of hostile JSON: typed errors, bounded excerpts.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ConfigError, KernelError, MatvlmError } from '../engine/errors.ts';
import { excerpt, quote } from '../engine/excerpt.ts';
import { parseJson } from '../models/nn/json.ts';
import { throws } from './support/expect.ts';

const json = suite('untrusted JSON');

const deep = (levels: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = i % 2 ? [value] : { value };
  return value;
};

json('an excerpt shows what is small and cuts what is large or deep', () => {
  assert.is(excerpt('a "b"'), '"a \\"b\\""');
  assert.is(excerpt([1, 'a', null]), '[1, "a", null]');
  assert.is(excerpt({ toString: 1, b: [true] }), '{"toString": 1, "b": [true]}');
  assert.is(excerpt([1, 2, 3, 4, 5]), '[1, 2, 3, 4, …]');
  assert.is(excerpt(undefined), 'undefined');
  for (const large of ['x'.repeat(1e7), Array(1e6).fill('y'.repeat(100)), { ['k'.repeat(1e6)]: 1 }, deep(200_000)]) {
    assert.ok(excerpt(large).length <= 130, excerpt(large));
  }
  assert.is(quote('x'.repeat(120)), `"${'x'.repeat(120)}"`);
});

json('a message is cut, except a shader that is numbered in it', () => {
  const long = 'é'.repeat(1e6);
  assert.is(new MatvlmError(long).message.length, 4000);
  assert.is(new ConfigError('short').message, 'short');
  assert.is(new KernelError(long).message.length, 1e6);
});

json('nesting is bounded before anything walks it; brackets in texts do not count', () => {
  for (const [open, close] of [['[', ']'], ['{"a":', '}']]) {
    const text = `${open.repeat(200_000)}1${close.repeat(200_000)}`;
    const says = /config.json: nested deeper than 100 at character \d+/;
    throws(() => parseJson(text, 'config.json', ConfigError), ConfigError, says);
  }
  assert.equal(parseJson('{"a\\"[":"[{"}', 'x', ConfigError), { 'a"[': '[{' });
  assert.ok(parseJson('['.repeat(100) + ']'.repeat(100), 'x', ConfigError));
  throws(() => parseJson('{"a":', 'x', ConfigError), ConfigError, /x: no valid JSON/);
});

json.run();
