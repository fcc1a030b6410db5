import { cat, expand, flip, pad, permute, repeatInterleave, slice, split, stack, tril } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const movementAdapters: Adapters = {
  permute: ([x], { dims }) => permute(x, dims),
  expand: ([x], { shape }) => expand(x, shape),
  flip: ([x], { dims }) => flip(x, dims),
  slice: ([x], { dim, start, end, step }) => slice(x, dim, start, end, step),
  cat: (xs, { dim }) => cat(xs, dim),
  stack: (xs, { dim }) => stack(xs, dim),
  split: ([x], { sizes, dim }) => split(x, sizes, dim),
  pad: ([x], attrs) => pad(x, attrs.pad, attrs.value),
  repeat_interleave: ([x], { repeats, dim }) => repeatInterleave(x, repeats, dim),
  tril: ([x], { diagonal = 0 }) => tril(x, diagonal),
};
