/** Two-sided 95 % of the normal distribution lie within so many standard deviations. */
const Z = 1.959964;

/** From … to. */
export type Interval = readonly [low: number, high: number];

/**
 * Wilson's 95 % score interval of a share: the true shares that would give one as far off as `share` among `count`
 * independent questions in 5 % of all cases.
 */
export function wilson(share: number, count: number): Interval {
  const z2 = Z ** 2 / count;
  const centre = (share + z2 / 2) / (1 + z2);
  const half = (Z * Math.sqrt((share * (1 - share)) / count + (z2 / count) / 4)) / (1 + z2);
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/** The 95 % interval of a mean with this standard error, as the normal distribution has it. */
export function aroundMean(mean: number, standardError: number): Interval {
  return [mean - Z * standardError, mean + Z * standardError];
}
