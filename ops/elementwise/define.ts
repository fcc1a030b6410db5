import type { Spec } from '../../engine/backend.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import type { Scalar } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, type DType, expectDType, FLOATS, isFloat } from '../../engine/dtype.ts';
import { DTypeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, type Op, type OpDefinition, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { broadcastIndex, broadcastShapes } from '../common/shapes.ts';
import { elementwise, type ElementwiseKernel, type Expression } from './kernel.ts';

/** A function of numbers: of the operands' elements, in order. */
export type Value = (...elements: number[]) => number;

/** Something of each operand, by its name. */
export type Each<T> = Readonly<Record<string, T>>;

/** One elementwise function, whose operands broadcast. */
export interface Elementwise<A, I extends string = string> {
  /** torch's. */
  readonly name: string;
  readonly inputs: readonly I[];
  /** Attributes that WGSL sees under `params`, as numbers of the result's type; or what it sees there. */
  readonly params?: readonly (keyof A & string)[] | ((attrs: A) => ElementwiseKernel['params']);
  /** The result's shape, where it is not the one that the operands broadcast to. */
  readonly shape?: (attrs: A) => readonly number[];
  /** The result's dtype. @throws DTypeError for operands that it does not take, ArgumentError for such attributes */
  readonly result: (inputs: Each<Spec>, attrs: A) => DType;
  /** Its value in JavaScript, of no more than one operand of the index too, and in WGSL. `whole`: of whole numbers. */
  readonly f: (attrs: A, whole: boolean) => Value;
  readonly wgsl: Expression;
  /** WGSL functions that the expressions call. */
  readonly helpers?: string;
  /** Calls C kernels on operands that are all f32; see `OpDefinition.wasm`. */
  readonly wasm?: (inputs: Each<Slot>, y: Slot, attrs: A, device: WasmPlanner) => boolean;
}

/** The op of an elementwise function. `gradient`: what it saves for backward, and its backward. */
export function defineElementwise<A, const I extends string>(
  own: Elementwise<A, I>,
  gradient?: Pick<OpDefinition<A, string, 'y', string>, 'saves' | 'backward'>,
): Op<A, I, 'y'> {
  const { name, inputs, params = [], helpers, wasm } = own;
  const definition: OpDefinition<A, string, 'y', string> = {
    name,
    inputs,
    outputs: ['y'],
    shape(given, attrs) {
      const dtype = own.result(given, attrs);
      const shapes = inputs.map((input) => given[input].shape);
      return { y: spec(own.shape?.(attrs) ?? shapes.reduce((a, b) => broadcastShapes(name, a, b)), dtype) };
    },
    reference(given, { y }, attrs) {
      const operands = inputs.map((input) => given[input]);
      fillWith(y, own.f(attrs, !isFloat((operands[0] ?? y).dtype)), operands);
    },
    webgpu(reads, { y }, attrs, { caps }) {
      const { type } = accessOf(y.dtype, caps);
      const numbers = typeof params === 'function' ? params(attrs) : numbersOf(params, attrs, type);
      // One of the operands may be called y.
      const writes = { result: y };
      const values = { result: own.wgsl };
      return [elementwise({ name, reads, writes, values, params: numbers, helpers }, caps)];
    },
    wasm: wasm && ((given, { y }, attrs, device) =>
      [y, ...Object.values(given)].every(({ dtype }) => dtype === 'f32') && wasm(given, y, attrs, device)),
    asStored: { webgpu: [...inputs, 'y'] },
    ...gradient,
  };
  return defineOp(definition) as unknown as Op<A, I, 'y'>;
}

/** Attributes as params of that type. */
export function numbersOf<A>(names: readonly (keyof A & string)[], attrs: A, type: Scalar): ElementwiseKernel['params'] {
  return Object.fromEntries(names.map((name) => [name, [type, attrs[name] as number] as const]));
}

/** A function as tables have it: where it takes whole numbers too, with what it is on them if that is not the same. */
export interface Row {
  readonly f: Value;
  readonly wgsl: string;
  readonly integers?: { readonly f?: Value; readonly wgsl?: Expression };
}

/** What a row says of floats and of whole numbers, by those of the operand `first`. */
export function valuesOf({ f, wgsl, integers }: Row, first: string): Pick<Elementwise<unknown>, 'f' | 'wgsl'> {
  return {
    f: (_, whole) => (whole && integers?.f) || f,
    wgsl: (types) => {
      const other = types[first] === 'f32' ? undefined : integers?.wgsl;
      return typeof other === 'function' ? other(types) : (other ?? wgsl);
    },
  };
}

/** y[i] = f of the i-th elements of the operands, which broadcast; absent ones are not looked at. */
export function fillWith(y: HostArg, f: Value, operands: readonly (HostArg | undefined)[]): void {
  const unused = y.data;
  const [a = unused, b = unused, c = unused, d = unused, e = unused] = operands.map((x) => x && stretched(x, y));
  if (operands.length === 0) for (let i = 0; i < y.size; i++) y.data[i] = f(i);
  else if (operands.length === 1) for (let i = 0; i < y.size; i++) y.data[i] = f(a[i], i);
  else if (operands.length === 2) for (let i = 0; i < y.size; i++) y.data[i] = f(a[i], b[i]);
  else for (let i = 0; i < y.size; i++) y.data[i] = f(a[i], b[i], c[i], d[i], e[i]);
}

/** The elements of x that belong to those of y. */
function stretched({ data, size, shape }: HostArg, y: HostArg): ArrayLike<number> {
  if (size === y.size) return data;
  const elements = new Float64Array(y.size);
  const from = broadcastIndex(shape, y.shape);
  for (let i = 0; i < y.size; i++) elements[i] = data[from[i]];
  return elements;
}

/** Dtypes of whole numbers that arithmetic takes. */
export const INTEGERS = ['i32', 'u32'] as const;
/** What comparisons and `where` take. */
export const ELEMENTS = [...FLOATS, ...INTEGERS, 'bool'] as const;

/**
 * The dtype of what is computed from operands together, as torch has it of floats: the one that they share, else f32.
 * @throws DTypeError unless all are of `allowed`, and are floats where they differ
 */
export function promote(op: string, operands: Each<Spec>, ...allowed: readonly DType[]): DType {
  const named = Object.entries(operands);
  for (const [name, { dtype }] of named) expectDType(op, name, dtype, ...allowed);
  const [[, { dtype }]] = named;
  if (named.every(([, other]) => other.dtype === dtype)) return dtype;
  if (named.every(([, other]) => isFloat(other.dtype))) return 'f32';
  const dtypes = named.map(([name, { dtype }]) => `${name} is ${dtype}`).join(' and ');
  throw new DTypeError(`${op}: ${dtypes}, expected one dtype, or floats; convert with cast()`);
}
