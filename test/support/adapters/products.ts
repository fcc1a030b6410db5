import { conv2d, linear, matmul } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const productAdapters: Adapters = {
  matmul: ([a, b]) => matmul(a, b),
  linear: ([x, w, b]) => linear(x, w, b ?? null),
  conv2d: ([x, w, b], { stride, padding }) => conv2d(x, w, b ?? null, { stride, padding }),
};
