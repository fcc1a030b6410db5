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
  /** Those that may be absent are marked by `?`. */
  readonly inputs: readonly I[];
  /** Attributes that WGSL sees under `params`, as numbers of the result's type, and `words` as u32. */
  readonly params?: readonly (keyof A & string)[];
  readonly words?: readonly (keyof A & string)[];
  /** The result's shape, where it is not the one that the operands broadcast to. */
  readonly shape?: (attrs: A) => readonly number[];
  /**
   * The result's dtype, where it is not the one that the operands have together: floats, and where `integers` says
   * something whole numbers.
   * @throws DTypeError for operands that it does not take, ArgumentError for such attributes
   */
  readonly result?: (inputs: Each<Spec>, attrs: A) => DType;
  /** Its value in JavaScript, of no more than two operands of the index too, and in WGSL. */
  readonly f: (attrs: A) => Value;
  readonly wgsl: Expression;
  /** What it is of whole numbers, where that is not the same. */
  readonly integers?: { readonly f?: (attrs: A) => Value; readonly wgsl?: Expression };
  /** WGSL functions that only its expressions call. */
  readonly helpers?: string;
  /** Calls C kernels on operands that are all f32; see `OpDefinition.wasm`. */
  readonly wasm?: (inputs: Each<Slot>, y: Slot, attrs: A, device: WasmPlanner) => boolean;
}

/** The op of an elementwise function. `gradient`: what it saves for backward, and its backward. */
export function defineElementwise<A, const I extends string>(
  own: Elementwise<A, I>,
  gradient?: Pick<OpDefinition<A, string, 'y', string>, 'saves' | 'backward'>,
): Op<A, I, 'y'> {
  const { name, inputs, integers, helpers, wasm } = own;
  const names = inputs.map((input) => input.replace('?', ''));
  const definition: OpDefinition<A, string, 'y', string> = {
    name,
    inputs,
    outputs: ['y'],
    shape(given, attrs) {
      const dtype = own.result?.(given, attrs) ?? promote(name, given, ...FLOATS, ...(integers ? INTEGERS : []));
      const shapes = Object.values(given).map(({ shape }) => shape);
      return { y: spec(own.shape?.(attrs) ?? shapes.reduce((a, b) => broadcastShapes(name, a, b)), dtype) };
    },
    reference(given, { y }, attrs) {
      const whole = !isFloat((given[names[0]] ?? y).dtype);
      fillWith(y, ((whole && integers?.f) || own.f)(attrs), names.map((operand) => given[operand]));
    },
    webgpu(reads, { y }, attrs, { caps }) {
      const whole = !isFloat((reads[names[0]] ?? y).dtype);
      const value = (whole && integers?.wgsl) || own.wgsl;
      const params = paramsOf(own, attrs, accessOf(y.dtype, caps).type);
      return [elementwise({ name, reads, result: y, value, params, helpers }, { caps })];
    },
    wasm: wasm && ((given, { y }, attrs, device) =>
      [y, ...Object.values(given)].every(({ dtype }) => dtype === 'f32') && wasm(given, y, attrs, device)),
    asStored: { webgpu: ['y'] },
    ...gradient,
  };
  return defineOp(definition) as unknown as Op<A, I, 'y'>;
}

/** What WGSL sees of a function's attributes, those that are no words as that type. */
function paramsOf<A>(own: Elementwise<A>, attrs: A, type: Scalar): ElementwiseKernel['params'] {
  const { params = [], words = [] } = own;
  const typed = params.map((name) => [name, [type, attrs[name] as number] as const] as const);
  return Object.fromEntries([...typed, ...words.map((name) => [name, attrs[name] as number] as const)]);
}

/** y[i] = f of the i-th elements of the operands, which broadcast; absent ones are not looked at. */
function fillWith(y: HostArg, f: Value, operands: readonly (HostArg | undefined)[]): void {
  const unused = y.data;
  const [a = unused, b = unused, c = unused, d = unused, e = unused] = operands.map((x) => x && stretched(x, y));
  if (operands.length === 0) for (let i = 0; i < y.size; i++) y.data[i] = f(i);
  else if (operands.length === 1) for (let i = 0; i < y.size; i++) y.data[i] = f(a[i], i);
  else if (operands.length === 2) for (let i = 0; i < y.size; i++) y.data[i] = f(a[i], b[i], i);
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
