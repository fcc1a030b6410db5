import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, TokenizerError } from '../engine/errors.ts';
import { easyVqaTexts } from '../models/matvlm/data/easy-vqa.ts';
import { SortOfClevr, sortOfClevrTexts } from '../models/matvlm/data/sort-of-clevr.ts';
import { MAX_TEXT, Tokenizer } from '../models/matvlm/tokenizer.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../models/matvlm/word-tokenizer.ts';

const assets = 'models/matvlm/assets/tiny-tokenizer';
const phiFolder = '../shared/data/tokenizers/phi-2';

const tiny = (() => {
  const { tokenizer, config } = tinyTokenizer();
  return Tokenizer.fromJSON(tokenizer, config);
})();

/** Milliseconds of this process's own time, so that a busy machine does not count. */
function cpuTime(body: () => void): number {
  const begun = process.cpuUsage();
  body();
  return process.cpuUsage(begun).user / 1000;
}

function streamed(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const stream = tokenizer.stream();
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

const words = suite('word tokenizer');

words('the shipped files are what the function makes', () => {
  for (const [name, text] of Object.entries(tokenizerFileTexts(tinyTokenizer()))) {
    assert.is(readFileSync(join(assets, name), 'utf8'), text, `${name}: rewrite it with writeTinyTokenizer(${assets})`);
  }
});

words('knows every question and answer of both sets, and gives them back word for word', () => {
  const unknown = tiny.idOf('<unk>')!;
  const asked = [0, 1, 2].flatMap((i) => new SortOfClevr('train').get(i).questions.map((q) => q.question));
  for (const text of [...sortOfClevrTexts(), ...easyVqaTexts(), ...asked]) {
    const ids = tiny.encode(text);
    assert.not.ok(ids.includes(unknown), text);
    assert.is(tiny.decode(ids), text);
    assert.is(streamed(tiny, ids).join(''), text);
  }
});

words('answers are single tokens', () => {
  for (const answer of ['circle', 'square', 'yes', 'no', 'one', 'six', 'rectangle', 'teal']) {
    assert.is(tiny.encode(answer).length, 1, answer);
  }
});

words('folds case, isolates punctuation, maps what it does not know to <unk>', () => {
  const want = ['is', 'the', 'red', 'object', '?', '<unk>'].map((word) => tiny.idOf(word));
  assert.equal(tiny.encode('Is the RED\tobject?!'), want);
});

words('special ids', () => {
  assert.equal([tiny.eosId, tiny.bosId, tiny.padId, tiny.size], [0, 0, 0, tiny.idOf('yes')! + 1]);
  assert.equal(tiny.encode('yes<|endoftext|>'), [tiny.idOf('yes'), 0]);
  assert.is(tiny.decode([tiny.idOf('yes')!, 0]), 'yes');
  assert.is(tiny.decode([tiny.idOf('yes')!, 0], { skipSpecial: false }), 'yes <|endoftext|>');
});

words('streaming keeps the space after a skipped special token', () => {
  const ids = ['yes', '<|endoftext|>', 'no', '?'].map((w) => tiny.idOf(w)!);
  assert.is(streamed(tiny, ids).join(''), tiny.decode(ids));
});

words('decode: no ids, ids past the vocabulary, ids that are none', () => {
  assert.is(tiny.decode([]), '');
  assert.is(tiny.decode([tiny.size + 5, tiny.idOf('no')!]), 'no');
  assert.throws(() => tiny.decode([-200]), (e: Error) => e instanceof ArgumentError && /-200/.test(e.message));
});

words.run();

const faults = suite('broken tokenizer files');

const bpe = (change: object = {}, model: object = {}): object => ({
  added_tokens: [{ id: 4, content: '<eos>', special: true }],
  model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2, abab: 3 }, merges: ['a b', 'ab ab'], ...model },
  ...change,
});
const config = { eos_token: '<eos>' };

faults('the sound one is taken', () => {
  assert.equal(Tokenizer.fromJSON(bpe(), config).encode('ababab'), [3, 2]);
  assert.equal(Tokenizer.fromJSON(JSON.stringify(bpe()), '{"eos_token":{"content":"<eos>"}}').eosId, 4);
});

const kinds: [string, unknown, unknown, RegExp][] = [
  ['not JSON', '{"model":', config, /tokenizer.json is not JSON/],
  ['a list', [], config, /expected a JSON object/],
  ['no model', {}, config, /no model/],
  ['unknown model type', bpe({}, { type: 'Magic' }), config, /"Magic" is not one of BPE/],
  ['unknown pre-tokenizer', bpe({ pre_tokenizer: { type: 'Magic' } }), config, /PreTokenizer type: Magic/],
  ['unknown normalizer', bpe({ normalizer: { type: 'Magic' } }), config, /Normalizer type: Magic/],
  ['unknown decoder', bpe({ decoder: { type: 'Magic' } }), config, /Decoder type: Magic/],
  ['decoder of a replacement without a pattern', bpe({ decoder: { type: 'Replace' } }), config, /tokenizer.json: /],
  ['merges missing', bpe({}, { merges: undefined }), config, /needs model.merges/],
  ['a merge of one part', bpe({}, { merges: ['ab'] }), config, /merges\[0\]/],
  ['a merge of three parts', bpe({}, { merges: ['a b', 'a b a'] }), config, /merges\[1\]/],
  ['a merge of a number', bpe({}, { merges: [7] }), config, /merges\[0\]/],
  ['a merge that gives no token', bpe({}, { merges: ['b a'] }), config, /merges\[0\] needs "ba"/],
  ['duplicate id', bpe({}, { vocab: { a: 0, b: 0, ab: 2, abab: 3 } }), config, /both have id 0/],
  ['huge id', bpe({}, { vocab: { a: 0, b: 1, ab: 2, abab: 2 ** 31 } }), config, /id 2147483648/],
  ['negative id', bpe({}, { vocab: { a: -1 } }), config, /id -1/],
  ['fractional id', bpe({}, { vocab: { a: 0.5 } }), config, /id 0.5/],
  ['empty vocabulary', bpe({}, { vocab: {}, merges: [] }), config, /empty/],
  ['vocabulary a list', bpe({}, { vocab: ['a'] }), config, /must be an object/],
  ['added token on a taken id', bpe({ added_tokens: [{ id: 1, content: '<eos>' }] }), config, /both have id 1/],
  ['added token with two ids', bpe({ added_tokens: [{ id: 9, content: 'a' }] }), config, /ids 0 and 9/],
  ['added token without content', bpe({ added_tokens: [{ id: 9 }] }), config, /added_tokens\[0\]/],
  ['eos missing', bpe(), {}, /no eos_token/],
  ['eos not in the vocabulary', bpe(), { eos_token: '<end>' }, /"<end>" is not in/],
  ['eos a number', bpe(), { eos_token: 4 }, /eos_token must be/],
  ['word-level without unk', { model: { type: 'WordLevel', vocab: { a: 0 } } }, { eos_token: 'a' }, /unk_token/],
  ['Unigram with a bad piece', { model: { type: 'Unigram', vocab: [['a']] } }, { eos_token: 'a' }, /vocab\[0\]/],
];
for (const [kind, json, conf, message] of kinds) {
  faults(kind, () => {
    assert.throws(
      () => Tokenizer.fromJSON(json, conf),
      (e: Error) => e instanceof TokenizerError && message.test(e.message) && e.name === 'TokenizerError',
    );
  });
}

faults('a long word is done in 2 s, a longer text refused', () => {
  const tokenizer = Tokenizer.fromJSON(bpe(), config);
  const took = cpuTime(() => assert.is(tokenizer.encode('ab'.repeat(MAX_TEXT / 2)).length, MAX_TEXT / 4));
  assert.ok(took < 2000, `${took} ms`);
  assert.throws(() => tokenizer.encode('a'.repeat(10 ** 7)), (e: Error) => e instanceof ArgumentError);
});

faults.run();

const phi = suite('Phi-2 tokenizer');
const read = (name: string): string => readFileSync(join(phiFolder, name), 'utf8');
if (existsSync(phiFolder)) {
  const tokenizer = Tokenizer.fromJSON(read('tokenizer.json'), read('tokenizer_config.json'));

  phi('all public vectors', () => {
    const texts = read('vectors.inp').split('\n__ggml_vocab_test__\n');
    const expected = read('vectors.out').split('\n').slice(0, texts.length);
    assert.ok(texts.length > 40);
    texts.forEach((text, i) => {
      const want = expected[i].trim() === '' ? [] : expected[i].trim().split(/\s+/).map(Number);
      // The last text ends with the file's own last line break.
      const input = i === texts.length - 1 ? text.replace(/\n$/, '') : text;
      assert.equal(tokenizer.encode(input), want, JSON.stringify(text));
      assert.is(tokenizer.decode(want), input);
      const pieces = streamed(tokenizer, want);
      assert.is(pieces.join(''), input);
      assert.not.ok(pieces.some((p) => p.includes('\ufffd')), JSON.stringify(pieces));
    });
  });

  phi('ids', () => {
    assert.equal([tokenizer.eosId, tokenizer.bosId, tokenizer.padId, tokenizer.size], [50256, 50256, 50256, 50295]);
  });

  phi('decode(encode(x)) is x, in one go and streamed', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        const ids = tokenizer.encode(text);
        assert.is(tokenizer.decode(ids), text);
        assert.is(streamed(tokenizer, ids).join(''), text);
      }),
      { numRuns: 200, seed: 1 },
    );
  });

  phi('any bytes streamed join to what decode gives', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(50294), { maxLength: 40 }), (ids) => {
        assert.is(streamed(tokenizer, ids).join(''), tokenizer.decode(ids));
      }),
      { numRuns: 300, seed: 2 },
    );
  });

  phi('a lone surrogate is taken as U+FFFD', () => {
    assert.is(tokenizer.decode(tokenizer.encode('a\ud800b')), 'a\ufffdb');
  });

  phi('the longest text in one word', () => {
    const took = cpuTime(() => assert.ok(tokenizer.encode('a'.repeat(MAX_TEXT)).length > 0));
    assert.ok(took < 2000, `${took} ms`);
  });
} else {
  console.log(`Skipped: ${phiFolder} with the Phi-2 tokenizer and its vectors is absent.`);
}
phi.run();
