import { ArgumentError } from '../../engine/errors.ts';

/** Lengths of the three phases of warmup–stable–decay, in steps. */
export interface Schedule {
  readonly warmup: number;
  readonly stable: number;
  readonly decay: number;
}

/**
 * Warmup–stable–decay (Hu et al. 2024): linear up from 0, flat, cosine down to 0.
 * @param step counted from 0: the first step has rate 0 where there is a warmup
 * @returns factor of the peak rate, 0…1
 */
export function wsd(step: number, { warmup, stable, decay }: Schedule): number {
  if (step < warmup) return step / warmup;
  if (step < warmup + stable) return 1;
  const progress = (step - warmup - stable) / Math.max(decay, 1);
  return progress >= 1 ? 0 : 0.5 * (1 + Math.cos(Math.PI * progress));
}

/**
 * The phases of a run of `steps`, which add up to it: a warmup in steps, and a decay over the last `decayShare` of
 * them, but for what the warmup takes.
 * @throws ArgumentError for a warmup that does not fit, or a share outside 0…1
 */
export function planSchedule(steps: number, warmup: number, decayShare: number): Schedule {
  if (warmup >= steps && steps > 0) {
    throw new ArgumentError(`warmup of ${warmup} steps does not fit a run of ${steps}; lower warmup or raise steps`);
  }
  if (!(decayShare >= 0 && decayShare <= 1)) {
    throw new ArgumentError(`the decay's share of the steps is ${decayShare}, expected a number from 0 to 1`);
  }
  const rest = Math.max(0, steps - warmup);
  const decay = Math.min(rest, Math.round(steps * decayShare));
  return { warmup, stable: rest - decay, decay };
}
