// One's own images in easy-VQA's layout: from a folder to a model that answers, and what is refused on the way.
import { mkdirSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { openDatasets } from '../../models/matvlm/app/node/datasets.ts';
import { encodePng } from '../../models/matvlm/app/node/encode-png.ts';
import { Tokenizer } from '../../models/nn/text/tokenizer.ts';
import { buildTextTokenizer } from '../../models/matvlm/data/word-tokenizer.ts';
import { workplace } from '../support/cli.ts';
import { rejects } from '../support/expect.ts';

const { path, read, write, has, ok, refused } = workplace();

/** Capitals, an apostrophe, and more words than answers of the public sets have. */
const ANSWERS = ['Cat', "a grey dog that's lying quite still in its basket"] as const;

/** An orange disc or a blue square on grey. */
function draw(cat: boolean, shift: number): Promise<Uint8Array> {
  const data = new Uint8Array(16 * 16 * 3).fill(40 + 3 * shift);
  for (let i = 0; i < 256; i++) {
    const [x, y] = [(i % 16) - 6 - (shift % 4), Math.floor(i / 16) - 7];
    const inside = cat ? x * x + y * y < 14 : Math.abs(x) < 3 && Math.abs(y) < 3;
    if (inside) data.set(cat ? [230, 140, 40] : [90, 90, 200], 3 * i);
  }
  return encodePng({ width: 16, height: 16, data });
}

/** Writes a set of 24 images and 8 to test with. */
async function writeSet(name: string, answers: readonly [string, string]): Promise<void> {
  for (const [split, count] of [['train', 24], ['test', 8]] as const) {
    mkdirSync(path(name, split, 'images'), { recursive: true });
    for (let i = 0; i < count; i++) write(`${name}/${split}/images/${i}.png`, await draw(i % 2 === 0, (i * 7) % 11));
    const questions = Array.from({ length: count }, (_, i) => ['Which animal is this?', answers[i % 2], i]);
    write(`${name}/${split}/questions.json`, JSON.stringify(questions));
  }
  write(`${name}/answers.txt`, answers.join('\n'));
}

const own = suite('own images');
own.before(async () => {
  await writeSet('pets', ANSWERS);
  await writeSet('easy-vqa', ['cat', 'dog']);
});

own('words that the tokenizer lacks are an error that names them and the way out', async () => {
  for (const command of ['train --model micro.json', 'distill --teacher teacher']) {
    const says = /error: the tokenizer does not know words of the answers: cat, dog, so that nothing/;
    const { stderr } = await refused(`${command} --data easy-vqa=easy-vqa --batch 4 --steps 5 --backend wasm`, says);
    assert.match(stderr, /warning: the tokenizer does not know 96 of \d+ tokens of the questions .*: Which, animal, this\n/);
    assert.match(stderr, 'npx matvlm tokenizer build my-tokenizer --data easy-vqa=easy-vqa');
  }
  assert.not.ok(has('runs'));
  const { stderr, stdout } = await ok('eval teacher --data easy-vqa=easy-vqa --images 1 --backend wasm');
  assert.match(stderr, /warning: the tokenizer does not know words of the answers: cat: such questions cannot/);
  assert.match(stdout, 'easy-vqa=easy-vqa');
});

own('a tokenizer is built of them, and a model trained with it answers', async () => {
  const build = 'tokenizer build words --data easy-vqa=pets';
  const train = /wrote words: \d+ tokens\ntrain with it: npx matvlm train --tokenizer words --data easy-vqa=pets/;
  assert.match((await ok(build)).stderr, train);
  await refused(build, /words exists already/);
  const flags = '--model micro.json --batch 8 --steps 80 --lr 5e-3 --backend wasm --name pets';
  const { stdout } = await ok(`train --tokenizer words --data easy-vqa=pets ${flags}`);
  const [, share] = /easy-vqa=pets +([\d.]+) %/.exec(stdout)!;
  assert.ok(Number(share) >= 90, `${share} % right`);
  assert.match(read('runs', 'pets', 'report.html'), 'easy-vqa=pets');
  assert.not.match(read('runs', 'pets', 'report.html'), /Published by others|Best published CNN/);
});

own('two sets of one name are refused', async () => {
  const twice = openDatasets([`easy-vqa=${path('pets')}`, `easy-vqa=${path('pets')}/../pets`], 'train');
  await rejects(twice, Error, /are both "easy-vqa=pets"; give one, or rename a folder/);
});
own.run();

const build = suite('tokenizers of texts');

const ODD = [
  ...['New York', "it's 2.5 m", 'T-shirt', "l'été", 'cafe\u0301', '猫です', '👩‍👩‍👧 ok', 'a_b', '(none)', '50 %'],
  ...['ΣΑΣ', 'İx', '__proto__', 'constructor', '2'],
];

// The reference library lowers letter by letter, so that no sigma is a final one.
const lower = (text: string): string => text.replaceAll('Σ', 'σ').toLowerCase();

const made = (...given: Parameters<typeof buildTextTokenizer>): Tokenizer => {
  const { tokenizer, config } = buildTextTokenizer(...given);
  return Tokenizer.fromJSON(tokenizer, config);
};

build('give back every answer as it is, and know every word', () => {
  for (const lowercase of [false, true]) {
    const tokenizer = made({ questions: ['What is  it?'], answers: ODD, lowercase });
    for (const answer of ODD) {
      assert.not.ok(tokenizer.encode(`\nWhat is it? ASSISTANT: ${answer}`).includes(tokenizer.unkId!), answer);
      assert.is(tokenizer.decode(tokenizer.encode(` ${answer}`)).trim(), lowercase ? lower(answer) : answer);
    }
    assert.ok(tokenizer.encode(' never').includes(tokenizer.unkId!));
  }
});

/** Ids and decoded texts by Hugging Face's own library (npm tokenizers 0.23.2, which is the one in Rust). */
const REFERENCE: readonly (readonly [text: string, ids: number[], decoded: string])[] = [
  ['USER: ', [35, 32, 2], 'USER: '],
  ['\nWhat is it? ASSISTANT: New York', [7, 22, 23, 33, 3, 32, 4, 8], ' What is it? ASSISTANT: New York'],
  [" it's", [23, 29, 36], " it's"],
  ['What\tis  it ?', [1, 22, 23, 1], ' is it'],
  ['Who is it?', [1, 22, 23, 33], ' is it?'],
  [' it\u00a0\u2028is', [23, 22], ' it is'],
];

build('encode as the reference library reads the same file', () => {
  const tokenizer = made({ questions: ['What is it?'], answers: ['New York', "it's"], lowercase: false });
  for (const [text, ids, decoded] of REFERENCE) {
    assert.equal(tokenizer.encode(text), ids, text);
    assert.is(tokenizer.decode(ids), decoded, text);
  }
});

build.run();
