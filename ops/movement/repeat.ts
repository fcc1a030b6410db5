import { expectWhole } from '../../engine/arguments.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { around, normalizeAxis, resized } from '../common/shapes.ts';
import { reshape } from './reshape.ts';
import { expand } from './view.ts';

/** Repeats each entry of a dimension `repeats` times in a row: a b → a a b b. */
export function repeatInterleave(x: Tensor, repeats: number, dim: number): Tensor {
  expectWhole('repeat_interleave', 'repeats', repeats, 1);
  const d = normalizeAxis('repeat_interleave', dim, x.shape.length);
  const { outer, length, inner } = around(x.shape, d);
  const repeated = expand(reshape(x, [outer * length, 1, inner]), [outer * length, repeats, inner]);
  return reshape(repeated, resized(x.shape, d, length * repeats));
}

/**
 * Repeats all of x along its dimensions: a b → a b a b (torch.tile, numpy.tile).
 * @param repeats how often along each of the last dimensions; more numbers than x has dimensions give it new ones
 */
export function tile(x: Tensor, repeats: readonly number[]): Tensor {
  for (const times of repeats) expectWhole('tile', 'a number of repeats', times);
  const rank = Math.max(x.shape.length, repeats.length);
  const last = <T>(values: readonly T[], one: T) => [...new Array<T>(rank - values.length).fill(one), ...values];
  const [own, times] = [last(x.shape, 1), last(repeats, 1)];
  const copies = own.flatMap((n, i) => [times[i], n]);
  return reshape(expand(reshape(x, own.flatMap((n) => [1, n])), copies), own.map((n, i) => n * times[i]));
}
