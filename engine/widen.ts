import { isPlain } from './dtype.ts';
import type { Call, Slot } from './plan.ts';

/**
 * Stands f32 scratch in for operands that are stored in 16 bits or in blocks, but for those that the op's kernels
 * access as they are (`OpDefinition.asStored`). So an op takes every format before it has kernels for it.
 * @returns what the kernels get, and what is to be converted before they run, to f32, and after it, from f32
 */
export function widen(
  { op, inputs, outputs }: Call,
  kind: 'webgpu' | 'wasm',
  scratch: (shape: readonly number[]) => Slot,
) {
  const before: [from: Slot, to: Slot][] = [];
  const after: [from: Slot, to: Slot][] = [];
  const place = (slot: Slot | undefined): Slot | undefined => {
    if (!slot || isPlain(slot.dtype)) return slot;
    const made = slot.slot - inputs.length;
    const written = made >= 0 || op.mutates.includes(slot.slot);
    if (kind === 'webgpu' && !written) return slot;
    if (op.asStored?.[kind]?.includes(made < 0 ? op.takes.nameOf(slot.slot) : op.gives.nameOf(made))) return slot;
    const wide = scratch(slot.shape);
    if (made < 0) before.push([slot, wide]);
    if (written) after.push([wide, slot]);
    return wide;
  };
  return { inputs: inputs.map(place), outputs: outputs.map(place), before, after };
}
