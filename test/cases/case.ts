import type { Backend } from '../../engine/backend.ts';
import type { DType, HostArray } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import type { Kind } from '../support/expect.ts';

/** Sizes of dimensions by name. */
export type Sizes = Readonly<Record<string, number>>;

/** Makes the inputs of a call; who runs it again gets the same ones in the same order. */
export interface Make {
  readonly backend: Backend;
  /** Floats in [−1, 1) that are to have a gradient. */
  (...shape: number[]): Tensor;
  /** The same, each passed through `f`. */
  of(f: (v: number) => number, ...shape: number[]): Tensor;
  /** These floats, to have a gradient. */
  leaf(data: HostArray, shape: readonly number[]): Tensor;
  /** Floats in [−1, 1) stored in a format; no gradient. */
  stored(format: DType, ...shape: number[]): Tensor;
  /** Floats in [−1, 1) that are to have none. */
  fixed(...shape: number[]): Tensor;
  /** Whole numbers from 0 to below `most`. */
  ids(most: number, ...shape: number[]): Tensor;
  /** These numbers, as a vector unless a shape is given. */
  values(data: ArrayLike<number> | HostArray, shape?: readonly number[], dtype?: DType): Tensor;
}

/** A call of an op on inputs of such sizes. */
export type Run = (t: Make, sizes: Sizes) => Tensor | readonly Tensor[];

export interface CaseOptions {
  /** Sizes beside the first at which every backend must agree: of other kernels, past a block, odd. */
  readonly at?: readonly Sizes[];
  /** Such sizes for the C kernels alone: too many for a GPU in software. */
  readonly wasmAt?: readonly Sizes[];
  /** How far from the reference loops a result may be, relative to its norm: 1e-5 unless told. */
  readonly most?: number;
  /** Step of what rounds to a grid: inputs and gradients lie on it, and only whole steps show a slope. */
  readonly grid?: number;
  /** By what the error in 16 bits is more than theirs: gradients made of a rounded output see that as well. */
  readonly rounds?: number;
}

/**
 * A call with the sizes of its dimensions. On every backend it must give what the reference loops do, gradients
 * included, at these sizes and with each of them 0; its gradients must be the differences in f64; in 16 bits it is
 * refused by dtype, or right to rounding; its shaders must compile.
 */
export type Case = readonly [sizes: Sizes, run: Run, options?: CaseOptions];

/** Values that an argument may have, and some that it may not. */
export interface Range {
  readonly says: string;
  readonly good: readonly unknown[];
  readonly bad: readonly unknown[];
}

/** A call with one argument, of which it is to be told by an error that it does not fit. */
export type Use = (t: Make, value: never) => unknown;

/**
 * A name of the bench, with the sizes it is of in braces; a call; sizes in the order of the braces. With `fwd+bwd` in
 * its name gradients are timed as well.
 */
export type Timed = readonly [name: string, run: Run, ...at: readonly number[][]];

/** All that is known of an op from outside. */
export interface Row {
  /** How the golden vectors, which torch wrote, call it: inputs in order, attributes by torch's names. */
  readonly golden?: (inputs: Tensor[], attrs: Record<string, any>) => Tensor | readonly Tensor[];
  readonly cases?: readonly Case[];
  /** Arguments by name, with what they may be. */
  readonly takes?: Readonly<Record<string, readonly [Range, Use]>>;
  /** Calls that are refused: what is wrong, the call, the error and what it says. */
  readonly refuses?: readonly (readonly [what: string, call: (t: Make) => unknown, error: Kind, says: RegExp])[];
  readonly timed?: readonly Timed[];
}

/** The ops of a room of `ops/` by torch's names. */
export type Room = Readonly<Record<string, Row>>;

/** Larger than any memory: allowed by an op, but not to be tried. */
export const ROOM = 2 ** 50;

const beyond = (least: number, most: number) =>
  [least - 1, most + 1, 2 ** 53, -(2 ** 53)].filter((v) => Number.isFinite(v) && (v < least || v > most));

/** Whole numbers. */
export function whole(least = -(2 ** 31), most = 2 ** 31 - 1): Range {
  const good = [least, most].filter((v) => Number.isFinite(v) && v !== ROOM);
  const bad = [...beyond(least, most), 0.5, 1.5, NaN, Infinity, -Infinity, '1', ''];
  return { says: `takes whole numbers from ${least} to ${most} and nothing else`, good, bad };
}

/** A dimension of a tensor of that rank. */
export const dim = (rank: number): Range => whole(-rank, rank - 1);

/** Finite numbers, fractions among them. */
export function finite(least = -Infinity, most = Infinity): Range {
  const bad = [...beyond(least, most), NaN, Infinity, -Infinity, '1'];
  return { says: `is a finite number from ${least} to ${most}`, good: [Math.max(least, 0.5)], bad };
}

/** Any number. */
export const NUMBER: Range = { says: 'is a number, not a string', good: [NaN, Infinity, 0.5], bad: ['1', 1n, true] };

/** One of some words. */
export const WORD: Range = { says: 'is one of its words', good: [], bad: ['relu6', 'lbhd', 'toString', 1] };

/** All combinations of such sizes. */
export function allOf(sizes: Readonly<Record<string, readonly number[]>>): Sizes[] {
  return Object.entries(sizes).reduce<Sizes[]>(
    (all, [name, values]) => all.flatMap((one) => values.map((value) => ({ ...one, [name]: value }))),
    [{}],
  );
}

/** Sizes in the order of their names: `sized('M N', [1, 2], [3, 4])`. */
export function sized(names: string, ...at: readonly number[][]): Sizes[] {
  return at.map((row) => Object.fromEntries(names.split(' ').map((name, i) => [name, row[i]])));
}
