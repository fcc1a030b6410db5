import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { TokenizerError } from '../../models/nn/errors.ts';
import { easyVqaTexts } from '../../models/matvlm/data/easy-vqa.ts';
import { SortOfClevr, sortOfClevrTexts } from '../../models/matvlm/data/sort-of-clevr.ts';
import { tinyTokenizer, tokenizerFileTexts } from '../../models/matvlm/data/word-tokenizer.ts';
import { BYTES } from '../../models/nn/text/tokenizer/bytes.ts';
import { makeDecoder } from '../../models/nn/text/tokenizer/decoders.ts';
import { Effort } from '../../models/nn/text/tokenizer/effort.ts';
import { makeNormalizer } from '../../models/nn/text/tokenizer/normalizers.ts';
import { makePreTokenizer } from '../../models/nn/text/tokenizer/pre-tokenizers.ts';
import { MAX_TEXT, Tokenizer } from '../../models/nn/text/tokenizer.ts';
import { throws } from '../support/expect.ts';
import { tokenizer as tiny } from '../support/tiny-model.ts';

const assets = 'models/matvlm/assets/tiny-tokenizer';
const phiFolder = '../shared/data/tokenizers/phi-2';

/** Work that grows with the square of a text would take 64 times as long for one that is 8 times as long. */
function growsAsItsText(work: (length: number) => void): void {
  const [short, long] = [MAX_TEXT / 8, MAX_TEXT].map((length) => {
    const begun = process.cpuUsage();
    work(length);
    return process.cpuUsage(begun).user / 1000;
  });
  assert.ok(long < 24 * Math.max(short, 1), `${long} ms, and ${short} ms for an eighth of the text`);
}

function streamed(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const stream = tokenizer.stream();
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

const words = suite('word tokenizer');

words('the shipped files are what the function makes', () => {
  for (const [name, text] of Object.entries(tokenizerFileTexts(tinyTokenizer()))) {
    assert.is(readFileSync(join(assets, name), 'utf8'), text, `${name}: rewrite it as tokenizerFileTexts(tinyTokenizer()) has it`);
  }
});

words('knows every question and answer of both sets, gives them back word for word, answers in one token', () => {
  const asked = [0, 1, 2].flatMap((i) => new SortOfClevr('train').get(i).questions.map((q) => q.question));
  for (const text of [...sortOfClevrTexts(), ...easyVqaTexts(), ...asked]) {
    const ids = tiny.encode(text);
    assert.not.ok(ids.includes(tiny.idOf('<unk>')!), text);
    assert.is(tiny.decode(ids), text);
    assert.is(streamed(tiny, ids).join(''), text);
  }
  const answers = ['circle', 'square', 'yes', 'no', 'one', 'six', 'rectangle', 'teal'];
  for (const answer of answers) assert.is(tiny.encode(answer).length, 1, answer);
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
  throws(() => tiny.decode([-200]), ArgumentError, /-200/);
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

const vocabulary = (vocab: object) => bpe({}, { vocab });
const added = (...added_tokens: object[]) => bpe({ added_tokens });
const magic = { type: 'Magic' };
const nested = `{"model":${'{"a":'.repeat(200_000)}1${'}'.repeat(200_001)}`;

const BROKEN: [says: RegExp, file: unknown, settings?: object][] = [
  [/tokenizer.json: no valid JSON/, '{"model":'],
  [/expected a JSON object/, []],
  [/no model/, {}],
  [/"Magic" is not one of BPE/, bpe({}, magic)],
  [/pre_tokenizer type "Magic" is not supported; supported are Bert/, bpe({ pre_tokenizer: magic })],
  [/normalizer type "Magic" is not supported/, bpe({ normalizer: magic })],
  [/decoder type "Magic" is not supported/, bpe({ decoder: magic })],
  [/tokenizer.json: /, bpe({ decoder: { type: 'Replace' } })],
  [/needs model.merges/, bpe({}, { merges: undefined })],
  [/merges\[0\]/, bpe({}, { merges: ['ab'] })],
  [/merges\[1\]/, bpe({}, { merges: ['a b', 'a b a'] })],
  [/merges\[0\]/, bpe({}, { merges: [7] })],
  [/merges\[0\] needs "ba"/, bpe({}, { merges: ['b a'] })],
  [/both have id 0/, vocabulary({ a: 0, b: 0, ab: 2, abab: 3 })],
  [/id 2147483648/, vocabulary({ a: 0, b: 1, ab: 2, abab: 2 ** 31 })],
  [/id -1/, vocabulary({ a: -1 })],
  [/id 0.5/, vocabulary({ a: 0.5 })],
  [/the token "a" has id \{"toString": 1\}; expected an integer/, vocabulary({ a: { toString: 1 } })],
  [/the token "xxx/, vocabulary({ ['x'.repeat(1e7)]: -1 })],
  [/empty/, bpe({}, { vocab: {}, merges: [] })],
  [/must be an object/, vocabulary(['a'])],
  [/both have id 1/, added({ id: 1, content: '<eos>' })],
  [/ids 0 and 9/, added({ id: 9, content: 'a' })],
  [/added_tokens\[0\]/, added({ id: 9 })],
  [/added_tokens\[0\] has id \{/, added({ id: { toString: 1 }, content: 'x' })],
  [/has 10000000 characters/, added({ id: 4, content: '<eos>' }, { id: 5, content: 'x'.repeat(1e7) })],
  [/no eos_token/, bpe(), {}],
  [/"<end>" is not in/, bpe(), { eos_token: '<end>' }],
  [/eos_token is 4; it must be/, bpe(), { eos_token: 4 }],
  [/unk_token/, { model: { type: 'WordLevel', vocab: { a: 0 } } }, { eos_token: 'a' }],
  [/vocab\[0\]/, { model: { type: 'Unigram', vocab: [['a']] } }, { eos_token: 'a' }],
  [/length is 0; expected a whole number from 1/, bpe({ pre_tokenizer: { type: 'FixedLength', length: 0 } })],
  [/Lowercase: unknown field "locale"/, bpe({ normalizer: { type: 'Lowercase', locale: 'tr' } })],
  [/"Precompiled" is not supported \(it is/, bpe({ normalizer: { type: 'Precompiled', precompiled_charsmap: '' } })],
  [/dropout is 0.1, which is not supported/, bpe({}, { dropout: 0.1 })],
  [/continuing_subword_prefix is "##"/, bpe({}, { continuing_subword_prefix: '##' })],
  [/nested deeper than 100/, nested],
];
faults('are told by what is wrong in them', () => {
  for (const [says, file, settings = config] of BROKEN) throws(() => Tokenizer.fromJSON(file, settings), TokenizerError, says);
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

const sequence = (kind: string, count: number, step: object) => ({ type: 'Sequence', [kind]: Array(count).fill(step) });
const TOO_MUCH = /too many steps|characters of this text/;

faults('no file makes a text take without end', () => {
  const doubling = { type: 'Replace', pattern: { String: 'a' }, content: 'aa' };
  const long = { type: 'Replace', pattern: { String: 'a' }, content: 'b'.repeat(5e5) };
  const slow = { type: 'Replace', pattern: { Regex: '(?:a|a){17}b' }, content: '' };
  const encoding: [parts: object, text: string][] = [
    [split('(a|a)*b'), 'a'.repeat(100)],
    [split('a+b'), 'a'.repeat(MAX_TEXT)],
    [split('(?:(?=(?:a|a)+c)a)+'), 'a'.repeat(100)],
    [{ normalizer: sequence('normalizers', 30, doubling) }, 'aaa'],
    [{ normalizer: long }, 'aaa'],
    [{ normalizer: sequence('normalizers', 20_000, { type: 'NFKC' }) }, 'a'.repeat(MAX_TEXT)],
    [{ pre_tokenizer: sequence('pretokenizers', 30, { type: 'ByteLevel', use_regex: false }) }, 'é'],
  ];
  for (const [parts, text] of encoding) throws(() => bytes(parts).encode(text), ArgumentError, TOO_MUCH);
  const decoding: [step: object, count: number, token: string][] = [[doubling, 30, 'aa'], [slow, 5000, 'a'.repeat(20)]];
  for (const [step, count, content] of decoding) {
    const tokenizer = bytes({ decoder: sequence('decoders', count, step) }, { id: 257, content });
    throws(() => tokenizer.decode([257]), ArgumentError, TOO_MUCH);
  }
});

faults('no file takes without end to be made, and patterns that cannot be matched here are refused by name', () => {
  const patterns = ['((?:){999999999}){999999999}', '(?=a{9000}){9000}', '(?>(?>a{100}){100}){100}', 'a{0,1000000000}'];
  for (const pattern of patterns) {
    throws(() => bytes(split(pattern)), TokenizerError, /the pattern repeats too much/, pattern);
  }
  const many = { normalizer: sequence('normalizers', 100_000, { type: 'NFC' }) };
  throws(() => bytes(many), TokenizerError, /normalizer has \d+ characters, expected at most/);
  const unknown = ['(a)\\1', '\\Ga', '\\X', '(?:a*)*', '(?<=a+)b', 'a{2}{3}', 'a**', '(', ')', '[a', '*', '(?~a)', '(?i:ß)'];
  for (const pattern of [...unknown, '('.repeat(500)]) throws(() => bytes(split(pattern)), TokenizerError, '', pattern);
});

faults('an unknown character where the unknown token is not in the vocabulary', () => {
  const tokenizer = Tokenizer.fromJSON(bpe({}, { unk_token: '<unk>' }), config);
  assert.equal(tokenizer.encode('ab'), [2]);
  throws(() => tokenizer.encode('ax'), ArgumentError, /unknown/);
});

faults('many newlines in a Unigram model', () => {
  const json = {
    added_tokens: [{ id: 3, content: '</s>', special: true }],
    model: { type: 'Unigram', unk_id: 0, vocab: [['<unk>', 0], ['a', -1], ['aa', -1.5]] },
  };
  const unigram = Tokenizer.fromJSON(json, { eos_token: '</s>' });
  growsAsItsText((length) => assert.equal(unigram.encode('\n'.repeat(length)), [0]));
  assert.equal(unigram.encode('aa\n\na'), [2, 0, 1]);
});

faults('a long word is taken, a longer text refused', () => {
  const tokenizer = Tokenizer.fromJSON(bpe(), config);
  growsAsItsText((length) => assert.is(tokenizer.encode('ab'.repeat(length / 2)).length, length / 4));
  throws(() => tokenizer.encode('a'.repeat(10 ** 7)), ArgumentError);
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
  const made = (conf: object = {}, ...older: object[]) => Tokenizer.fromJSON(llama(), { ...eos, ...conf }, ...older);
  const image = { '7': { content: '<i>', special: true } };
  assert.equal(made().encode('<i>a'), [1, 5, 2, 0]);
  assert.equal(made({ added_tokens_decoder: image }).encode('<i>a'), [7, 0]);
  const older = made({}, { addedTokens: { '<i>': 7 }, specialTokensMap: { pad_token: '<i>' } });
  assert.equal([older.encode('<i>a'), older.padId, older.size], [[7, 0], 7, 8]);
  for (const key of ['additional_special_tokens', 'extra_special_tokens']) {
    for (const value of [['i'], [{ content: 'i' }], { image_token: 'i' }]) {
      const special = made({ [key]: value });
      assert.equal([special.specialTokens, special.decode([0, 5, 0])], [['</s>', 'i'], 'a a']);
      assert.ok(special.controlIds.has(5));
    }
  }
  assert.equal(made({ bos_token: 'i', add_bos_token: true }).encode('a', { addSpecial: true }), [5, 0]);
  const rstrip = { '6': { content: '</s>', special: true, rstrip: true } };
  assert.equal(made({ added_tokens_decoder: rstrip }).encode('</s> a'), [6, 0]);
});

settings('add_prefix_space and the switches of BERT change what the Python library changes', () => {
  const bert = { type: 'BertNormalizer', lowercase: false, clean_text: true, handle_chinese_chars: true };
  const cased = { normalizer: bert };
  const rows: [file: object, conf: object, text: string, ids: number[]][] = [
    [{}, {}, 'a', [0]],
    [{}, { add_prefix_space: true }, 'a', [4]],
    [cased, {}, 'A', []],
    [cased, { do_lower_case: true }, 'A', [0]],
  ];
  for (const [file, conf, text, ids] of rows) {
    assert.equal(Tokenizer.fromJSON(llama(file), { ...eos, ...conf }).encode(text), ids);
  }
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
    throws(() => Tokenizer.fromJSON(llama(file), { ...eos, ...conf }, older), TokenizerError, says);
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
    const tokenizer = Tokenizer.fromJSON(json(decoder), eos);
    assert.is(tokenizer.decode(ids), want);
    assert.is(streamed(tokenizer, ids).join(''), want);
  }
});

streams.run();

const phi = suite('Phi-2 tokenizer');
const read = (name: string): string => readFileSync(join(phiFolder, name), 'utf8');
if (existsSync(phiFolder)) {
  const tokenizer = Tokenizer.fromJSON(read('tokenizer.json'), read('tokenizer_config.json'));

  phi('all public vectors, and the ids', () => {
    assert.equal([tokenizer.eosId, tokenizer.bosId, tokenizer.padId, tokenizer.size], [50256, 50256, 50256, 50295]);
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

  phi('decode(encode(x)) is x, and any ids streamed join to what decode gives', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), fc.array(fc.nat(50294), { maxLength: 40 }), (text, any) => {
        assert.is(tokenizer.decode(tokenizer.encode(text)), text);
        for (const ids of [tokenizer.encode(text), any]) assert.is(streamed(tokenizer, ids).join(''), tokenizer.decode(ids));
      }),
      { numRuns: 300, seed: 1 },
    );
  });

  phi('a lone surrogate is taken as U+FFFD, and the longest text in one word', () => {
    assert.is(tokenizer.decode(tokenizer.encode('a\ud800b')), 'a\ufffdb');
    growsAsItsText((length) => assert.ok(tokenizer.encode('a'.repeat(length)).length > 0));
  });
} else {
  console.log(`Skipped: ${phiFolder} with the Phi-2 tokenizer and its vectors is absent.`);
}
phi.run();

/** A component or a tokenizer of a file, and what the Rust library makes of texts with it (test/tokenizers/make.py). */
interface Entry {
  readonly json: Record<string, unknown>;
  readonly cases: readonly (readonly [input: never, ...want: unknown[]])[];
}

const COMPONENTS: Record<string, (json: Entry['json']) => (input: never) => unknown[]> = {
  normalizers: (json) => {
    const normalize = makeNormalizer(json);
    return (text) => [normalize(text, new Effort())];
  },
  preTokenizers: (json) => {
    const split = makePreTokenizer(json);
    return (text) => [split({ text, first: true }, new Effort()).map((piece) => piece.text)];
  },
  decoders: (json) => {
    const make = makeDecoder(json);
    return (tokens: string[]) => {
      const sink = make();
      return [tokens.map((token) => sink.push(token)).join('') + sink.end()];
    };
  },
  tokenizers: (json) => {
    const end = { id: 999, content: '<an end that no text holds>', special: true };
    const added = [...(json.added_tokens as object[]), end];
    const tokenizer = Tokenizer.fromJSON({ ...json, added_tokens: added }, { eos_token: end.content });
    return (text) => {
      const ids = tokenizer.encode(text);
      const around = tokenizer.encode(text, { addSpecial: true });
      return [ids, around, tokenizer.decode(ids), tokenizer.decode(ids, { skipSpecial: false })];
    };
  },
};

const rust = suite('as the Rust library');
const entries = JSON.parse(readFileSync('test/tokenizers/cases.json', 'utf8')) as Record<string, readonly Entry[]>;
for (const [kind, make] of Object.entries(COMPONENTS)) {
  entries[kind].forEach(({ json, cases }, i) => {
    rust(`${kind} ${i}: ${JSON.stringify(json).slice(0, 100)}`, () => {
      const made = make(json);
      for (const [input, ...want] of cases) assert.equal(made(input), want, JSON.stringify(input));
    });
  });
}
rust.run();
