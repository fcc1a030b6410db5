import { ArgumentError } from '../../../engine/errors.ts';
import { DataError } from '../../nn/errors.ts';
import { Random } from '../../nn/random.ts';
import type { VqaDataset, VqaQuestion, VqaSample } from '../data/dataset.ts';
import { ImageCache } from '../../nn/image/cache.ts';
import type { RgbImage } from '../../nn/image/image.ts';
import { normalize, padToSquare } from '../../nn/image/preprocess.ts';
import { resizeBicubic } from '../../nn/image/resize.ts';
import { IGNORE_LABEL, type PromptEncoder } from '../template.ts';
import type { VqaBatch } from '../vqa-batch.ts';

export interface LoaderOptions {
  readonly imagesPerBatch: number;
  /** Questions drawn of each image, anew in every batch; all of them when absent. */
  readonly questionsPerImage?: number;
  /** Takes a sample's variant in its place wherever its set has such, another one every time. */
  readonly augment?: boolean;
  readonly seed: number;
  readonly imageSize: number;
  readonly aspect: 'square' | 'pad';
  /** What fills short questions up. */
  readonly padId: number;
  /** Bytes of resized images to keep, those used last; 256 MiB unless given. */
  readonly cacheBytes?: number;
}

/** Question lengths are rounded up to this, so that few shapes occur. */
const LENGTH_STEP = 2;

/** Bytes of resized images that are kept: 600 of 384 pixels a side, and 20,000 of 64. */
const CACHE_BYTES = 256 * 2 ** 20;

/** Images resized, and kept as bytes where they come back. */
class Pixels {
  private readonly images: ImageCache<string>;

  constructor(
    private readonly size: number,
    private readonly aspect: 'square' | 'pad',
    cacheBytes: number,
  ) {
    this.images = new ImageCache(cacheBytes);
  }

  /** Normalised pixels (3, size, size) of a sample's image, written at `offset`. */
  async write({ sample, fresh }: Drawn, out: Float32Array, offset: number): Promise<void> {
    const kept = this.images.get(sample.id);
    const image = kept ?? this.resize(await sample.image());
    if (!kept && !fresh) this.images.add(sample.id, image);
    normalize(image, out, offset);
  }

  private resize(image: RgbImage): RgbImage {
    return resizeBicubic(this.aspect === 'pad' ? padToSquare(image) : image, this.size, this.size);
  }
}

/** A sample of a batch. */
interface Drawn {
  readonly sample: VqaSample;
  /** Made for this batch alone. */
  readonly fresh: boolean;
}

/**
 * Batches of images with their questions, over one or more data sets mixed evenly. Which samples batch k holds depends
 * on the seed and k alone, so that a resumed run goes on with the very same data.
 */
export class BatchLoader {
  /** Images in all sets. */
  readonly images: number;
  readonly batchesPerEpoch: number;
  private readonly pixels: Pixels;
  private order: { epoch: number; indices: Uint32Array } | null = null;

  /** @throws DataError when the sets hold less than one batch */
  constructor(
    private readonly sets: readonly VqaDataset[],
    private readonly encoder: PromptEncoder,
    private readonly options: LoaderOptions,
  ) {
    this.images = sets.reduce((sum, set) => sum + set.length, 0);
    this.batchesPerEpoch = Math.floor(this.images / options.imagesPerBatch);
    if (this.batchesPerEpoch < 1) {
      throw new DataError(`the data has ${this.images} images, a batch takes ${options.imagesPerBatch}; lower the batch size`);
    }
    this.pixels = new Pixels(options.imageSize, options.aspect, options.cacheBytes ?? CACHE_BYTES);
  }

  /** Batch number k, counted over all epochs. @throws DataError when nothing is asked about any of its images */
  async batch(k: number): Promise<VqaBatch> {
    const { imagesPerBatch: count } = this.options;
    const epoch = Math.floor(k / this.batchesPerEpoch);
    const first = (k % this.batchesPerEpoch) * count;
    const chosen = Array.from(this.permutation(epoch).subarray(first, first + count), (i) => this.locate(i));
    const random = Random.stream(this.options.seed + 1, k);
    const drawn = chosen.map(({ set, index }) => this.sample(set, index, random));
    const questions = drawn.map(({ sample }) => this.ask(sample.questions, random));
    if (questions.every((list) => list.length === 0)) {
      const ids = drawn.map(({ sample }) => sample.id).join(', ');
      throw new DataError(`batch ${k} has no questions: none is asked about ${ids}; leave such images out of the data`);
    }
    const pixels = new Float32Array(count * 3 * this.options.imageSize ** 2);
    const size = pixels.length / count;
    for (const [i, one] of drawn.entries()) await this.pixels.write(one, pixels, i * size);
    return { pixels, images: count, ...collate(questions, this.encoder, this.options.padId) };
  }

  private permutation(epoch: number): Uint32Array {
    if (this.order?.epoch !== epoch) {
      const indices = Uint32Array.from({ length: this.images }, (_, i) => i);
      Random.stream(this.options.seed, epoch).shuffle(indices);
      this.order = { epoch, indices };
    }
    return this.order.indices;
  }

  private locate(index: number): { set: VqaDataset; index: number } {
    let rest = index;
    for (const set of this.sets) {
      if (rest < set.length) return { set, index: rest };
      rest -= set.length;
    }
    throw new ArgumentError(`sample ${index} is out of range for ${this.images} images`);
  }

  private sample(set: VqaDataset, index: number, random: Random): Drawn {
    if (!this.options.augment || !set.variant) return { sample: set.get(index), fresh: false };
    return { sample: set.variant(index, random.u32()), fresh: true };
  }

  private ask(questions: readonly VqaQuestion[], random: Random): readonly VqaQuestion[] {
    const count = this.options.questionsPerImage;
    if (count === undefined || count >= questions.length) return questions;
    const order = Uint32Array.from({ length: questions.length }, (_, i) => i);
    random.shuffle(order);
    return Array.from(order.subarray(0, count), (i) => questions[i]);
  }
}

/** Questions of all images as one padded batch. @throws DataError without a question */
export function collate(
  questions: readonly (readonly VqaQuestion[])[],
  encoder: PromptEncoder,
  padId: number,
): Omit<VqaBatch, 'pixels' | 'images'> {
  const encoded = questions.flatMap((list, image) =>
    list.map((q) => ({ image, question: q.question, ...encoder.questionIds(q.question, q.answer) })),
  );
  if (encoded.length === 0) throw new DataError('a batch has no questions: none is asked about any of its images');
  const most = encoded.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
  const longest = { question: most.question, tokens: most.ids.length };
  const length = Math.ceil(longest.tokens / LENGTH_STEP) * LENGTH_STEP;
  const questionIds = new Int32Array(encoded.length * length).fill(padId);
  const labels = new Int32Array(encoded.length * length).fill(IGNORE_LABEL);
  encoded.forEach((e, i) => {
    questionIds.set(e.ids, i * length);
    labels.set(e.labels, i * length);
  });
  const prefixIds = encoder.prefixIds();
  const tokens = encoded.reduce((sum, e) => sum + e.ids.length, questions.length * prefixIds.length);
  const owner = Int32Array.from(encoded, (e) => e.image);
  return { prefixIds, questionIds, labels, owner, questions: encoded.length, length, longest, tokens };
}
