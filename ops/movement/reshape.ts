import { elements } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { recordAlias } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';

/**
 * The same elements under another shape; one dimension may be -1. Free: no kernel runs, the storage is shared.
 * @throws ShapeError when the sizes differ
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const y = x.alias(resolve(x.shape, shape));
  recordAlias('reshape', x, y, (dy) => dy.alias(x.shape));
  return y;
}

function resolve(from: readonly number[], to: readonly number[]): number[] {
  const size = elements(from);
  const known = to.reduce((product, d) => (d === -1 ? product : product * d), 1);
  const free = to.filter((d) => d === -1).length;
  const shape = to.map((d) => (d === -1 && known > 0 ? size / known : d));
  if (free > 1 || !shape.every((d) => Number.isInteger(d) && d >= 0) || elements(shape) !== size) {
    throw new ShapeError(`reshape: ${show(from)} has ${size} elements, which do not fit ${show(to)}`);
  }
  return shape;
}
