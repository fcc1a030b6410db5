import { isPlain } from './dtype.ts';
import type { AnyOp } from './op.ts';
import type { Slot } from './plan.ts';

type Slots = readonly (Slot | undefined)[];

/** What a kernel gets in the place of operands that are stored in a format that it does not read. */
export interface Widened {
  readonly inputs: Slots;
  readonly outputs: Slots;
  /** What is to be converted before the kernel runs: from a stored operand to f32. */
  readonly before: readonly (readonly [from: Slot, to: Slot])[];
  /** The same after it: from f32 to the stored operand. */
  readonly after: readonly (readonly [from: Slot, to: Slot])[];
}

/**
 * Stands f32 scratch in for operands that are stored in 16 bits or in blocks, but for those that the op's kernels
 * access as they are (`OpDefinition.asStored`). So an op takes every format before it has kernels for it.
 */
export function widen(
  { asStored, mutates }: AnyOp,
  kind: 'webgpu' | 'wasm',
  inputs: Slots,
  outputs: Slots,
  scratch: (shape: readonly number[]) => Slot,
): Widened {
  const before: [Slot, Slot][] = [];
  const after: [Slot, Slot][] = [];
  const place = (slot: Slot | undefined, i: number): Slot | undefined => {
    if (!slot || isPlain(slot.dtype) || asStored[kind](i, inputs.length)) return slot;
    const wide = scratch(slot.shape);
    if (i < inputs.length) before.push([slot, wide]);
    if (i >= inputs.length || mutates.includes(i)) after.push([wide, slot]);
    return wide;
  };
  return { inputs: inputs.map(place), outputs: outputs.map((slot, i) => place(slot, inputs.length + i)), before, after };
}
