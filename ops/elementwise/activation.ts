import { apply } from '../../engine/apply.ts';
import type { Address, WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { FLOATS } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { INTEGERS, promote, type Row, type Value, valuesOf } from './define.ts';
import { defineDifferentiable } from './gradient.ts';

/**
 * One elementwise function: its value, and its derivative in terms of input x and output y, in JavaScript and WGSL.
 * Where wasm/src/unary.c has a function of the same name, it computes both.
 */
interface UnaryRow extends Row {
  /** A number, of which there is no WGSL, where it is constant. */
  readonly df: ((x: number, y: number) => number) | number;
  readonly dwgsl?: string;
  /** Functions the WGSL expressions call. */
  readonly helpers?: string;
}

type CUnary = (x: Address, y: Address, n: number) => void;
type CUnaryBackward = (x: Address, y: Address, dy: Address, dx: Address, n: number) => void;

/** A C kernel by name; undefined where there is none. */
const kernel = <T>(k: WasmPlanner['k'], name: string) => (k as unknown as Readonly<Record<string, T | undefined>>)[name];

/** An elementwise function, which other ops can apply to what they compute: by its name, in their own kernels. */
export interface Activation {
  (x: Tensor): Tensor;
  readonly torchName: string;
}

const rows = /* @__PURE__ */ new Map<string, UnaryRow>();

/** `activate_NAME(x: f32)` in WGSL for each of the functions that are named, with what they call. */
export function activationsWgsl(names: Iterable<string | undefined>): string {
  const code = [...new Set(names)].map((name) => {
    const { wgsl, helpers = '' } = rows.get(name!) ?? {};
    return name ? `${helpers}\nfn activate_${name}(x: f32) -> f32 { return ${wgsl as string}; }\n` : '';
  });
  // Several may call the same functions.
  const declarations = code.join('').split(/^(?=fn |const )/m);
  return [...new Set(declarations.map((one) => `${one.trim()}\n`))].join('');
}

export function activationOnHost(name: string): (x: number) => number {
  return rows.get(name)!.f!;
}

/** Applies it to what `y` holds, by its C kernel; false where there is none. */
export function activationOnWasm(k: WasmPlanner['k'], name: string, y: Slot): boolean {
  const call = kernel<CUnary>(k, name);
  call?.(y, y, y.size);
  return call !== undefined;
}

/** The elementwise function of torch's name: floats of any shape → the same shape and dtype. */
export function unary(name: string, row: UnaryRow): Activation {
  rows.set(name, row);
  const { df, dwgsl, helpers, integers } = row;
  const slope = df as Value;
  const op = defineDifferentiable<object, 'x'>({
    name,
    inputs: ['x'],
    result: (inputs) => promote(name, inputs, ...FLOATS, ...(integers ? INTEGERS : [])),
    ...valuesOf(row, 'x'),
    helpers,
    partials: {
      x: typeof df === 'number' ? df : { f: () => (x, y, dy) => dy * slope(x, y), wgsl: `dy * (${dwgsl})` },
    },
    wasm({ x }, y, _, { k }) {
      const call = kernel<CUnary>(k, name);
      call?.(x, y, y.size);
      return call !== undefined;
    },
    wasmBackward({ x, y, dy }, { dx }, _, { k }) {
      const call = kernel<CUnaryBackward>(k, `${name}_backward`);
      // dy stands in for what the derivative does not look at.
      call?.(x ?? dy, y ?? dy, dy, dx, dx.size);
      return call !== undefined;
    },
  });
  return Object.assign((x: Tensor) => apply(op, { x }, {}).y, { torchName: name });
}
