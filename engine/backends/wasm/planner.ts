import { elements } from '../../backend.ts';
import { formatNumber } from '../../dtype.ts';
import type { Call, Slot } from '../../plan.ts';
import { widen } from '../../widen.ts';
import type { Address, KernelCalls, Kernels, Sizes } from '../../../wasm/kernels.ts';

export type { Address } from '../../../wasm/kernels.ts';

/** A call of a C kernel, ready but for where its operands lie. */
export interface WasmCall {
  readonly kernel: (...args: number[]) => void;
  /** Plain numbers, and offsets in bytes from where operands begin. */
  readonly args: readonly number[];
  /** For each argument, which of the call's operands it points into; −1 for plain numbers. */
  readonly slots: readonly number[];
  /** Room for the arguments of one call, used again by the next. */
  readonly given: number[];
}

/** What an op's `wasm` gets beside its operands. */
export interface WasmPlanner {
  /** The C kernels, whose calls are noted. Operands and scratch stand for where they begin, `at` for places within. */
  readonly k: KernelCalls;
  /** Says how many bytes of scratch a kernel wants. */
  readonly sizes: Sizes;
  /** Room for this call only, 64-byte aligned. */
  scratch(bytes: number): Address;
}

/** So many bytes behind where an operand begins. */
export function at({ slot, offset = 0 }: Address, bytes: number): Address {
  return { slot, offset: offset + bytes };
}

/** Notes the calls that an op's `wasm` makes. */
export class WasmRecorder {
  private readonly k: KernelCalls;
  private calls: WasmCall[] = [];

  constructor(private readonly kernels: Kernels) {
    const noted = Object.entries(kernels).flatMap(([name, kernel]) =>
      typeof kernel === 'function' ? [[name, (...given: Argument[]) => this.note(kernel, given)]] : [],
    );
    this.k = Object.fromEntries(noted) as KernelCalls;
  }

  /** The calls that an op makes, null where it has none for such operands; scratch is numbered after its slots. */
  record(call: Call): { calls: readonly WasmCall[] | null; scratch: readonly number[] } {
    const { op, inputs, outputs, attrs } = call;
    const calls: WasmCall[] = (this.calls = []);
    const scratch: number[] = [];
    const room = (bytes: number): Address => ({ slot: inputs.length + outputs.length + scratch.push(bytes) - 1 });
    const wide = (shape: readonly number[]): Slot => {
      const size = elements(shape);
      return { shape, dtype: 'f32', size, slot: room(4 * size).slot };
    };
    const given = widen(call, 'wasm', wide);
    for (const [from, to] of given.before) this.k.widen(from, to, to.size, formatNumber(from.dtype));
    const device = { k: this.k, sizes: this.kernels, scratch: room };
    const native = op.wasm?.(op.takes.named(given.inputs), op.gives.named(given.outputs), attrs, device) ?? false;
    for (const [from, to] of given.after) this.k.narrow(from, to, from.size, formatNumber(to.dtype));
    return native ? { calls, scratch } : { calls: null, scratch: [] };
  }

  private note(kernel: (...args: number[]) => void, given: readonly Argument[]): void {
    this.calls.push({
      kernel,
      args: given.map((arg) => (typeof arg === 'object' ? (arg.offset ?? 0) : (arg ?? 0))),
      slots: given.map((arg) => (typeof arg === 'object' ? arg.slot : -1)),
      given: given.map(() => 0),
    });
  }
}

type Argument = number | Address | undefined;
