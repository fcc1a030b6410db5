import { expectWhole } from '../../engine/arguments.ts';
import { elements, type Spec } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { Tensor } from '../../engine/tensor.ts';
import { show } from './shapes.ts';

/**
 * Channels `from` up to and without `to` of a tensor (B, 1, W), read where they lie: what one projection made for
 * several uses need not be split.
 */
export interface Channels {
  readonly of: Tensor;
  readonly from: number;
  readonly to: number;
}

/** Where a token's values lie in a row of an operand: attributes of an op. */
export interface Range {
  readonly from: number;
  readonly size: number;
}

/** @param given a tensor (B, 1, …), all of it, or some of its channels */
export function rangeOf(op: string, name: string, given: Tensor | Channels): { tensor: Tensor; range: Range } {
  if (given instanceof Tensor) return { tensor: given, range: { from: 0, size: rowSize(given) } };
  const { of: tensor, from, to } = given;
  expectWhole(op, `${name}.from`, from, 0, to);
  expectWhole(op, `${name}.to`, to, from, rowSize(tensor));
  return { tensor, range: { from, size: to - from } };
}

/** Elements of one token. */
export function rowSize({ shape }: Spec): number {
  return elements(shape.slice(2));
}

/** @throws ShapeError unless the operand holds one token of each of the batch's sequences */
export function expectOneToken(op: string, name: string, { shape }: Spec, batch: number): void {
  if (shape.length >= 2 && shape[0] === batch && shape[1] === 1) return;
  const expected = `one token of each sequence, [${batch}, 1, …]`;
  throw new ShapeError(`${op}: ${name} has shape ${show(shape)}, expected ${expected}`);
}
