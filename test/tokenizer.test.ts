import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, TokenizerError } from '../engine/errors.ts';
import { easyVqaTexts } from '../models/matvlm/data/easy-vqa.ts';
import { SortOfClevr, sortOfClevrTexts } from '../models/matvlm/data/sort-of-clevr.ts';
import { BYTES } from '../models/nn/text/tokenizer/bytes.ts';
import { MAX_TEXT, Tokenizer } from '../models/nn/text/tokenizer.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../models/matvlm/data/word-tokenizer.ts';

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
  ['not JSON', '{"model":', config, /tokenizer.json: no valid JSON/],
  ['a list', [], config, /expected a JSON object/],
  ['no model', {}, config, /no model/],
  ['unknown model type', bpe({}, { type: 'Magic' }), config, /"Magic" is not one of BPE/],
  ['unknown pre-tokenizer', bpe({ pre_tokenizer: { type: 'Magic' } }), config, /pre_tokenizer type "Magic" is not supported; supported are Bert/],
  ['unknown normalizer', bpe({ normalizer: { type: 'Magic' } }), config, /normalizer type "Magic" is not supported/],
  ['unknown decoder', bpe({ decoder: { type: 'Magic' } }), config, /decoder type "Magic" is not supported/],
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
  ['eos a number', bpe(), { eos_token: 4 }, /eos_token is 4; it must be/],
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

faults('ids, tokens and fields of hostile files', () => {
  const cases: [unknown, unknown, RegExp][] = [
    [bpe({}, { vocab: { a: { toString: 1 } } }), config, /the token "a" has id \{"toString": 1\}; expected an integer/],
    [bpe({ added_tokens: [{ id: { toString: 1 }, content: 'x' }] }), config, /added_tokens\[0\] has id \{/],
    [bpe({}, { vocab: { ['x'.repeat(1e7)]: -1 } }), config, /the token "xxx/],
    [bpe({ added_tokens: [{ id: 4, content: '<eos>' }, { id: 5, content: 'x'.repeat(1e7) }] }), config, /has 10000000 characters/],
    [bpe({ pre_tokenizer: { type: 'FixedLength', length: 0 } }), config, /length is 0; expected a whole number from 1/],
    [bpe({ normalizer: { type: 'Lowercase', locale: 'tr' } }), config, /Lowercase: unknown field "locale"/],
    [bpe({ normalizer: { type: 'Precompiled', precompiled_charsmap: '' } }), config, /"Precompiled" is not supported \(it is/],
    [bpe({}, { dropout: 0.1 }), config, /dropout is 0.1, which is not supported/],
    [bpe({}, { continuing_subword_prefix: '##' }), config, /continuing_subword_prefix is "##"/],
    [`{"model":${'{"a":'.repeat(200_000)}1${'}'.repeat(200_001)}`, config, /nested deeper than 100/],
  ];
  for (const [json, conf, says] of cases) {
    assert.throws(
      () => Tokenizer.fromJSON(json, conf),
      (e: Error) => e instanceof TokenizerError && says.test(e.message) && e.message.length < 1000,
      String(says),
    );
  }
});

/** A byte-level tokenizer without merges, with other parts. */
function bytes(parts: object, ...added: readonly object[]): Tokenizer {
  const vocab = Object.fromEntries(BYTES.map((char, byte) => [char, byte]));
  const json = {
    added_tokens: [{ id: 256, content: '</s>', special: true }, ...added],
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges: [] },
    ...parts,
  };
  return Tokenizer.fromJSON(json, { eos_token: '</s>' });
}

const split = (pattern: string): object => ({
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    ],
  },
});

faults('no file makes a text take without end', () => {
  const isTooMuch = (e: Error) => e instanceof ArgumentError && /too many steps|characters of this text/.test(e.message);
  const doubling = { type: 'Replace', pattern: { String: 'a' }, content: 'aa' };
  const cases: [Tokenizer, string][] = [
    [bytes(split('(a|a)*b')), 'a'.repeat(100)],
    [bytes(split('a+b')), 'a'.repeat(MAX_TEXT)],
    [bytes(split('(?:(?=(?:a|a)+c)a)+')), 'a'.repeat(100)],
    [bytes({ normalizer: { type: 'Sequence', normalizers: Array(30).fill(doubling) } }), 'aaa'],
    [bytes({ normalizer: { type: 'Replace', pattern: { String: 'a' }, content: 'b'.repeat(5e5) } }), 'aaa'],
    [bytes({ normalizer: { type: 'Sequence', normalizers: Array(20_000).fill({ type: 'NFKC' }) } }), 'a'.repeat(MAX_TEXT)],
    [bytes({ pre_tokenizer: { type: 'Sequence', pretokenizers: Array(30).fill({ type: 'ByteLevel', use_regex: false }) } }), 'é'],
  ];
  const took = cpuTime(() => {
    for (const [tokenizer, text] of cases) assert.throws(() => tokenizer.encode(text), isTooMuch);
    const decodes = bytes({ decoder: { type: 'Sequence', decoders: Array(30).fill(doubling) } });
    assert.throws(() => decodes.decode(decodes.encode('a')), isTooMuch);
    const slow = { type: 'Replace', pattern: { Regex: '(?:a|a){17}b' }, content: '' };
    const replaces = bytes({ decoder: { type: 'Sequence', decoders: Array(5000).fill(slow) } }, { id: 257, content: 'a'.repeat(20) });
    assert.throws(() => replaces.decode([257]), isTooMuch);
  });
  assert.ok(took < 10_000, `${took} ms`);
});

faults('patterns that cannot be matched here are refused by name', () => {
  for (const pattern of ['(a)\\1', '\\Ga', '\\X', '(?:a*)*', '(?<=a+)b', 'a{2}{3}', 'a**', '(', ')', '[a', '*', '(?~a)', '('.repeat(500), '(?i:ß)']) {
    assert.throws(() => bytes(split(pattern.replaceAll('\\\\', '\\'))), (e: Error) => e instanceof TokenizerError, pattern);
  }
});

faults('no file takes without end to be made', () => {
  const patterns = ['((?:){999999999}){999999999}', '(?=a{9000}){9000}', '(?>(?>a{100}){100}){100}', 'a{0,1000000000}'];
  const took = cpuTime(() => {
    for (const pattern of patterns) {
      assert.throws(
        () => bytes(split(pattern)),
        (e: Error) => e instanceof TokenizerError && /the pattern repeats too much/.test(e.message),
        pattern,
      );
    }
    const many = { type: 'Sequence', normalizers: Array(100_000).fill({ type: 'NFC' }) };
    assert.throws(
      () => bytes({ normalizer: many }),
      (e: Error) => e instanceof TokenizerError && /normalizer has \d+ characters, expected at most/.test(e.message),
    );
  });
  assert.ok(took < 5000, `${took} ms`);
});

faults('an unknown character where the unknown token is not in the vocabulary', () => {
  const tokenizer = Tokenizer.fromJSON(bpe({}, { unk_token: '<unk>' }), config);
  assert.equal(tokenizer.encode('ab'), [2]);
  assert.throws(() => tokenizer.encode('ax'), (e: Error) => e instanceof ArgumentError && /unknown/.test(e.message));
});

faults('99,000 newlines in a Unigram model', () => {
  const json = {
    added_tokens: [{ id: 3, content: '</s>', special: true }],
    model: { type: 'Unigram', unk_id: 0, vocab: [['<unk>', 0], ['a', -1], ['aa', -1.5]] },
  };
  const unigram = Tokenizer.fromJSON(json, { eos_token: '</s>' });
  const took = cpuTime(() => assert.equal(unigram.encode('\n'.repeat(99_000)), [0]));
  assert.ok(took < 2000, `${took} ms`);
  assert.equal(unigram.encode('aa\n\na'), [2, 0, 1]);
});

faults('a long word is done in 2 s, a longer text refused', () => {
  const tokenizer = Tokenizer.fromJSON(bpe(), config);
  const took = cpuTime(() => assert.is(tokenizer.encode('ab'.repeat(MAX_TEXT / 2)).length, MAX_TEXT / 4));
  assert.ok(took < 2000, `${took} ms`);
  assert.throws(() => tokenizer.encode('a'.repeat(10 ** 7)), (e: Error) => e instanceof ArgumentError);
});

faults.run();

const settings = suite('tokenizer_config.json and its companions');

const llama = (change: object = {}): object => ({
  added_tokens: [{ id: 6, content: '</s>', special: true }],
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
  model: { type: 'BPE', vocab: { a: 0, '<': 1, '>': 2, Ġ: 3, 'Ġa': 4, i: 5 }, merges: ['Ġ a'] },
  ...change,
});
const eos = { eos_token: '</s>' };

settings('a token that stands only in added_tokens_decoder, in added_tokens.json or among the special ones', () => {
  const image = { '7': { content: '<i>', special: true } };
  assert.equal(Tokenizer.fromJSON(llama(), eos).encode('<i>a'), [1, 5, 2, 0]);
  assert.equal(Tokenizer.fromJSON(llama(), { ...eos, added_tokens_decoder: image }).encode('<i>a'), [7, 0]);
  const older = Tokenizer.fromJSON(llama(), eos, { addedTokens: { '<i>': 7 }, specialTokensMap: { pad_token: '<i>' } });
  assert.equal([older.encode('<i>a'), older.padId, older.size], [[7, 0], 7, 8]);
  for (const key of ['additional_special_tokens', 'extra_special_tokens']) {
    for (const value of [['i'], [{ content: 'i' }], { image_token: 'i' }]) {
      const special = Tokenizer.fromJSON(llama(), { ...eos, [key]: value });
      assert.equal([special.specialTokens, special.decode([0, 5, 0])], [['</s>', 'i'], 'a a']);
      assert.ok(special.controlIds.has(5));
    }
  }
  assert.equal(Tokenizer.fromJSON(llama(), { ...eos, bos_token: 'i', add_bos_token: true }).encode('a', { addSpecial: true }), [5, 0]);
  const rstrip = { '6': { content: '</s>', special: true, rstrip: true } };
  assert.equal(Tokenizer.fromJSON(llama(), { ...eos, added_tokens_decoder: rstrip }).encode('</s> a'), [6, 0]);
});

settings('add_prefix_space and the switches of BERT change what the Python library changes', () => {
  assert.equal(Tokenizer.fromJSON(llama(), eos).encode('a'), [0]);
  assert.equal(Tokenizer.fromJSON(llama(), { ...eos, add_prefix_space: true }).encode('a'), [4]);
  const cased = llama({ normalizer: { type: 'BertNormalizer', lowercase: false, clean_text: true, handle_chinese_chars: true } });
  assert.equal(Tokenizer.fromJSON(cased, eos).encode('A'), []);
  assert.equal(Tokenizer.fromJSON(cased, { ...eos, do_lower_case: true }).encode('A'), [0]);
});

settings('contradictions are errors that name both', () => {
  const metaspace = { pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' } };
  const cases: [object, object, object, RegExp][] = [
    [{}, { added_tokens_decoder: { '0': { content: '<i>' } } }, {}, /"a" and added token "<i>" both have id 0/],
    [{}, { added_tokens_decoder: { '9': { content: '</s>' } } }, {}, /added token "<\/s>" has ids 6 and 9/],
    [{}, { added_tokens_decoder: { x: { content: '<i>' } } }, {}, /added_tokens_decoder\["x"\] has id "x"/],
    [{}, { additional_special_tokens: ['<i>'] }, {}, /additional_special_tokens "<i>" is not in tokenizer.json; add it/],
    [{}, {}, { specialTokensMap: { eos_token: 'a' } }, /eos_token is "<\/s>", but in special_tokens_map.json it is "a"/],
    [{}, {}, { addedTokens: { '</s>': 9 } }, /"<\/s>" has ids 6 and 9/],
    [metaspace, { add_prefix_space: false }, {}, /add_prefix_space is false, but tokenizer.json puts a space/],
    [{ pre_tokenizer: null }, { add_prefix_space: true }, {}, /add_prefix_space is true, but tokenizer.json does not put/],
    [{}, { do_lower_case: true }, {}, /do_lower_case is true, but tokenizer.json's normalizer lacks Lowercase/],
    [{}, { split_special_tokens: true }, {}, /split_special_tokens is true, which is not supported/],
    [{}, { auto_map: { AutoTokenizer: ['x.X', null] } }, {}, /auto_map names a tokenizer with code of its own/],
    [{ post_processor: { type: 'BertProcessing', sep: ['x', 99], cls: ['a', 0] } }, {}, {}, /post_processor puts id 99/],
  ];
  for (const [file, conf, older, says] of cases) {
    assert.throws(
      () => Tokenizer.fromJSON(llama(file), { ...eos, ...conf }, older),
      (e: Error) => e instanceof TokenizerError && says.test(e.message),
      String(says),
    );
  }
});

settings.run();

const streams = suite('streaming');

streams('a blank that decoding the whole keeps', () => {
  const vocab = Object.fromEntries(['▁', '▁▁lead', '▁lead', '▁the', 'x'].map((t, i) => [t, i]));
  const json = (decoder: object): object => ({
    added_tokens: [{ id: 9, content: '</s>', special: true }],
    decoder,
    model: { type: 'BPE', vocab, merges: [] },
  });
  const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
  const spaces = { type: 'Replace', pattern: { String: '▁' }, content: ' ' };
  const llamas = { type: 'Sequence', decoders: [spaces, { type: 'ByteFallback' }, { type: 'Fuse' }, strip] };
  const cases: [object, number[], string][] = [
    [{ type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' }, [0, 2, 3], ' lead the'],
    [{ type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' }, [1, 9, 3], '  lead the'],
    [llamas, [0, 2], ' lead'],
    [llamas, [1, 3], ' lead the'],
    [llamas, [4, 0, 0, 1], 'x    lead'],
  ];
  for (const [decoder, ids, want] of cases) {
    const tokenizer = Tokenizer.fromJSON(json(decoder), { eos_token: '</s>' });
    assert.is(tokenizer.decode(ids), want);
    assert.is(streamed(tokenizer, ids).join(''), want);
  }
});

streams.run();

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
