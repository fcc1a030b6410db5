import type { RgbImage } from '../../nn/image/image.ts';

export type Split = 'train' | 'test';

export interface VqaQuestion {
  readonly question: string;
  readonly answer: string;
  /** The group in which accuracy is reported: 'relational', or the name of a set of one kind. */
  readonly kind: string;
  /** What is asked within the kind: 'left', 'closest', 'yes/no' and the like. */
  readonly topic: string;
}

/** One image and all that is asked about it. */
export interface VqaSample {
  /** Unique over all sets: `<set>/<split>/<number>`. */
  readonly id: string;
  readonly questions: readonly VqaQuestion[];
  /** Draws or decodes the image; each call may do the work again or share one result, so do not write to it. */
  image(): RgbImage | Promise<RgbImage>;
}

/** A visual question answering set with random access; `get` is cheap and deterministic. */
export interface VqaDataset {
  readonly name: string;
  readonly split: Split;
  /** Number of images. */
  readonly length: number;
  /** The i-th sample; ArgumentError unless 0 ≤ i < length. */
  get(i: number): VqaSample;
  /**
   * The i-th sample under a symmetry of the set that `seed`, an integer of 32 bits, picks, with questions asked anew.
   * Absent where a set has no symmetry that is known to be exact.
   */
  variant?(i: number, seed: number): VqaSample;
}
