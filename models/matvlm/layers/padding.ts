import { ShapeError } from '../../../engine/errors.ts';
import { fromData, type Tensor } from '../../../engine/tensor.ts';
import { add, cast, cat, expand, fill, gather, indexSelect, reshape, slice, sum, where } from '../../../ops/index.ts';
import { mapRows, type RowLengths } from './state.ts';

/**
 * A pass over rows of different lengths, padded on the right. What is kept of a row is what it had after its own last
 * token: padding is no key, takes no position and leaves no trace in a state.
 */
export interface Padding {
  /** (B, S) i32 over all keys, past ones included: 0 for padding. */
  readonly mask: Tensor;
  /** (B, L) i32: the same over the tokens of this pass. */
  readonly own: Tensor;
  /** (B) i32: the position of each row's first token. */
  readonly start: Tensor;
  /** (B) f32: how many tokens each row has in this pass. */
  readonly count: Tensor;
}

/** What came before a pass: how many keys, and how they lie in rows of different lengths. */
interface Before {
  readonly length: number;
  readonly rows: RowLengths | null;
}

/**
 * Null where all rows are whole.
 * @param x (B, L, D), the pass's input
 * @param owner (B) i32: the row of the past that each row goes on from; its own where null
 * @param keyMask (B, S) over all keys; null when the tokens of this pass all count
 * @throws ShapeError for a mask of another shape
 */
export function paddingOf(x: Tensor, before: Before, owner: Tensor | null, keyMask: Tensor | null): Padding | null {
  if (!before.rows && !keyMask) return null;
  const { backend, shape: [b, l] } = x;
  const past = before.rows && owner ? mapRows(before.rows, (t) => indexSelect(t, 0, owner)) : before.rows;
  const keys = before.length + l;
  if (keyMask && keyMask.shape.join() !== `${b},${keys}`) {
    throw new ShapeError(`the key mask has shape [${keyMask.shape.join(', ')}], expected [${b}, ${keys}]: all keys`);
  }
  const mask = keyMask ?? cat([past!.mask, fill(backend, [b, l], 1, 'i32')], 1);
  const own = slice(mask, 1, before.length);
  const start = past?.lengths ?? fill(backend, [b], before.length, 'i32');
  return { mask, own, start, count: sum(cast(own, 'f32'), { dim: 1 }) };
}

/** Padding with each tensor replaced. */
export function mapPadding({ mask, own, start, count }: Padding, map: (t: Tensor) => Tensor): Padding {
  return { mask: map(mask), own: map(own), start: map(start), count: map(count) };
}

/** The rows after a pass. */
export function rowsAfter({ mask, start, count }: Padding): RowLengths {
  return { mask, lengths: cast(add(cast(start, 'f32'), count), 'i32') };
}

/** The last `n` columns of each row's own in (B, n + L, C): n from before the pass, then those of its tokens. */
export function ownLast(columns: Tensor, n: number, { count }: Padding): Tensor {
  const [b, , c] = columns.shape;
  const steps = fromData(columns.backend, Array.from({ length: n }, (_, i) => i), [n]);
  const index = cast(add(reshape(count, [b, 1]), steps), 'i32');
  return gather(columns, 1, expand(reshape(index, [b, n, 1]), [b, n, c]));
}

/** Step sizes before the softplus, (B, L, H), at padding so small that the state space stands still. */
export function still(dt: Tensor, { own }: Padding): Tensor {
  return where(reshape(own, [...own.shape, 1]), dt, fill(dt.backend, [1], -1e30));
}
