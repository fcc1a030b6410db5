import { ArgumentError } from '../../engine/errors.ts';

/** How the next token is chosen; with temperature 0 always the likeliest. */
export interface SamplingOptions {
  /** 0 is greedy. */
  readonly temperature?: number;
  /** Keep the k likeliest; 0 keeps all. */
  readonly topK?: number;
  /** Keep the likeliest that together reach this probability; 1 keeps all. */
  readonly topP?: number;
  /**
   * Divides the logits of tokens seen before (multiplies negative ones), 0.01 to 100; 1 changes nothing (Keskar et al.
   * 2019).
   */
  readonly repetitionPenalty?: number;
}

/** @throws ArgumentError naming the option and its range */
export function checkSampling(options: SamplingOptions): void {
  const within = (name: keyof SamplingOptions, low: number, high: number, open = false) => {
    const value = options[name];
    if (value === undefined) return;
    if (!(typeof value === 'number' && value >= low && value <= high) || (open && value === low)) {
      throw new ArgumentError(`${name} is ${value}, expected a number from ${open ? 'above ' : ''}${low} to ${high}`);
    }
  };
  within('temperature', 0, 100);
  within('topK', 0, 2 ** 31);
  within('topP', 0, 1, true);
  // Nearer to 0 logits would leave the range of f32.
  within('repetitionPenalty', 0.01, 100);
  if (options.topK !== undefined && !Number.isInteger(options.topK)) {
    throw new ArgumentError(`topK is ${options.topK}, expected a whole number`);
  }
}
