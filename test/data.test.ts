import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, DataError } from '../engine/errors.ts';
import { EasyVqa } from '../models/matvlm/data/easy-vqa.ts';
import type { RgbImage } from '../models/nn/image/image.ts';
import { COLORS, drawScene, IMAGE_SIZE, SortOfClevr, type SceneObject } from '../models/matvlm/data/sort-of-clevr.ts';

const clevr = suite('Sort-of-CLEVR');

clevr('the published sizes, made in less than 5 s', () => {
  const begun = process.cpuUsage();
  const train = new SortOfClevr('train');
  assert.equal([train.length, new SortOfClevr('test').length], [9800, 200]);
  for (let i = 0; i < train.length; i++) {
    const sample = train.get(i);
    assert.is(sample.questions.length, 20);
    assert.is((sample.image() as { data: Uint8Array }).data.length, IMAGE_SIZE * IMAGE_SIZE * 3);
  }
  const { user } = process.cpuUsage(begun);
  assert.ok(user < 5e6, `${user} µs`);
});

clevr('the same bytes on every platform', () => {
  const hash = createHash('sha256');
  for (const split of ['train', 'test'] as const) {
    const set = new SortOfClevr(split, { seed: 7 });
    for (let i = 0; i < 20; i++) {
      hash.update((set.get(i).image() as { data: Uint8Array }).data).update(JSON.stringify(set.get(i).questions));
    }
  }
  assert.is(hash.digest('hex'), '8231fe348e25fbb0f673d6417d0fba6220316fb3ec423e448e06c8e068715a0e');
});

clevr('train and test share no scene, seeds differ', () => {
  const key = (s: SortOfClevr, i: number): string => JSON.stringify(s.scene(i));
  const train = new SortOfClevr('train');
  const seen = new Set(Array.from({ length: train.length }, (_, i) => key(train, i)));
  assert.is(seen.size, train.length);
  const test = new SortOfClevr('test');
  for (let i = 0; i < test.length; i++) assert.not.ok(seen.has(key(test, i)));
  assert.is.not(key(new SortOfClevr('train', { seed: 1 }), 0), key(train, 0));
});

clevr('objects stand apart, inside, one of each colour', () => {
  const set = new SortOfClevr('train');
  for (let i = 0; i < 500; i++) {
    const scene = set.scene(i);
    assert.equal(scene.map((o) => o.color), [0, 1, 2, 3, 4, 5]);
    for (const a of scene) {
      assert.ok(a.x >= 5 && a.x < 70 && a.y >= 5 && a.y < 70);
      for (const b of scene) assert.ok(a === b || (a.x - b.x) ** 2 + (a.y - b.y) ** 2 >= 100);
    }
  }
});

clevr('drawing: white ground, discs and squares of radius 5', () => {
  const at = (x: number, y: number, shape: 'circle' | 'square', color: number): SceneObject => ({ color, shape, x, y });
  const { data } = drawScene([at(10, 20, 'square', 0), at(50, 60, 'circle', 3)]);
  const count = (color: number): number => {
    const [, r, g, b] = COLORS[color];
    let n = 0;
    for (let i = 0; i < data.length; i += 3) n += Number(data[i] === r && data[i + 1] === g && data[i + 2] === b);
    return n;
  };
  assert.is(count(0), 121);
  // Rows of 1, 7, 9, 9, 9, 11, 9, 9, 9, 7, 1 pixels.
  assert.is(count(3), 81);
  const pixel = (x: number, y: number): number[] => [...data.slice((y * IMAGE_SIZE + x) * 3).slice(0, 3)];
  assert.equal(pixel(0, 0), [255, 255, 255]);
  assert.equal(pixel(5, 15), [255, 0, 0]);
  assert.equal(pixel(50, 55), [255, 156, 0]);
  assert.equal(pixel(51, 55), [255, 255, 255]);
});

/** The answer worked out anew from the words of the question, by sorting. */
function answerOf(question: string, scene: readonly SceneObject[]): string {
  const name = COLORS.findIndex(([c]) => question.includes(` ${c} `));
  const target = scene[name];
  const near = scene
    .filter((o) => o.color !== name)
    .map((o) => ({ o, d: (o.x - target.x) ** 2 + (o.y - target.y) ** 2 }))
    .sort((a, b) => a.d - b.d || a.o.color - b.o.color);
  if (question.startsWith('what shape is the')) return target.shape;
  if (question.includes('left')) return target.x <= 37 ? 'yes' : 'no';
  if (question.includes('top')) return target.y <= 37 ? 'yes' : 'no';
  if (question.includes('closest')) return near[0].o.shape;
  if (question.includes('furthest')) return near.filter((n) => n.d === near[4].d)[0].o.shape;
  return ['one', 'two', 'three', 'four', 'five', 'six'][scene.filter((o) => o.shape === target.shape).length - 1];
}

clevr('answers are right, kinds and topics balanced', () => {
  const set = new SortOfClevr('train');
  const topics = new Map<string, number>();
  for (let i = 0; i < 2000; i++) {
    const scene = set.scene(i);
    const { questions } = set.get(i);
    assert.is(questions.filter((q) => q.kind === 'relational').length, 10);
    for (const q of questions) {
      assert.is(q.answer, answerOf(q.question, scene), `${i}: ${q.question}`);
      topics.set(q.topic, (topics.get(q.topic) ?? 0) + 1);
    }
  }
  for (const topic of ['shape', 'left', 'top', 'closest', 'furthest', 'count']) {
    assert.ok(Math.abs(topics.get(topic)! - 40000 / 6) < 400, `${topic}: ${topics.get(topic)}`);
  }
});

/** The scene as a look at the picture tells it; null where one object covers a part of another. */
function seenIn({ data }: RgbImage): SceneObject[] | null {
  const scene = COLORS.map(([, r, g, b], color): SceneObject | null => {
    const at: number[] = [];
    for (let i = 0; i < data.length; i += 3) if (data[i] === r && data[i + 1] === g && data[i + 2] === b) at.push(i / 3);
    if (at.length !== 121 && at.length !== 81) return null;
    const mean = (f: (i: number) => number): number => at.reduce((sum, i) => sum + f(i), 0) / at.length;
    const [x, y] = [mean((i) => i % IMAGE_SIZE), mean((i) => Math.floor(i / IMAGE_SIZE))];
    return { color, shape: at.length === 121 ? 'square' : 'circle', x, y };
  });
  return scene.every((o) => o !== null) ? scene : null;
}

clevr('variants are mirrored, turned and recoloured scenes, with right answers', () => {
  const set = new SortOfClevr('train');
  const distances = (scene: readonly SceneObject[]): string =>
    JSON.stringify(scene.flatMap((a) => scene.map((b) => (a.x - b.x) ** 2 + (a.y - b.y) ** 2)).sort((a, b) => a - b));
  const [recoloured, moved, exchanged] = [new Set(), new Set(), new Set()];
  let seen = 0;
  for (let i = 0; i < 500; i++) {
    const sample = set.variant(i, 7 * i);
    const scene = seenIn(sample.image() as RgbImage);
    if (!scene) continue;
    seen++;
    assert.equal(distances(scene), distances(set.scene(i)));
    for (const q of sample.questions) assert.is(q.answer, answerOf(q.question, scene), `${i}: ${q.question}`);
    const [squares, before] = [scene, set.scene(i)].map((s) => s.filter((o) => o.shape === 'square').length);
    exchanged.add(squares === before ? 'kept' : squares === 6 - before ? 'exchanged' : 'lost');
    const { x, y } = set.scene(i)[0];
    const now = scene.find((o) => [o.x, 74 - o.x].includes(x) && [o.y, 74 - o.y].includes(y));
    if (now) moved.add(`${now.x === x} ${now.y === y}`), recoloured.add(now.color);
  }
  assert.ok(seen > 300, `${seen}`);
  assert.equal([...exchanged].sort(), ['exchanged', 'kept']);
  assert.equal([moved.size, recoloured.size], [4, 6]);
  assert.equal(set.variant(3, 5).questions, set.variant(3, 5).questions);
  assert.throws(() => set.variant(9800, 0), (e: Error) => e instanceof ArgumentError);
});

clevr('refuses what is out of range', () => {
  const is = (e: Error): boolean => e instanceof ArgumentError;
  const set = new SortOfClevr('test');
  for (const i of [-1, 200, 0.5, Number.NaN]) assert.throws(() => set.get(i), is);
  assert.throws(() => new SortOfClevr('test', { seed: 0.5 }), is);
  assert.throws(() => new SortOfClevr('test', { length: 0 }), is);
});

clevr.run();

const easy = suite('easy-VQA questions');

const make = (questions: string): EasyVqa =>
  new EasyVqa({
    name: 'easy-vqa',
    split: 'train',
    questions,
    answers: 'circle\nred\nyes\nno\n',
    loadImage: async () => ({ width: 1, height: 1, data: new Uint8Array(3) }),
  });

easy('groups by image, in ascending order', () => {
  const set = make('[["what shape?","circle",3],["is it red?","yes",0],["what color is it?","red",3]]');
  assert.equal([set.length, [...set.images]], [2, [0, 3]]);
  assert.is(set.get(1).id, 'easy-vqa/train/3');
  assert.equal(set.get(1).questions.map((q) => q.topic), ['shape', 'color']);
  assert.throws(() => set.get(2), (e: Error) => e instanceof ArgumentError);
});

const kinds: [string, RegExp][] = [
  ['<html>', /train\/questions.json: no valid JSON/],
  ['{}', /expected \[question/],
  ['[]', /no question/],
  ['[["a","yes",0],["b","yes"]]', /entry 1/],
  ['[["a","yes",0],["b","yes",-1]]', /entry 1/],
  ['[["a","yes",0],["b",7,1]]', /entry 1/],
  ['[["a","maybe",0]]', /entry 0: the answer maybe/],
];
for (const [text, message] of kinds) {
  easy(`refuses ${text}`, () => {
    assert.throws(() => make(text), (e: Error) => e instanceof DataError && message.test(e.message));
  });
}

easy.run();
