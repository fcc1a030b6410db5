import { expectWhole } from '../../engine/arguments.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { normalizeAxis, show } from '../common/shapes.ts';
import { cat, split } from './join.ts';

/**
 * Moves entries along dimensions, those that leave at the end to the front (torch.roll): a b c by 1 → c a b.
 * @param shifts by how much, for each of `dims`; negative moves to the front
 * @throws ShapeError unless there are as many shifts as dims, ArgumentError for a shift that is no whole number
 */
export function roll(x: Tensor, shifts: readonly number[], dims: readonly number[]): Tensor {
  if (shifts.length !== dims.length || dims.length === 0) {
    throw new ShapeError(`roll: shifts ${show(shifts)} for dims ${show(dims)}, expected one for each`);
  }
  return dims.reduce((y, dim, i) => {
    expectWhole('roll', 'a shift', shifts[i], -Infinity, Infinity);
    const d = normalizeAxis('roll', dim, x.shape.length);
    const size = x.shape[d];
    const moved = size === 0 ? 0 : ((shifts[i] % size) + size) % size;
    const [head, tail] = split(y, [size - moved, moved], d);
    return cat([tail, head], d);
  }, x);
}
