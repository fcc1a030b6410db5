import { expectWhole } from '../../engine/arguments.ts';
import { ShapeError } from '../../engine/errors.ts';
import { scoped } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';
import { gt, lt } from '../elementwise/compare.ts';
import { arange, zeros } from '../elementwise/fill.ts';
import { where } from '../elementwise/where.ts';
import { reshape } from './reshape.ts';

/** x where column − row compares so with `diagonal`, and 0 elsewhere. */
const triangle = /* @__PURE__ */ scoped((op: string, x: Tensor, compare: typeof lt, diagonal: number): Tensor => {
  if (x.shape.length < 2) throw new ShapeError(`${op}: x has shape ${show(x.shape)}, expected at least 2 dimensions`);
  const [rows, columns] = x.shape.slice(-2);
  const least = Math.max(-rows - 1, Math.min(diagonal, columns + 1));
  const edge = arange(x.backend, rows + least, { start: least });
  const inside = compare(arange(x.backend, columns), reshape(edge, [rows, 1]));
  return where(inside, x, zeros(x.backend, [1], x.dtype));
});

/**
 * The lower triangle of the last two dimensions, up to a diagonal; zero above.
 * @param diagonal a whole number: 0 is the main one, 1 the next above
 * @throws ArgumentError for a diagonal that is no whole number
 */
export function tril(x: Tensor, diagonal = 0): Tensor {
  expectWhole('tril', 'diagonal', diagonal, -(2 ** 31));
  return triangle('tril', x, lt, diagonal + 1);
}

/** The upper triangle of the last two dimensions, from a diagonal on; zero below. `diagonal` is as in `tril`. */
export function triu(x: Tensor, diagonal = 0): Tensor {
  expectWhole('triu', 'diagonal', diagonal, -(2 ** 31));
  return triangle('triu', x, gt, diagonal - 1);
}
