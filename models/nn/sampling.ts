import { ArgumentError, NumericError } from '../../engine/errors.ts';
import type { Random } from '../../engine/random.ts';

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

/** Chooses a token. @param logits (V), changed in place  @param seen ids that the penalty applies to */
export function chooseToken(
  logits: Float32Array,
  seen: ReadonlySet<number>,
  options: SamplingOptions,
  random: Random,
): number {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1 } = options;
  if (repetitionPenalty !== 1) {
    for (const id of seen) logits[id] *= logits[id] > 0 ? 1 / repetitionPenalty : repetitionPenalty;
  }
  const best = argmax(logits);
  if (temperature === 0) return best;
  let order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) order = order.slice(0, topK);
  const weights = order.map((id) => Math.exp((logits[id] - logits[best]) / temperature));
  const kept = nucleus(weights, topP);
  let draw = random.uniform(0, 1) * kept.total;
  for (let i = 0; i < kept.count; i++) {
    draw -= weights[i];
    if (draw < 0) return order[i];
  }
  return order[kept.count - 1];
}

/** How many of the leading weights reach the share `topP`. */
function nucleus(weights: readonly number[], topP: number): { count: number; total: number } {
  const all = weights.reduce((a, b) => a + b, 0);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    total += weights[i];
    if (total >= topP * all) return { count: i + 1, total };
  }
  return { count: weights.length, total };
}

/** The first of the greatest. @throws NumericError when a logit is not finite */
export function argmax(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (!Number.isFinite(logits[i])) {
      throw new NumericError(`the logit of token ${i} is ${logits[i]}; the weights or the backend are broken`);
    }
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}
