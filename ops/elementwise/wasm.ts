import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import type { Slot } from '../../engine/plan.ts';
import { broadcastStrides, mergeDims } from '../common/shapes.ts';

/** The functions of two operands that have C kernels, by the kernel of the same with the operands exchanged. */
const EXCHANGED = { add: 'add', sub: 'rsub', mul: 'mul', div: 'rdiv', maximum: 'maximum', minimum: 'minimum' } as const;

type BinaryKernel = keyof typeof EXCHANGED;

export function hasBinaryKernel(name: string): name is BinaryKernel {
  return name in EXCHANGED;
}

type Calls = WasmPlanner['k'];

/** y = a ∘ b where b broadcasts and a does not; false where b repeats in a way that no C kernel walks. */
function second(k: Calls, name: BinaryKernel | 'rsub' | 'rdiv', a: Slot, b: Slot, y: Slot): boolean {
  const { sizes, strides: [walk] } = mergeDims(y.shape, [broadcastStrides(b.shape, y.shape)]);
  const step = sizes[sizes.length - 1];
  // Which dims b has, those merged that it has or has not together.
  switch (walk.map((stride) => Math.min(stride, 1)).join('')) {
    case '':
    case '1':
      k[name](a, b, y, y.size);
      return true;
    case '01':
      k[`${name}_rows`](a, b, y, y.size / step, step);
      return true;
    case '0':
    case '10':
    case '010':
      for (let i = 0; i < y.size; i += step * b.size) k[`${name}_cols`](at(a, 4 * i), b, at(y, 4 * i), b.size, step);
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
