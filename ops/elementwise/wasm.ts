import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import type { Slot } from '../../engine/plan.ts';
import { COLUMN, modeOf, ROW, SAME, SCALAR } from './kernel.ts';

/** The functions of two operands that have C kernels, by the kernel of the same with the operands exchanged. */
const EXCHANGED = {
  add: 'add',
  sub: 'rsub',
  mul: 'mul',
  div: 'rdiv',
  maximum: 'maximum',
  minimum: 'minimum',
} as const;

export type BinaryKernel = keyof typeof EXCHANGED;

export function hasBinaryKernel(name: string): name is BinaryKernel {
  return name in EXCHANGED;
}

type Calls = WasmPlanner['k'];

/** y = a ∘ b where b broadcasts and a does not; false where b repeats in a way that no C kernel walks. */
function second(k: Calls, name: BinaryKernel | 'rsub' | 'rdiv', a: Slot, b: Slot, y: Slot): boolean {
  const { kind, step, count } = modeOf(b, y.shape, y.size);
  switch (kind) {
    case SAME:
      k[name](a, b, y, y.size);
      return true;
    case SCALAR:
      k[`${name}_cols`](a, b, y, 1, y.size);
      return true;
    case ROW:
      k[`${name}_rows`](a, b, y, y.size / step, step);
      return true;
    case COLUMN:
      for (let i = 0; i < y.size; i += step * count) k[`${name}_cols`](at(a, 4 * i), b, at(y, 4 * i), count, step);
      return true;
    default:
      return false;
  }
}

/**
 * y = a ∘ b with broadcasting, all f32, by C kernels; false where they cannot: where both operands are stretched, or one
 * in a way that no kernel walks. y may be a or b where that has y's shape.
 */
export function binaryOnWasm(k: Calls, name: BinaryKernel, a: Slot, b: Slot, y: Slot): boolean {
  if (a.size === y.size) return second(k, name, a, b, y);
  return b.size === y.size && second(k, EXCHANGED[name], b, a, y);
}
