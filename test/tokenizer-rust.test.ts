// What the Rust library makes of texts (test/tokenizers/make.py), component by component and whole.
import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { makeDecoder } from '../models/nn/text/tokenizer/decoders.ts';
import { Effort } from '../models/nn/text/tokenizer/effort.ts';
import { makeNormalizer } from '../models/nn/text/tokenizer/normalizers.ts';
import { makePreTokenizer } from '../models/nn/text/tokenizer/pre-tokenizers.ts';
import { Tokenizer } from '../models/nn/text/tokenizer.ts';

interface Entry<Case> {
  readonly json: Record<string, unknown>;
  readonly cases: readonly Case[];
}

interface Cases {
  readonly normalizers: readonly Entry<[string, string]>[];
  readonly preTokenizers: readonly Entry<[string, string[]]>[];
  readonly decoders: readonly Entry<[string[], string]>[];
  readonly tokenizers: readonly Entry<[string, number[], number[], string, string]>[];
}

const cases = JSON.parse(readFileSync('test/tokenizers/cases.json', 'utf8')) as Cases;
const rust = suite('as the Rust library');

function check<Case extends [unknown, ...unknown[]]>(
  kind: string,
  entries: readonly Entry<Case>[],
  run: (json: Entry<Case>['json']) => (input: Case[0]) => unknown[],
): void {
  entries.forEach(({ json, cases: all }, i) => {
    rust(`${kind} ${i}: ${JSON.stringify(json).slice(0, 100)}`, () => {
      const made = run(json);
      for (const [input, ...want] of all) assert.equal(made(input), want, JSON.stringify(input));
    });
  });
}

check('normalizer', cases.normalizers, (json) => {
  const normalize = makeNormalizer(json);
  return (text) => [normalize(text, new Effort())];
});

check('pre-tokenizer', cases.preTokenizers, (json) => {
  const split = makePreTokenizer(json);
  return (text) => [split({ text, first: true }, new Effort()).map((piece) => piece.text)];
});

check('decoder', cases.decoders, (json) => {
  const make = makeDecoder(json);
  return (tokens) => {
    const sink = make();
    return [tokens.map((token) => sink.push(token)).join('') + sink.end()];
  };
});

check('tokenizer', cases.tokenizers, (json) => {
  const end = { id: 999, content: '<an end that no text holds>', special: true };
  const added = [...(json.added_tokens as object[]), end];
  const tokenizer = Tokenizer.fromJSON({ ...json, added_tokens: added }, { eos_token: end.content });
  return (text) => {
    const ids = tokenizer.encode(text);
    const around = tokenizer.encode(text, { addSpecial: true });
    return [ids, around, tokenizer.decode(ids), tokenizer.decode(ids, { skipSpecial: false })];
  };
});

rust.run();
