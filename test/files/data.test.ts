import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { DataError } from '../../models/nn/errors.ts';
import { EasyVqa } from '../../models/matvlm/data/easy-vqa.ts';
import type { RgbImage } from '../../models/nn/image/image.ts';
import { COLORS, drawScene, IMAGE_SIZE, SortOfClevr, type SceneObject } from '../../models/matvlm/data/sort-of-clevr.ts';
import { throws } from '../support/expect.ts';

type Scene = readonly SceneObject[];

const clevr = suite('Sort-of-CLEVR');
const train = new SortOfClevr('train');
const test = new SortOfClevr('test');
const pixels = (set: SortOfClevr, i: number) => (set.get(i).image() as RgbImage).data;
const apart = (a: SceneObject, b: SceneObject) => (a.x - b.x) ** 2 + (a.y - b.y) ** 2;
const squares = (scene: Scene) => scene.filter((o) => o.shape === 'square').length;

clevr('the same bytes on every platform', () => {
  const hash = createHash('sha256');
  for (const split of ['train', 'test'] as const) {
    const set = new SortOfClevr(split, { seed: 7 });
    for (let i = 0; i < 20; i++) hash.update(pixels(set, i)).update(JSON.stringify(set.get(i).questions));
  }
  assert.is(hash.digest('hex'), '8231fe348e25fbb0f673d6417d0fba6220316fb3ec423e448e06c8e068715a0e');
});

clevr('of the published sizes: no scene twice, objects apart, inside, one of each colour; seeds differ', () => {
  assert.equal([train.length, test.length], [9800, 200]);
  const seen = new Set<string>();
  for (const set of [train, test]) {
    for (let i = 0; i < set.length; i++) {
      const scene = set.scene(i);
      seen.add(JSON.stringify(scene));
      assert.equal(scene.map((o) => o.color), [0, 1, 2, 3, 4, 5]);
      for (const a of scene) {
        assert.ok(a.x >= 5 && a.x < 70 && a.y >= 5 && a.y < 70);
        for (const b of scene) assert.ok(a === b || apart(a, b) >= 100);
      }
    }
  }
  assert.is(seen.size, 10_000);
  assert.not.equal(new SortOfClevr('train', { seed: 1 }).scene(0), train.scene(0));
});

clevr('drawing: white ground, discs and squares of radius 5', () => {
  const square: SceneObject = { color: 0, shape: 'square', x: 10, y: 20 };
  const { data } = drawScene([square, { color: 3, shape: 'circle', x: 50, y: 60 }]);
  assert.is(data.length, IMAGE_SIZE * IMAGE_SIZE * 3);
  const colors = Array.from({ length: IMAGE_SIZE ** 2 }, (_, i) => [...data.subarray(3 * i, 3 * i + 3)]);
  const pixel = (x: number, y: number) => colors[y * IMAGE_SIZE + x];
  const area = (color: number) => colors.filter((c) => c.join() === COLORS[color].slice(1).join()).length;
  // The disc has rows of 1, 7, 9, 9, 9, 11, 9, 9, 9, 7, 1 pixels.
  assert.equal([area(0), area(3)], [121, 81]);
  const found = [pixel(0, 0), pixel(5, 15), pixel(50, 55), pixel(51, 55)];
  assert.equal(found, [[255, 255, 255], [255, 0, 0], [255, 156, 0], [255, 255, 255]]);
});

/** The answer worked out anew from the words of the question, by sorting. */
function answerOf(question: string, scene: Scene): string {
  const name = COLORS.findIndex(([c]) => question.includes(` ${c} `));
  const target = scene[name];
  const near = scene
    .filter((o) => o.color !== name)
    .map((o) => ({ o, d: apart(o, target) }))
    .sort((a, b) => a.d - b.d || a.o.color - b.o.color);
  if (question.startsWith('what shape is the')) return target.shape;
  if (question.includes('left')) return target.x <= 37 ? 'yes' : 'no';
  if (question.includes('top')) return target.y <= 37 ? 'yes' : 'no';
  if (question.includes('closest')) return near[0].o.shape;
  if (question.includes('furthest')) return near.filter((n) => n.d === near[4].d)[0].o.shape;
  return ['one', 'two', 'three', 'four', 'five', 'six'][scene.filter((o) => o.shape === target.shape).length - 1];
}

clevr('answers are right, kinds and topics balanced', () => {
  const topics = new Map<string, number>();
  for (let i = 0; i < 2000; i++) {
    const { questions } = train.get(i);
    assert.equal([questions.length, questions.filter((q) => q.kind === 'relational').length], [20, 10]);
    for (const q of questions) {
      assert.is(q.answer, answerOf(q.question, train.scene(i)), `${i}: ${q.question}`);
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
  const distances = (scene: Scene) => scene.flatMap((a) => scene.map((b) => apart(a, b))).sort((a, b) => a - b);
  const [recoloured, moved, exchanged] = [new Set(), new Set(), new Set()];
  let seen = 0;
  for (let i = 0; i < 500; i++) {
    const sample = train.variant(i, 7 * i);
    const scene = seenIn(sample.image() as RgbImage);
    if (!scene) continue;
    seen++;
    const before = train.scene(i);
    assert.equal(distances(scene), distances(before));
    for (const q of sample.questions) assert.is(q.answer, answerOf(q.question, scene), `${i}: ${q.question}`);
    const kept = squares(scene) === squares(before);
    exchanged.add(kept ? 'kept' : squares(scene) === 6 - squares(before) ? 'exchanged' : 'lost');
    const { x, y } = before[0];
    const now = scene.find((o) => [o.x, 74 - o.x].includes(x) && [o.y, 74 - o.y].includes(y));
    if (now) moved.add(`${now.x === x} ${now.y === y}`), recoloured.add(now.color);
  }
  assert.ok(seen > 300, `${seen}`);
  assert.equal([...exchanged].sort(), ['exchanged', 'kept']);
  assert.equal([moved.size, recoloured.size], [4, 6]);
  assert.equal(train.variant(3, 5).questions, train.variant(3, 5).questions);
});

clevr('refuses what is out of range', () => {
  for (const i of [-1, 200, 0.5, Number.NaN]) throws(() => test.get(i), ArgumentError);
  throws(() => train.variant(9800, 0), ArgumentError);
  for (const options of [{ seed: 0.5 }, { length: 0 }]) throws(() => new SortOfClevr('test', options), ArgumentError);
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
  throws(() => set.get(2), ArgumentError);
});

easy('refuses what is no list of questions with known answers', () => {
  const kinds: [string, RegExp][] = [
    ['<html>', /train\/questions.json: no valid JSON/],
    ['{}', /expected \[question/],
    ['[]', /no question/],
    ['[["a","yes",0],["b","yes"]]', /entry 1/],
    ['[["a","yes",0],["b","yes",-1]]', /entry 1/],
    ['[["a","yes",0],["b",7,1]]', /entry 1/],
    ['[["a","maybe",0]]', /entry 0: the answer maybe/],
  ];
  for (const [text, says] of kinds) throws(() => make(text), DataError, says, text);
});

easy.run();
