/**
 * Sort-of-CLEVR (Santoro et al. 2017, "A simple neural network module for relational reasoning"), asked in words.
 * Scenes and questions follow the generator that published numbers were made with (kimhc6028/relational-networks):
 * centres are uniform integers in [5, 70), two centres at least 10 apart; left and top mean below 37.5; ties of
 * distance go to the colour that comes first. One flaw of it is not repeated: there, an object whose nearest
 * neighbour is more than 31.6 pixels off counts as its own nearest.
 */
import { ArgumentError } from '../../../engine/errors.ts';
import type { RgbImage } from '../../nn/image/image.ts';
import type { Split, VqaDataset, VqaQuestion, VqaSample } from './dataset.ts';
import { Random32 } from './random32.ts';

export const IMAGE_SIZE = 75;
const RADIUS = 5;
const QUESTIONS_PER_KIND = 10;

/** Colour names in the generator's order, with their RGB bytes. */
export const COLORS = [
  ['red', 255, 0, 0],
  ['green', 0, 255, 0],
  ['blue', 0, 0, 255],
  ['orange', 255, 156, 0],
  ['gray', 128, 128, 128],
  ['yellow', 255, 255, 0],
] as const;

const COUNTS = ['one', 'two', 'three', 'four', 'five', 'six'];

export interface SceneObject {
  /** Index into COLORS; scene[i].color is i. */
  readonly color: number;
  readonly shape: 'circle' | 'square';
  /** Centre in pixels, from the left and from the top. */
  readonly x: number;
  readonly y: number;
}

interface Topic {
  readonly topic: string;
  readonly ask: (color: string) => string;
  readonly answer: (scene: readonly SceneObject[], target: SceneObject) => string;
}

const yesNo = (yes: boolean): string => (yes ? 'yes' : 'no');

const distance = (a: SceneObject, b: SceneObject): number => (a.x - b.x) ** 2 + (a.y - b.y) ** 2;

/** The object other than `target` with the greatest `score`; the first of equals. */
function best(scene: readonly SceneObject[], target: SceneObject, score: (o: SceneObject) => number): SceneObject {
  const others = scene.filter((o) => o !== target);
  return others.reduce((kept, o) => (score(o) > score(kept) ? o : kept));
}

/** Wording is short on purpose: every word is a token that costs a pass through the decoder. */
const TOPICS: Record<'non-relational' | 'relational', readonly Topic[]> = {
  'non-relational': [
    { topic: 'shape', ask: (c) => `what shape is the ${c} object?`, answer: (_, t) => t.shape },
    { topic: 'left', ask: (c) => `is the ${c} object on the left?`, answer: (_, t) => yesNo(t.x < IMAGE_SIZE / 2) },
    { topic: 'top', ask: (c) => `is the ${c} object at the top?`, answer: (_, t) => yesNo(t.y < IMAGE_SIZE / 2) },
  ],
  relational: [
    {
      topic: 'closest',
      ask: (c) => `what shape is closest to the ${c} object?`,
      answer: (scene, t) => best(scene, t, (o) => -distance(o, t)).shape,
    },
    {
      topic: 'furthest',
      ask: (c) => `what shape is furthest from the ${c} object?`,
      answer: (scene, t) => best(scene, t, (o) => distance(o, t)).shape,
    },
    {
      topic: 'count',
      ask: (c) => `how many have the shape of the ${c} object?`,
      answer: (scene, t) => COUNTS[scene.filter((o) => o.shape === t.shape).length - 1],
    },
  ],
};

/** Six objects, one of each colour, apart from one another. */
function makeScene(random: Random32): SceneObject[] {
  const scene: SceneObject[] = [];
  for (let color = 0; color < COLORS.length; color++) {
    let object: SceneObject;
    do {
      const x = RADIUS + random.below(IMAGE_SIZE - 2 * RADIUS);
      const y = RADIUS + random.below(IMAGE_SIZE - 2 * RADIUS);
      object = { color, shape: random.below(2) === 0 ? 'square' : 'circle', x, y };
    } while (scene.some((o) => distance(o, object) < (2 * RADIUS) ** 2));
    scene.push(object);
  }
  return scene;
}

/**
 * The scene under one of 11,520 symmetries, which the distribution of scenes has exactly: the eight of the square, the
 * permutations of the colours, and the exchange of circles with squares.
 */
function transformScene(scene: readonly SceneObject[], random: Random32): SceneObject[] {
  const [flipX, flipY, transpose, exchange] = Array.from({ length: 4 }, () => random.below(2) === 1);
  const flip = (at: number, mirrored: boolean): number => (mirrored ? IMAGE_SIZE - 1 - at : at);
  const colors = scene.map((o) => o.color);
  for (let i = colors.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [colors[i], colors[j]] = [colors[j], colors[i]];
  }
  const changed = scene.map(({ shape, x, y }, i): SceneObject => {
    const [across, down] = transpose ? [y, x] : [x, y];
    const other = shape === 'circle' ? 'square' : 'circle';
    return { color: colors[i], shape: exchange ? other : shape, x: flip(across, flipX), y: flip(down, flipY) };
  });
  return changed.sort((a, b) => a.color - b.color);
}

function makeQuestions(scene: readonly SceneObject[], random: Random32): VqaQuestion[] {
  const questions: VqaQuestion[] = [];
  for (const kind of ['non-relational', 'relational'] as const) {
    for (let i = 0; i < QUESTIONS_PER_KIND; i++) {
      const target = scene[random.below(scene.length)];
      const { topic, ask, answer } = TOPICS[kind][random.below(3)];
      questions.push({ question: ask(COLORS[target.color][0]), answer: answer(scene, target), kind, topic });
    }
  }
  return questions;
}

function sampleOf(id: string, scene: readonly SceneObject[], random: Random32): VqaSample {
  return { id, questions: makeQuestions(scene, random), image: () => drawScene(scene) };
}

/** Draws a scene on white: squares of 11 × 11 pixels and discs with dx² + dy² ≤ 25, as OpenCV fills them. */
export function drawScene(scene: readonly SceneObject[]): RgbImage {
  const data = new Uint8Array(IMAGE_SIZE * IMAGE_SIZE * 3).fill(255);
  for (const { color, shape, x, y } of scene) {
    const [, r, g, b] = COLORS[color];
    for (let dy = -RADIUS; dy <= RADIUS; dy++) {
      for (let dx = -RADIUS; dx <= RADIUS; dx++) {
        if (shape === 'circle' && dx * dx + dy * dy > RADIUS * RADIUS) continue;
        const at = ((y + dy) * IMAGE_SIZE + x + dx) * 3;
        data[at] = r;
        data[at + 1] = g;
        data[at + 2] = b;
      }
    }
  }
  return { width: IMAGE_SIZE, height: IMAGE_SIZE, data };
}

/** Every question that can be asked and every answer that can be given: what a tokenizer has to know. */
export function sortOfClevrTexts(): string[] {
  const topics = Object.values(TOPICS).flat();
  const questions = COLORS.flatMap(([name]) => topics.map((t) => t.ask(name)));
  return [...questions, 'circle', 'square', 'yes', 'no', ...COUNTS];
}

export class SortOfClevr implements VqaDataset {
  readonly name = 'sort-of-clevr';
  readonly split: Split;
  readonly length: number;
  private readonly seed: number;

  /**
   * @param split the two splits draw from separate streams of the seed
   * @param options.seed an integer; the same seed gives the same bytes everywhere
   * @param options.length number of images; the published sizes, 9,800 and 200, unless given
   */
  constructor(split: Split, options: { seed?: number; length?: number } = {}) {
    const { seed = 0, length = split === 'train' ? 9800 : 200 } = options;
    if (!Number.isInteger(seed) || Math.abs(seed) > 0x7fffffff) {
      throw new ArgumentError(`Sort-of-CLEVR: seed ${seed} is not an integer of 32 bits.`);
    }
    if (!Number.isInteger(length) || length < 1 || length > 0x7fffffff) {
      throw new ArgumentError(`Sort-of-CLEVR: length ${length} is not a positive integer.`);
    }
    this.split = split;
    this.length = length;
    this.seed = seed;
  }

  get(i: number): VqaSample {
    const random = this.random(i);
    return sampleOf(`${this.name}/${this.split}/${i}`, makeScene(random), random);
  }

  variant(i: number, seed: number): VqaSample {
    const random = new Random32(seed, 3, i);
    return sampleOf(`${this.name}/${this.split}/${i}/${seed}`, transformScene(this.scene(i), random), random);
  }

  /** The objects of the i-th image, in the order of COLORS. */
  scene(i: number): SceneObject[] {
    return makeScene(this.random(i));
  }

  private random(i: number): Random32 {
    if (!Number.isInteger(i) || i < 0 || i >= this.length) {
      throw new ArgumentError(`Sort-of-CLEVR ${this.split}: no image ${i}; there are 0 to ${this.length - 1}.`);
    }
    return new Random32(this.seed, this.split === 'train' ? 1 : 2, i);
  }
}
