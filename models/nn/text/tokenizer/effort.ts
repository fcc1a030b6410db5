import { ArgumentError } from '../../../../engine/errors.ts';

/** Steps that one text may take, less than a second; real tokenizers take some twenty a character. */
const MOST_STEPS = 2e7;

/**
 * Counts the steps of work on one text where a file from anywhere decides how many there are, so that none runs on
 * without end: patterns that try again and again, pieces that overlap a thousandfold.
 */
export class Effort {
  private left = MOST_STEPS;

  /** Begins anew, for another text. */
  renew(): void {
    this.left = MOST_STEPS;
  }

  /** @throws ArgumentError when all is spent */
  spend(steps: number): void {
    this.left -= steps;
    if (this.left < 0) {
      throw new ArgumentError('The tokenizer needs too many steps for this text: shorten it, or use another tokenizer.');
    }
  }
}
