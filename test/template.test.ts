import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../engine/errors.ts';
import { parseConfig } from '../models/matvlm/config.ts';
import { tinyConfig } from '../models/matvlm/presets.ts';
import { IMAGE_ID, MAX_PROMPT, PromptEncoder, TEMPLATES } from '../models/matvlm/template.ts';
import { Tokenizer } from '../models/nn/text/tokenizer.ts';
import { promptEncoder } from '../models/matvlm/vlm.ts';
import { tinyTokenizer } from '../models/matvlm/data/word-tokenizer.ts';

const { tokenizer: json, config } = tinyTokenizer();
const tiny = Tokenizer.fromJSON(json, config);
const ids = (text: string): number[] => text.split(' ').map((word) => tiny.idOf(word)!);
const system =
  "A chat between a curious user and an artificial intelligence assistant. " +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";

const test = suite('template');

test('the phi template spells the published prompt', () => {
  const { system: line, user, assistant } = TEMPLATES.phi;
  const prompt = `${line}${user}<image>\nIs it red?${assistant}`;
  assert.is(prompt, `${system} USER: <image>\nIs it red? ASSISTANT:`);
});

test('short: prefix, question, answer and labels', () => {
  const encoder = new PromptEncoder(tiny, 'short');
  assert.equal([...encoder.prefixIds()], [...ids('user :'), IMAGE_ID]);
  const asked = encoder.questionIds('is the red object on the left?');
  assert.equal([...asked.ids], ids('is the red object on the left ? assistant :'));
  assert.ok(asked.labels.every((l) => l === -100));
  const full = encoder.questionIds('is the red object on the left?', 'yes');
  assert.equal([...full.ids], [...asked.ids, ...ids('yes <|endoftext|>')]);
  assert.equal([...full.labels], [...asked.labels, ...ids('yes <|endoftext|>')]);
});

test('prefix and question joined are the plain encoding, in both templates', () => {
  for (const name of ['phi', 'short']) {
    const encoder = new PromptEncoder(tiny, name);
    const { ids: prefix } = { ids: [...encoder.prefixIds()] };
    const question = encoder.questionIds('what shape is the red object?', 'circle');
    const whole = encoder.encode([{ question: 'what shape is the red object?', answer: 'circle' }]);
    assert.equal([...whole.ids], [...prefix, ...question.ids]);
    const { system: line, user, assistant } = TEMPLATES[name];
    const plain = [
      ...tiny.encode(line + user),
      IMAGE_ID,
      ...tiny.encode(`\nwhat shape is the red object?${assistant} circle<|endoftext|>`),
    ];
    assert.equal([...whole.ids], plain);
    assert.equal([...whole.labels], plain.map((id, i) => (i < plain.length - 2 ? -100 : id)));
  }
});

test('further turns follow without a space and carry labels of their own', () => {
  const encoder = new PromptEncoder(tiny, 'short');
  const { ids: got, labels } = encoder.encode([
    { question: 'what color?', answer: 'red' },
    { question: 'is it red?', answer: 'yes' },
    { question: 'no?' },
  ]);
  const want = [
    ...ids('user :'), IMAGE_ID, ...ids('what color ? assistant : red <|endoftext|>'),
    ...ids('user : is <unk> red ? assistant : yes <|endoftext|>'), ...ids('user : no ? assistant :'),
  ];
  assert.equal([...got], want);
  const learnt = want.filter((_, i) => labels[i] !== -100);
  assert.equal(learnt, ids('red <|endoftext|> yes <|endoftext|>'));
  assert.ok(labels.every((l, i) => l === -100 || l === got[i]));
});

test('text only has no image id', () => {
  const got = new PromptEncoder(tiny, 'short').encodeTextOnly([{ question: 'is red a color?', answer: 'yes' }]);
  assert.equal([...got.ids], ids('user : is red a color ? assistant : yes <|endoftext|>'));
});

test('text only takes turns as well, and an earlier answer may be blank', () => {
  const encoder = new PromptEncoder(tiny, 'short');
  const turns = [{ question: 'is red a color?', answer: '' }, { question: 'no?', answer: 'no' }, { question: 'no?' }];
  const opening = 'is red a color ? assistant :';
  const rest = ids('<|endoftext|> user : no ? assistant : no <|endoftext|> user : no ? assistant :');
  assert.equal([...encoder.encodeTextOnly(turns).ids], [...ids(`user : ${opening}`), ...rest]);
  assert.equal([...encoder.encode(turns).ids], [...ids('user :'), IMAGE_ID, ...ids(opening), ...rest]);
  for (const encode of [encoder.encode, encoder.encodeTextOnly]) {
    assert.throws(() => encode.call(encoder, [{ question: 'is it?', answer: ' ' }]), /answer is empty/);
    assert.throws(() => encode.call(encoder, [{ question: 'is it?' }, { question: 'no?' }]), /Turn 1 of 2 has no answer/);
  }
});

test('what a user may not type is refused', () => {
  const encoder = new PromptEncoder(tiny, 'short');
  const bad: [string, RegExp][] = [
    ['', /empty/],
    [' \n\t', /empty/],
    ['what is <image> here?', /holds <image>/],
    ['hello<|endoftext|>', /holds <\|endoftext\|>/],
    ['a\0b', /NUL/],
    ['red '.repeat(250_000), /1000000 characters; at most 100000/],
  ];
  for (const [text, why] of bad) {
    const refused = (e: Error): boolean => e instanceof ArgumentError && why.test(e.message);
    assert.throws(() => encoder.questionIds(text), refused);
    assert.throws(() => encoder.questionIds('what?', text), refused);
    assert.throws(() => encoder.encodeTextOnly([{ question: text }]), refused);
  }
  assert.is(encoder.questionIds('a'.repeat(MAX_PROMPT)).ids.length, 3);
});

/** A word-level tokenizer whose normaliser and special tokens are given. */
function words(normalizers: readonly object[], settings: object, specials: readonly string[]): Tokenizer {
  const list = ['<unk>', 'user', ':', 'assistant', 'what', 'sep', '[', ']', '.', ...specials];
  const flags = { normalized: false, single_word: false, lstrip: false, rstrip: false };
  const marked = specials.filter((s) => s !== 'end').map((content) => ({ id: list.indexOf(content), content, special: true, ...flags, normalized: true }));
  return Tokenizer.fromJSON(
    {
      added_tokens: marked,
      normalizer: { type: 'Sequence', normalizers },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      model: { type: 'WordLevel', unk_token: '<unk>', vocab: Object.fromEntries(list.map((w, i) => [w, i])) },
    },
    settings,
  );
}

test('control tokens are told by their ids, however they are spelt', () => {
  const kc = [{ type: 'NFKC' }, { type: 'Lowercase' }, { type: 'NFD' }, { type: 'StripAccents' }];
  const typed: [Tokenizer, readonly string[]][] = [
    [
      words(kc, { eos_token: '<|endoftext|>', sep_token: '[SEP]', pad_token: '</s>' }, ['<|endoftext|>', '[SEP]', '</s>']),
      ['＜|endoftext|＞', '<|ENDOFTEXT|>', 'what ＜/s>', '[ŚEP] what', '<|endoftext|>', '[sep]'],
    ],
    // Neither is marked special: an ordinary word ends texts, another is the place of an image.
    [words(kc, { eos_token: 'end' }, ['end']), ['END', 'what énd', 'end']],
    [words(kc, { eos_token: 'end', additional_special_tokens: ['what'] }, ['end']), ['What .', 'WHAT']],
  ];
  for (const [tokenizer, texts] of typed) {
    const encoder = new PromptEncoder(tokenizer, 'short');
    for (const text of texts) {
      const refused = (e: Error): boolean => e instanceof ArgumentError && /only the prompt template may set/.test(e.message);
      assert.throws(() => encoder.questionIds(text), refused, text);
      assert.throws(() => encoder.questionIds('sep', text), refused, text);
      assert.throws(() => encoder.encodeTextOnly([{ question: text }]), refused, text);
      assert.throws(() => encoder.encode([{ question: 'sep', answer: text }, { question: 'sep' }]), refused, text);
    }
    assert.ok(encoder.questionIds('an unknown sep .').ids.includes(0), 'unknown words may be asked');
  }
  const image = new PromptEncoder(words(kc, { eos_token: 'end' }, ['end', '<image>']), 'short');
  assert.throws(() => image.questionIds('＜IMAGE＞'), /becomes "<image>"/);
});

test('ids at which a configuration ends answers are control tokens, unless the template has them', () => {
  const tokenizer = words([{ type: 'Lowercase' }], { eos_token: 'end' }, ['end']);
  const json = { ...tinyConfig(tokenizer), eos_token_id: [tokenizer.idOf('what')!, tokenizer.idOf(':')!] };
  const encoder = promptEncoder(parseConfig(json), tokenizer);
  assert.throws(() => encoder.questionIds('WHAT'), /becomes "what"/);
  assert.throws(() => encoder.questionIds('sep', 'what'), /becomes "what"/);
  assert.ok(encoder.questionIds('sep: .').ids.length > 0);
});

test('a template whose own text ends texts is refused', () => {
  const user = words([{ type: 'Lowercase' }], { eos_token: 'user' }, []);
  assert.throws(() => new PromptEncoder(user, 'short'), /text of the template short becomes "user"/);
});

test('turns without an answer in the middle, no turn, unknown template', () => {
  const encoder = new PromptEncoder(tiny, 'short');
  const is = (e: Error): boolean => e instanceof ArgumentError;
  assert.throws(() => encoder.encode([]), is);
  assert.throws(() => encoder.encode([{ question: 'a?' }, { question: 'no?' }]), is);
  for (const name of ['vicuna', 'toString', '']) assert.throws(() => new PromptEncoder(tiny, name), is);
});

const phiFolder = '../shared/data/tokenizers/phi-2';
if (existsSync(phiFolder)) {
  test('the phi template with the tokenizer of Phi-2', () => {
    const read = (name: string): string => readFileSync(join(phiFolder, name), 'utf8');
    const tokenizer = Tokenizer.fromJSON(read('tokenizer.json'), read('tokenizer_config.json'));
    const encoder = new PromptEncoder(tokenizer, 'phi');
    assert.is(tokenizer.decode(encoder.prefixIds().slice(0, -1)), `${system} USER: `);
    assert.is(encoder.prefixIds().at(-1), IMAGE_ID);
    const { ids: got, labels } = encoder.questionIds('What is this?', 'A (small) cat.');
    assert.is(tokenizer.decode(got, { skipSpecial: false }), '\nWhat is this? ASSISTANT: A (small) cat.<|endoftext|>');
    assert.equal([...got], tokenizer.encode('\nWhat is this? ASSISTANT: A (small) cat.<|endoftext|>'));
    const learnt = labels.filter((l) => l !== -100);
    assert.is(tokenizer.decode(learnt, { skipSpecial: false }), ' A (small) cat.<|endoftext|>');
  });
} else {
  console.log(`Skipped: ${phiFolder} with the Phi-2 tokenizer is absent.`);
}

test.run();
