import { apply } from '../../engine/apply.ts';
import type { Address, WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { ArgumentError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import type { Elementwise } from './define.ts';
import { defineDifferentiable, type Partial } from './gradient.ts';

/** A function in JavaScript and in WGSL. */
type Formula<P extends string> = readonly [
  f: (x: number, y: number, params: Readonly<Record<P, number>>) => number,
  wgsl: string,
];

interface UnaryOptions<P extends string> {
  /** Numbers that the function depends on. */
  readonly params?: readonly P[];
  /** Where it takes whole numbers too: what it is on them if that is not the same. */
  readonly integers?: Elementwise<object>['integers'];
  /** Where the derivative is 0 so is the gradient, whatever is multiplied by it. */
  readonly masks?: boolean;
}

/** Calls the C kernel of that name; false where there is none. */
function called(k: WasmPlanner['k'], name: string, ...args: readonly (Address | number)[]): boolean {
  const kernels = k as unknown as Readonly<Record<string, ((...given: typeof args) => void) | undefined>>;
  kernels[name]?.(...args);
  return kernels[name] !== undefined;
}

/**
 * An elementwise function, of x and of the numbers it depends on where there are any. Other ops can apply it to what
 * they compute: by its name, in their own kernels.
 */
export interface Activation<P extends string = never> {
  (x: Tensor, ...params: [P] extends [never] ? [] : [Readonly<Record<P, number>>]): Tensor;
  readonly torchName: string;
}

const formulas = /* @__PURE__ */ new Map<string, Formula<never>>();

/** The name that kernels know the function by. @throws ArgumentError for one that is no elementwise function of x */
export function nameOf(op: string, activation?: Activation): string | undefined {
  if (!activation || formulas.has(activation.torchName)) return activation?.torchName;
  throw new ArgumentError(`${op}: activation is ${activation.name ?? activation}, expected an elementwise function such as geluTanh`);
}

/** `activate_NAME(x: f32)` in WGSL for each of the functions that are named; they may call the library's. */
export function activationsWgsl(names: Iterable<string | undefined>): string {
  const code = (name?: string) => (name ? `fn activate_${name}(x: f32) -> f32 { return ${formulas.get(name)![1]}; }\n` : '');
  return [...new Set(names)].map(code).join('');
}

export function activationOnHost(name: string): (x: number) => number {
  const [f] = formulas.get(name)!;
  return (x) => f(x, x, {});
}

/** Applies it to what `y` holds, by its C kernel; false where there is none. */
export function activationOnWasm(k: WasmPlanner['k'], name: string, y: Slot): boolean {
  return called(k, name, y, y, y.size);
}

/**
 * The elementwise function of torch's name: floats of any shape → the same shape and dtype. Where wasm/src/unary.c has
 * a function of the same name, it computes it and its gradient.
 * @param value of x
 * @param slope its derivative in terms of x and y, what the function gives; the number where it is constant
 */
export function unary<P extends string = never>(
  name: string,
  value: Formula<P>,
  slope: Formula<P> | number,
  { params, integers, masks }: UnaryOptions<P> = {},
): Activation<P> {
  const [f, wgsl] = value;
  if (!params) formulas.set(name, value as Formula<never>);
  const op = defineDifferentiable<Readonly<Record<P, number>>, 'x'>({
    name,
    inputs: ['x'],
    params,
    f: (numbers) => (x) => f(x, x, numbers),
    wgsl,
    integers,
    partials: { x: typeof slope === 'number' ? slope : chained(name, slope, masks) },
    wasm: ({ x }, y, _, { k }) => called(k, name, x, y, y.size),
  });
  const none = {} as Readonly<Record<P, number>>;
  return Object.assign((x: Tensor, numbers = none) => apply(op, { x }, params ? numbers : none).y, { torchName: name });
}

/** dy·f′. */
function chained<P extends string>(
  name: string,
  [df, wgsl]: Formula<P>,
  masks = false,
): Partial<Readonly<Record<P, number>>> {
  return {
    f: (numbers) => (x, y, dy) => {
      const d = df(x, y, numbers);
      return masks && d === 0 ? 0 : dy * d;
    },
    wgsl: masks ? `select(0.0, dy * (${wgsl}), (${wgsl}) != 0.0)` : `dy * (${wgsl})`,
    // dy stands in for what the derivative does not look at.
    wasm: ({ x, y, dy }, dx, _, { k }) => called(k, `${name}_backward`, x ?? dy, y ?? dy, dy, dx, dx.size),
  };
}
