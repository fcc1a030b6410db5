import { type KernelExports, type WasmArg } from '../../engine/positional.ts';
import { COLUMN, modeOf, ROW, SAME, SCALAR } from './elementwise.ts';

/** The C kernels of two operands. */
type BinaryName = keyof typeof EXCHANGED | 'rsub' | 'rdiv';

/** The functions by the kernel that computes them with the operands exchanged. */
const EXCHANGED = {
  add: 'add',
  sub: 'rsub',
  mul: 'mul',
  div: 'rdiv',
  maximum: 'maximum',
  minimum: 'minimum',
} as const;

/** y = a ∘ b where b broadcasts and a does not; false where b repeats in a way that no C kernel walks. */
function second(k: KernelExports, name: BinaryName, a: WasmArg, b: WasmArg, y: WasmArg): boolean {
  const mode = modeOf(b, y.shape, y.size);
  switch (mode.kind) {
    case SAME:
      k[name](a.ptr, b.ptr, y.ptr, y.size);
      return true;
    case SCALAR:
      k[`${name}_cols`](a.ptr, b.ptr, y.ptr, 1, y.size);
      return true;
    case ROW:
      k[`${name}_rows`](a.ptr, b.ptr, y.ptr, y.size / mode.step, mode.step);
      return true;
    case COLUMN:
      for (let at = 0; at < y.size; at += mode.step * mode.count) {
        k[`${name}_cols`](a.ptr + at * 4, b.ptr, y.ptr + at * 4, mode.count, mode.step);
      }
      return true;
    default:
      return false;
  }
}

/**
 * y = a ∘ b with broadcasting, by C kernels; false where they cannot: where both operands are stretched, or one in a
 * way that no kernel walks. y may be a or b where that has y's shape.
 */
export function binaryOnWasm(
  k: KernelExports,
  name: keyof typeof EXCHANGED,
  a: WasmArg,
  b: WasmArg,
  y: WasmArg,
): boolean {
  if (a.size === y.size) return second(k, name, a, b, y);
  return b.size === y.size && second(k, EXCHANGED[name], b, a, y);
}
