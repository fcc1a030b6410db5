import {
  amax,
  amin,
  argmax,
  cumsum,
  logSoftmax,
  logsumexp,
  mean,
  norm,
  softmax,
  sum,
  topk,
} from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const reduceAdapters: Adapters = {
  sum: ([x], { dim, keepdim }) => sum(x, { dim, keepdim }),
  mean: ([x], { dim, keepdim }) => mean(x, { dim, keepdim }),
  amax: ([x], { dim, keepdim }) => amax(x, { dim, keepdim }),
  amin: ([x], { dim, keepdim }) => amin(x, { dim, keepdim }),
  logsumexp: ([x], { dim, keepdim }) => logsumexp(x, { dim, keepdim }),
  norm: ([x]) => norm(x),
  argmax: ([x], { dim }) => argmax(x, dim),
  cumsum: ([x], { dim }) => cumsum(x, dim),
  topk: ([x], { k, dim }) => topk(x, k, dim),
  softmax: ([x], { dim }) => softmax(x, dim),
  log_softmax: ([x], { dim }) => logSoftmax(x, dim),
};
