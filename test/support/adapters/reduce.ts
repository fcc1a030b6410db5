import { amax, amin, logsumexp, mean, sum } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const reduceAdapters: Adapters = {
  sum: ([x], { dim, keepdim }) => sum(x, { dim, keepdim }),
  mean: ([x], { dim, keepdim }) => mean(x, { dim, keepdim }),
  amax: ([x], { dim, keepdim }) => amax(x, { dim, keepdim }),
  amin: ([x], { dim, keepdim }) => amin(x, { dim, keepdim }),
  logsumexp: ([x], { dim, keepdim }) => logsumexp(x, { dim, keepdim }),
};
