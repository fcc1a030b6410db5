/**
 * easy-VQA (github.com/vzhou842/easy-VQA, MIT): 64 × 64 images of one coloured shape, about ten questions each. Also
 * one's own images and questions in its layout.
 */
import * as v from 'valibot';
import { ArgumentError } from '../../../engine/errors.ts';
import { DataError } from '../../nn/errors.ts';
import { parseJson } from '../../nn/json.ts';
import type { RgbImage } from '../../nn/image/image.ts';
import type { Split, VqaDataset, VqaQuestion, VqaSample } from './dataset.ts';

const SHAPES = ['circle', 'rectangle', 'triangle'];
const COLORS = ['black', 'blue', 'brown', 'gray', 'green', 'red', 'teal', 'yellow'];
const ANSWERS = [...SHAPES, ...COLORS, 'yes', 'no'];

/** questions.json: a list of [question, answer, image number]. */
const Questions = v.array(v.tuple([v.string(), v.string(), v.pipe(v.number(), v.integer(), v.minValue(0))]));

/** Every word that a question or an answer can hold: what a tokenizer has to know. */
export function easyVqaTexts(): string[] {
  return [
    ...ANSWERS,
    'does the image not contain a shape?',
    'is there no shape present in the image?',
    'what is the color of the shape?',
  ];
}

function topicOf(answer: string): string {
  if (answer === 'yes' || answer === 'no') return 'yes/no';
  if (SHAPES.includes(answer)) return 'shape';
  return COLORS.includes(answer) ? 'color' : 'other';
}

export interface EasyVqaParts {
  /** `easy-vqa` for the public set alone: what was published for it stands beside what is measured on it. */
  readonly name: string;
  readonly split: Split;
  /** The text of `<split>/questions.json`. */
  readonly questions: string;
  /** The text of `answers.txt`, one answer a line. */
  readonly answers: string;
  /** Loads `<split>/images/<image>.png`. */
  readonly loadImage: (image: number) => Promise<RgbImage>;
}

/** Parses questions.json; DataError names the entry that is malformed or whose answer is not in answers.txt. */
function parseQuestions(parts: EasyVqaParts): v.InferOutput<typeof Questions> {
  const file = `easy-VQA: ${parts.split}/questions.json`;
  const json = parseJson(parts.questions, file, DataError);
  const parsed = v.safeParse(Questions, json, { abortEarly: true });
  if (!parsed.success) {
    const at = v.getDotPath(parsed.issues[0]) ?? 'top';
    throw new DataError(`${file}, entry ${at}: expected [question, answer, image number]; ${parsed.issues[0].message}`);
  }
  const allowed = new Set(parts.answers.split(/\r?\n/).filter((line) => line !== ''));
  const odd = parsed.output.findIndex(([, answer]) => !allowed.has(answer));
  if (odd >= 0) {
    throw new DataError(`${file}, entry ${odd}: the answer ${parsed.output[odd][1]} is not in answers.txt.`);
  }
  if (parsed.output.length === 0) throw new DataError(`${file} holds no question.`);
  return parsed.output;
}

export class EasyVqa implements VqaDataset {
  readonly name: string;
  readonly split: Split;
  readonly length: number;
  /** Image numbers in ascending order. */
  readonly images: readonly number[];
  private readonly byImage = new Map<number, VqaQuestion[]>();
  private readonly loadImage: EasyVqaParts['loadImage'];

  /** @throws DataError if questions.json is malformed */
  constructor(parts: EasyVqaParts) {
    this.name = parts.name;
    this.split = parts.split;
    this.loadImage = parts.loadImage;
    for (const [question, answer, image] of parseQuestions(parts)) {
      const list = this.byImage.get(image) ?? [];
      list.push({ question, answer, kind: this.name, topic: topicOf(answer) });
      this.byImage.set(image, list);
    }
    this.images = [...this.byImage.keys()].sort((a, b) => a - b);
    this.length = this.images.length;
  }

  get(i: number): VqaSample {
    const number = this.images[i];
    if (number === undefined) {
      throw new ArgumentError(`${this.name} ${this.split}: no image ${i}; there are 0 to ${this.length - 1}.`);
    }
    return {
      id: `${this.name}/${this.split}/${number}`,
      questions: this.byImage.get(number)!,
      image: () => this.loadImage(number),
    };
  }
}
