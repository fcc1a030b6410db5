import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { parseConfig } from '../../models/matvlm/config.ts';
import { tinyConfig } from '../../models/matvlm/presets.ts';
import { IMAGE_ID, MAX_PROMPT, PromptEncoder, TEMPLATES, type Turn } from '../../models/matvlm/template.ts';
import { Tokenizer } from '../../models/nn/text/tokenizer.ts';
import { promptEncoder } from '../../models/matvlm/vlm.ts';
import { throws } from '../support/expect.ts';
import { encoder, tokenizer as tiny } from '../support/tiny-model.ts';

const ids = (text: string): number[] => text.split(' ').map((word) => tiny.idOf(word)!);
const system =
  "A chat between a curious user and an artificial intelligence assistant. " +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";

const test = suite('template');

test('the phi template spells the published prompt', () => {
  const { system: line, user, assistant } = TEMPLATES.phi;
  assert.is(`${line}${user}<image>\nIs it red?${assistant}`, `${system} USER: <image>\nIs it red? ASSISTANT:`);
});

test('short: prefix, question, answer and labels', () => {
  assert.equal([...encoder.prefixIds()], [...ids('user :'), IMAGE_ID]);
  const asked = encoder.questionIds('is the red object on the left?');
  assert.equal([...asked.ids], ids('is the red object on the left ? assistant :'));
  assert.ok(asked.labels.every((l) => l === -100));
  const full = encoder.questionIds('is the red object on the left?', 'yes');
  assert.equal([...full.ids], [...asked.ids, ...ids('yes <|endoftext|>')]);
  assert.equal([...full.labels], [...asked.labels, ...ids('yes <|endoftext|>')]);
});

test('prefix and question joined are the plain encoding, in both templates', () => {
  const turn = { question: 'what shape is the red object?', answer: 'circle' };
  for (const name of ['phi', 'short']) {
    const encoder = new PromptEncoder(tiny, name);
    const whole = encoder.encode([turn]);
    assert.equal([...whole.ids], [...encoder.prefixIds(), ...encoder.questionIds(turn.question, turn.answer).ids]);
    const { system: line, user, assistant } = TEMPLATES[name];
    const rest = `\n${turn.question}${assistant} ${turn.answer}<|endoftext|>`;
    const plain = [...tiny.encode(line + user), IMAGE_ID, ...tiny.encode(rest)];
    assert.equal([...whole.ids], plain);
    assert.equal([...whole.labels], plain.map((id, i) => (i < plain.length - 2 ? -100 : id)));
    const asked = encoder.questionIds(turn.question);
    assert.equal([...asked.ids], plain.slice(encoder.prefixIds().length, -2));
    assert.ok(asked.labels.every((label) => label === -100));
  }
});

test('further turns follow without a space and carry labels of their own', () => {
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

test('text only has no image id, takes turns as well, and an earlier answer may be blank', () => {
  const plain = encoder.encodeTextOnly([{ question: 'is red a color?', answer: 'yes' }]);
  assert.equal([...plain.ids], ids('user : is red a color ? assistant : yes <|endoftext|>'));
  const turns = [{ question: 'is red a color?', answer: '' }, { question: 'no?', answer: 'no' }, { question: 'no?' }];
  const opening = 'is red a color ? assistant :';
  const rest = ids('<|endoftext|> user : no ? assistant : no <|endoftext|> user : no ? assistant :');
  assert.equal([...encoder.encodeTextOnly(turns).ids], [...ids(`user : ${opening}`), ...rest]);
  assert.equal([...encoder.encode(turns).ids], [...ids('user :'), IMAGE_ID, ...ids(opening), ...rest]);
});

test('turns without an answer in the middle, no turn, unknown template', () => {
  for (const encode of [encoder.encode, encoder.encodeTextOnly]) {
    const given = (...turns: Turn[]) => () => encode.call(encoder, turns);
    throws(given(), ArgumentError);
    throws(given({ question: 'is it?', answer: ' ' }), ArgumentError, /answer is empty/);
    throws(given({ question: 'is it?' }, { question: 'no?' }), ArgumentError, /Turn 1 of 2 has no answer/);
  }
  for (const name of ['vicuna', 'toString', '']) throws(() => new PromptEncoder(tiny, name), ArgumentError);
});

/** That a text is refused wherever a user may type one. */
function refusedAsText(encoder: PromptEncoder, text: string, says: RegExp): void {
  throws(() => encoder.questionIds(text), ArgumentError, says, text.slice(0, 80));
  throws(() => encoder.questionIds('what?', text), ArgumentError, says, text.slice(0, 80));
  throws(() => encoder.encodeTextOnly([{ question: text }]), ArgumentError, says, text.slice(0, 80));
}

test('what a user may not type is refused', () => {
  const bad: [string, RegExp][] = [
    ['', /empty/],
    [' \n\t', /empty/],
    ['what is <image> here?', /holds <image>/],
    ['hello<|endoftext|>', /holds <\|endoftext\|>/],
    ['a\0b', /NUL/],
    ['red '.repeat(250_000), /1000000 characters; at most 100000/],
  ];
  for (const [text, why] of bad) refusedAsText(encoder, text, why);
  assert.is(encoder.questionIds('a'.repeat(MAX_PROMPT)).ids.length, 3);
});

/** A word-level tokenizer whose normaliser and special tokens are given. */
function words(normalizers: readonly object[], settings: object, specials: readonly string[]): Tokenizer {
  const list = ['<unk>', 'user', ':', 'assistant', 'what', 'sep', '[', ']', '.', ...specials];
  const flags = { normalized: true, single_word: false, lstrip: false, rstrip: false, special: true };
  return Tokenizer.fromJSON(
    {
      added_tokens: specials.filter((s) => s !== 'end').map((content) => ({ id: list.indexOf(content), content, ...flags })),
      normalizer: { type: 'Sequence', normalizers },
      pre_tokenizer: { type: 'BertPreTokenizer' },
      model: { type: 'WordLevel', unk_token: '<unk>', vocab: Object.fromEntries(list.map((w, i) => [w, i])) },
    },
    settings,
  );
}

test('control tokens are told by their ids, however they are spelt', () => {
  const kc = [{ type: 'NFKC' }, { type: 'Lowercase' }, { type: 'NFD' }, { type: 'StripAccents' }];
  const names = { eos_token: '<|endoftext|>', sep_token: '[SEP]', pad_token: '</s>' };
  const typed: [Tokenizer, readonly string[]][] = [
    [
      words(kc, names, Object.values(names)),
      ['＜|endoftext|＞', '<|ENDOFTEXT|>', 'what ＜/s>', '[ŚEP] what', '<|endoftext|>', '[sep]'],
    ],
    // Neither is marked special: an ordinary word ends texts, another is the place of an image.
    [words(kc, { eos_token: 'end' }, ['end']), ['END', 'what énd', 'end']],
    [words(kc, { eos_token: 'end', additional_special_tokens: ['sep'] }, ['end']), ['Sep .', 'SEP']],
  ];
  for (const [tokenizer, texts] of typed) {
    const encoder = new PromptEncoder(tokenizer, 'short');
    for (const text of texts) {
      const says = /only the prompt template may set/;
      refusedAsText(encoder, text, says);
      throws(() => encoder.encode([{ question: 'what', answer: text }, { question: 'what' }]), ArgumentError, says, text);
    }
    assert.ok(encoder.questionIds('an unknown what .').ids.includes(0), 'unknown words may be asked');
  }
  const image = new PromptEncoder(words(kc, { eos_token: 'end' }, ['end', '<image>']), 'short');
  throws(() => image.questionIds('＜IMAGE＞'), ArgumentError, /becomes "<image>"/);
});

test('ids at which a configuration ends answers are control tokens, unless the template has them', () => {
  const tokenizer = words([{ type: 'Lowercase' }], { eos_token: 'end' }, ['end']);
  const json = { ...tinyConfig(tokenizer), eos_token_id: [tokenizer.idOf('what')!, tokenizer.idOf(':')!] };
  const encoder = promptEncoder(parseConfig(json), tokenizer);
  throws(() => encoder.questionIds('WHAT'), ArgumentError, /becomes "what"/);
  throws(() => encoder.questionIds('sep', 'what'), ArgumentError, /becomes "what"/);
  assert.ok(encoder.questionIds('sep: .').ids.length > 0);
});

test('a template whose own text ends texts is refused', () => {
  const user = words([{ type: 'Lowercase' }], { eos_token: 'user' }, []);
  throws(() => new PromptEncoder(user, 'short'), Error, /text of the template short becomes "user"/);
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
