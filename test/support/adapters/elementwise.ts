import { binary, binaryNames, clamp, eq, gt, lt, where } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const elementwiseAdapters: Adapters = {
  ...Object.fromEntries(
    binaryNames.map((name) => [name, ([a, b]) => binary(name, a, b)] satisfies [string, Adapters[string]]),
  ),
  clamp: ([x], { min, max }) => clamp(x, { min, max }),
  where: ([cond, a, b]) => where(cond, a, b),
  eq: ([a, b]) => eq(a, b),
  lt: ([a, b]) => lt(a, b),
  gt: ([a, b]) => gt(a, b),
};
