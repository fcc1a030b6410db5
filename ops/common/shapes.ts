import { elements, type Spec } from '../../engine/backend.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { DTypeError, ShapeError } from '../../engine/errors.ts';

export function show(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

/** The shape with another size in one dimension. */
export function resized(shape: readonly number[], dim: number, size: number): number[] {
  return shape.map((d, i) => (i === dim ? size : d));
}

/** The shape that a and b broadcast to, as torch has it. */
export function broadcastShapes(op: string, a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const [x = 1, y = 1] = [a[a.length - rank + i], b[b.length - rank + i]];
    if (x === y || x === 1) return y;
    if (y === 1) return x;
    const where = `${x} against ${y} in dim ${i - rank}`;
    throw new ShapeError(`${op}: shapes ${show(a)} and ${show(b)} do not broadcast: ${where}`);
  });
}

/** A dimension counted from the front; a scalar has dims 0 and -1, as in torch. @throws ShapeError when out of range */
export function normalizeDim(op: string, dim: number, rank: number): number {
  const axes = Math.max(rank, 1);
  const d = dim < 0 ? dim + axes : dim;
  if (!Number.isInteger(dim) || d < 0 || d >= axes) {
    throw new ShapeError(`${op}: dim ${dim} is out of range for ${rank} dimensions`);
  }
  return d;
}

/** The same, for what a scalar has no dimension to offer. @throws ShapeError for a scalar too */
export function normalizeAxis(op: string, dim: number, rank: number): number {
  if (rank === 0) throw new ShapeError(`${op}: x is a scalar, expected at least one dimension; reshape() it to [1]`);
  return normalizeDim(op, dim, rank);
}

/** Row-major strides in elements. */
export function strides(shape: readonly number[]): number[] {
  return shape.map((_, i) => elements(shape.slice(i + 1)));
}

/** Strides that read `shape` as if it were `target`: 0 where it is stretched. */
export function broadcastStrides(shape: readonly number[], target: readonly number[]): number[] {
  const own = strides(shape);
  const offset = target.length - shape.length;
  return target.map((_, i) => (i < offset || shape[i - offset] === 1 ? 0 : own[i - offset]));
}

/** Drops dims of size 1 and merges neighbours that every one of the sets of strides walks through without a jump. */
export function mergeDims(
  shape: readonly number[],
  sets: readonly (readonly number[])[],
): { readonly sizes: number[]; readonly strides: number[][] } {
  const sizes: number[] = [];
  const strides: number[][] = sets.map(() => []);
  for (let d = 0; d < shape.length; d++) {
    if (shape[d] === 1) continue;
    const last = sizes.length - 1;
    const merges = last >= 0 && sets.every((own, k) => strides[k][last] === own[d] * shape[d]);
    if (merges) sizes[last] *= shape[d];
    else sizes.push(shape[d]);
    sets.forEach((own, k) => (strides[k][sizes.length - 1] = own[d]));
  }
  return { sizes, strides };
}

/** For every element of `target` in order, the index of the element of `shape` that is broadcast to it. */
export function broadcastIndex(shape: readonly number[], target: readonly number[]): Int32Array {
  return broadcastStrides(shape, target).reduce((outer, step, d) => {
    const index = new Int32Array(outer.length * target[d]);
    outer.forEach((from, i) => {
      for (let k = 0; k < target[d]; k++) index[i * target[d] + k] = from + k * step;
    });
    return index;
  }, Int32Array.of(0));
}

/** Elements before, along and after a dimension: the three loops of most kernels. */
export function around(shape: readonly number[], dim: number): { outer: number; length: number; inner: number } {
  return { outer: elements(shape.slice(0, dim)), length: shape[dim] ?? 1, inner: elements(shape.slice(dim + 1)) };
}

/** @throws ShapeError unless `arg` has the rank */
export function expectRank(op: string, name: string, arg: Spec, rank: number): void {
  if (arg.shape.length !== rank) {
    throw new ShapeError(`${op}: ${name} has shape ${show(arg.shape)}, expected ${rank} dimensions`);
  }
}

/** @throws ShapeError unless `arg` has that shape */
export function expectShape(op: string, name: string, arg: Spec, shape: readonly number[]): void {
  if (!sameShape(arg.shape, shape)) {
    throw new ShapeError(`${op}: ${name} has shape ${show(arg.shape)}, expected ${show(shape)}`);
  }
}

/** @throws ShapeError, DTypeError unless `arg` is there and has shape and dtype of `like` */
export function expectAlike(op: string, name: string, arg: Spec | undefined, like: Spec): void {
  if (!arg) throw new ShapeError(`${op}: ${name} is missing, expected shape ${show(like.shape)}`);
  expectShape(op, name, arg, like.shape);
  if (arg.dtype === like.dtype) return;
  throw new DTypeError(`${op}: ${name} has dtype ${arg.dtype}, expected ${like.dtype}; convert it with cast()`);
}

/** @throws DTypeError unless all operands that there are hold floats */
export function expectFloats(op: string, operands: Readonly<Record<string, Spec | undefined>>): void {
  for (const [name, operand] of Object.entries(operands)) {
    if (operand) expectDType(op, name, operand.dtype, ...FLOATS);
  }
}

/** Attributes of an op with those of an op that forms its gradients: whose are wanted. */
export type Wanting<A> = A & { readonly wants: Readonly<Record<string, boolean>> };

/** Specs of the gradients that are wanted, of inputs that there are: each is named d and what it is of. */
export function gradientSpecs(
  inputs: Readonly<Record<string, Spec | undefined>>,
  wants: Readonly<Record<string, boolean>>,
): Readonly<Record<string, Spec>> {
  const wanted = Object.entries(inputs).filter(([name, input]) => input && wants[name]);
  return Object.fromEntries(wanted.map(([name, input]) => [`d${name}`, { shape: input!.shape, dtype: input!.dtype }]));
}
