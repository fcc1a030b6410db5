import { expectOneOf, expectWhole } from '../../engine/arguments.ts';
import { expectStorable } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { scoped } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { resized, show } from '../common/shapes.ts';
import { clone } from '../elementwise/copy.ts';
import { fill } from '../elementwise/fill.ts';
import { cat } from './join.ts';
import { expand, flip, slice } from './view.ts';

export type PadMode = 'constant' | 'reflect' | 'replicate';

interface Mode {
  /** What stands beside x along a dimension, `amount` of it. */
  readonly margin: (x: Tensor, side: 'before' | 'after', dim: number, amount: number, value: number) => Tensor;
  /** How much at most, beside so many. */
  readonly most: (size: number) => number;
}

const MODES: Readonly<Record<PadMode, Mode>> = {
  constant: {
    margin: (x, _, dim, amount, value) => fill(x.backend, resized(x.shape, dim, amount), value, x.dtype),
    most: () => Infinity,
  },
  reflect: {
    margin: (x, side, dim, n) => flip(side === 'before' ? slice(x, dim, 1, n + 1) : slice(x, dim, -n - 1, -1), [dim]),
    most: (size) => size - 1,
  },
  replicate: {
    margin: (x, side, dim, amount) =>
      expand(side === 'before' ? slice(x, dim, 0, 1) : slice(x, dim, -1), resized(x.shape, dim, amount)),
    most: (size) => (size > 0 ? Infinity : 0),
  },
};

/**
 * Pads with a constant, with what lies mirrored behind the edge (the edge itself left out), or with the edge
 * (torch.nn.functional.pad). `padding` is torch's: [before, after] of the last dimension first, then of the one before
 * it. Negative amounts crop.
 * @param x of any dtype
 * @param value of the constant; other modes have no use for it
 * @throws ArgumentError for amounts that are no whole numbers, a value that x's dtype cannot hold and an unknown mode;
 *   ShapeError for a list that does not fit x, for cropping more than x has and mirroring all of it or more
 */
export const pad = /* @__PURE__ */ scoped((x: Tensor, padding: readonly number[], value: number = 0, mode: PadMode = 'constant') => {
  const rank = x.shape.length;
  if (padding.length % 2 !== 0 || padding.length > 2 * rank) {
    throw new ShapeError(`pad: ${show(padding)} is no list of [before, after] pairs for at most ${rank} dimensions`);
  }
  for (const amount of padding) expectWhole('pad', 'an amount of padding', amount, -(2 ** 31));
  expectStorable('pad', value, x.dtype);
  expectOneOf('pad', 'mode', mode, ...Object.keys(MODES));
  const { margin, most } = MODES[mode];
  let y = x;
  for (let i = 0; i < padding.length; i += 2) {
    const [dim, first, last] = [rank - 1 - i / 2, padding[i], padding[i + 1]];
    const size = x.shape[dim];
    if (size + first + last < 0) throw new ShapeError(`pad: ${show(padding)} crops more than ${show(x.shape)} has`);
    if (Math.max(first, last, 0) > Math.max(most(size), 0)) {
      throw new ShapeError(`pad: ${show(padding)} needs more than ${show(x.shape)} has in dim ${dim} for mode ${mode}`);
    }
    const parts = [y];
    if (first > 0) parts.unshift(margin(y, 'before', dim, first, value));
    if (last > 0) parts.push(margin(y, 'after', dim, last, value));
    if (parts.length > 1) y = cat(parts, dim);
    if (Math.min(first, last) < 0) y = slice(y, dim, Math.max(0, -first), y.shape[dim] - Math.max(0, -last));
  }
  return y === x ? clone(x) : y;
});
