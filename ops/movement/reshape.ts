import { elements } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { recordAlias } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { normalizeDim, show } from '../common/shapes.ts';

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

/** x without its dimensions of size 1, or without those of `dims` that are (torch.squeeze). Free, as reshape is. */
export function squeeze(x: Tensor, dims: readonly number[] = x.shape.map((_, d) => d)): Tensor {
  const named = dims.map((d) => normalizeDim('squeeze', d, x.shape.length));
  return reshape(x, x.shape.filter((size, d) => size !== 1 || !named.includes(d)));
}

/** x with a dimension of size 1 before dimension `dim` of it, or at the end for −1 (torch.unsqueeze). Free. */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  const d = normalizeDim('unsqueeze', dim, x.shape.length + 1);
  return reshape(x, [...x.shape.slice(0, d), 1, ...x.shape.slice(d)]);
}
