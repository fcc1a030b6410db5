import { ArgumentError } from '../../../engine/errors.ts';

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

/** The phases of a run of `steps`: a warmup in steps, and a decay over the last `decayShare` of them. */
export function planSchedule(steps: number, warmup: number, decayShare: number): Schedule {
  if (warmup >= steps && steps > 0) {
    throw new ArgumentError(`warmup of ${warmup} steps does not fit a run of ${steps}; lower warmup or raise steps`);
  }
  const decay = Math.round(steps * decayShare);
  return { warmup, stable: Math.max(0, steps - warmup - decay), decay };
}
