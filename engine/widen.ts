import { isPlain } from './dtype.ts';
import type { Call, Slot, Slots } from './plan.ts';

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
  { op, inputs, outputs }: Call,
  kind: 'webgpu' | 'wasm',
  scratch: (shape: readonly number[]) => Slot,
): Widened {
  const before: [Slot, Slot][] = [];
  const after: [Slot, Slot][] = [];
  const place = (slot: Slot | undefined): Slot | undefined => {
    if (!slot || isPlain(slot.dtype)) return slot;
    const made = slot.slot - inputs.length;
    if (op.asStored?.[kind]?.includes(made < 0 ? op.takes.nameOf(slot.slot) : op.gives.nameOf(made))) return slot;
    const wide = scratch(slot.shape);
    if (made < 0) before.push([slot, wide]);
    if (made >= 0 || op.mutates.includes(slot.slot)) after.push([wide, slot]);
    return wide;
  };
  return { inputs: inputs.map(place), outputs: outputs.map(place), before, after };
}
