// One's own images in easy-VQA's layout: from a folder to a model that answers, and what is refused on the way.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { openDatasets } from '../models/matvlm/app/node/datasets.ts';
import { encodePng } from '../models/matvlm/app/node/encode-png.ts';
import { Tokenizer } from '../models/nn/text/tokenizer.ts';
import { buildTextTokenizer } from '../models/matvlm/data/word-tokenizer.ts';
import { cli, workFolder } from './support/cli.ts';

const cwd = workFolder();
const path = (...parts: string[]) => join(cwd, ...parts);
const run = (args: string) => cli(args.split(' '), { cwd });

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
    const questions = [];
    for (let i = 0; i < count; i++) {
      writeFileSync(path(name, split, 'images', `${i}.png`), await draw(i % 2 === 0, (i * 7) % 11));
      questions.push(['Which animal is this?', answers[i % 2], i]);
    }
    writeFileSync(path(name, split, 'questions.json'), JSON.stringify(questions));
  }
  writeFileSync(path(name, 'answers.txt'), answers.join('\n'));
}

const own = suite('own images');
own.before(async () => {
  await writeSet('pets', ANSWERS);
  await writeSet('easy-vqa', ['cat', 'dog']);
});

own('words that the tokenizer lacks are an error that names them and the way out', async () => {
  for (const command of ['train --model micro.json', 'distill --teacher teacher']) {
    const { code, stderr } = await run(`${command} --data easy-vqa=easy-vqa --batch 4 --steps 5 --backend wasm`);
    assert.is(code, 1, stderr);
    assert.match(stderr, /warning: the tokenizer does not know 96 of \d+ tokens of the questions .*: Which, animal, this\n/);
    assert.match(stderr, /error: the tokenizer does not know words of the answers: cat, dog, so that nothing/);
    assert.match(stderr, 'npx matvlm tokenizer build my-tokenizer --data easy-vqa=easy-vqa');
  }
  assert.not.ok(existsSync(path('runs')));
  const { code, stderr, stdout } = await run('eval teacher --data easy-vqa=easy-vqa --images 1 --backend wasm');
  assert.is(code, 0, stderr);
  assert.match(stderr, /warning: the tokenizer does not know words of the answers: cat: such questions cannot/);
  assert.match(stdout, 'easy-vqa=easy-vqa');
});

own('a tokenizer is built of them, and a model trained with it answers', async () => {
  const built = await run('tokenizer build words --data easy-vqa=pets');
  assert.is(built.code, 0, built.stderr);
  assert.match(built.stderr, /wrote words: \d+ tokens\ntrain with it: npx matvlm train --tokenizer words --data easy-vqa=pets/);
  const again = await run('tokenizer build words --data easy-vqa=pets');
  assert.match(again.stderr, /error: words exists already/);
  const flags = '--model micro.json --batch 8 --steps 80 --lr 5e-3 --backend wasm --name pets';
  const { code, stdout, stderr } = await run(`train --tokenizer words --data easy-vqa=pets ${flags}`);
  assert.is(code, 0, stderr);
  const [, share] = /easy-vqa=pets +([\d.]+) %/.exec(stdout)!;
  assert.ok(Number(share) >= 90, `${share} % right`);
  const report = readFileSync(path('runs', 'pets', 'report.html'), 'utf8');
  assert.match(report, 'easy-vqa=pets');
  assert.not.match(report, /Published by others|Best published CNN/);
});

own('two sets of one name are refused', async () => {
  const twice = [`easy-vqa=${path('pets')}`, `easy-vqa=${path('pets')}/../pets`];
  await openDatasets(twice, 'train').then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /are both "easy-vqa=pets"; give one, or rename a folder/),
  );
});
own.run();

const build = suite('tokenizers of texts');

const ODD = [
  ...['New York', "it's 2.5 m", 'T-shirt', "l'été", 'cafe\u0301', '猫です', '👩‍👩‍👧 ok', 'a_b', '(none)', '50 %'],
  ...['ΣΑΣ', 'İx', '__proto__', 'constructor', '2'],
];

// The reference library lowers letter by letter, so that no sigma is a final one.
const lower = (text: string): string => text.replaceAll('Σ', 'σ').toLowerCase();

build('give back every answer as it is, and know every word', () => {
  for (const lowercase of [false, true]) {
    const files = buildTextTokenizer({ questions: ['What is  it?'], answers: ODD, lowercase });
    const tokenizer = Tokenizer.fromJSON(files.tokenizer, files.config);
    for (const answer of ODD) {
      const ids = tokenizer.encode(`\nWhat is it? ASSISTANT: ${answer}`);
      assert.not.ok(ids.includes(tokenizer.unkId!), answer);
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
  const files = buildTextTokenizer({ questions: ['What is it?'], answers: ['New York', "it's"], lowercase: false });
  const tokenizer = Tokenizer.fromJSON(files.tokenizer, files.config);
  for (const [text, ids, decoded] of REFERENCE) {
    assert.equal(tokenizer.encode(text), ids, text);
    assert.is(tokenizer.decode(ids), decoded, text);
  }
});

build.run();
