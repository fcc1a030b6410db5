import type { BinaryName, KernelExports, WasmArg } from '../engine/backends/wasm/call.ts';
import { COLUMN, modeOf, ROW, SAME, SCALAR } from './elementwise.ts';

const COMMUTES: readonly BinaryName[] = ['add', 'mul', 'maximum', 'minimum'];

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

/** y = a ∘ b with broadcasting, by C kernels; false where they cannot. y may be a or b where that has y's shape. */
export function binaryOnWasm(k: KernelExports, name: BinaryName, a: WasmArg, b: WasmArg, y: WasmArg): boolean {
  if (a.size === y.size) return second(k, name, a, b, y);
  if (b.size !== y.size) return false;
  if (COMMUTES.includes(name)) return second(k, name, b, a, y);
  if (name === 'sub') {
    if (!second(k, 'sub', b, a, y)) return false;
    k.neg(y.ptr, y.ptr, y.size);
    return true;
  }
  k.reciprocal(b.ptr, y.ptr, y.size);
  return second(k, 'mul', y, a, y);
}
