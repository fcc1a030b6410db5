import { expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Bare, Named } from '../../engine/op.ts';
import { expectFloats, expectRank, expectShape, show } from '../common/shapes.ts';

export interface SsdAttrs {
  /** Tokens that a kernel may take in one piece; the result does not depend on it. */
  readonly chunkSize: number;
}

/** What a scan reads, in the order in which kernels take it. */
export const INPUTS = ['x', 'dt', 'A_log', 'B', 'C', 'D', 'dt_bias', 'initialState?'] as const;

export type SsdInputs<T> = Named<(typeof INPUTS)[number], T>;

/** The gradients that are wanted, each named after its input. */
export type SsdGrads<T> = { readonly [K in Bare<(typeof INPUTS)[number]> as `d${K}`]?: T };

export type SsdSizes = ReturnType<typeof ssdSizes>;

/** Batch, tokens, heads of p, groups of B and C, and n, the size of the state. */
export function ssdSizes({ x, B }: { readonly x: Spec; readonly B: Spec }) {
  const [batch, length, heads, p] = x.shape;
  return { batch, length, heads, p, groups: B.shape[2], n: B.shape[3] };
}

/** By the recurrence: five operations an element of the state and token forward, ten backward. */
export function scanFlops(operands: { readonly x: Spec; readonly B: Spec }, each: 5 | 10): number {
  const { batch, length, heads, p, n } = ssdSizes(operands);
  return each * batch * length * heads * p * n;
}

/** Where an operand's values lie: elements between tokens, where they begin, and how many heads share what is read. */
export interface Layout {
  readonly row: number;
  readonly from: number;
  readonly share: number;
}

export type Layouts = { readonly [K in 'x' | 'dt' | 'B' | 'C']: Layout };

/** Of operands that hold nothing else. */
export function layoutsOf({ heads, p, groups, n }: SsdSizes): Layouts {
  const shared = { row: groups * n, from: 0, share: heads / groups };
  return { x: { row: heads * p, from: 0, share: 1 }, dt: { row: heads, from: 0, share: 1 }, B: shared, C: shared };
}

const MAX_STATE = 256;

/** @throws ShapeError, DTypeError or ArgumentError naming the argument */
export function checkSsd(inputs: SsdInputs<Spec>, { chunkSize }: SsdAttrs): SsdSizes {
  const { initialState, ...floats } = inputs;
  const { x, B } = inputs;
  expectFloats('ssd_scan', floats);
  if (initialState) expectDType('ssd_scan', 'initialState', initialState.dtype, 'f32');
  expectRank('ssd_scan', 'x', x, 4);
  expectRank('ssd_scan', 'B', B, 4);
  const s = ssdSizes(inputs);
  const { batch, length, heads, p, groups, n } = s;
  if (length < 1 || heads < 1 || p < 1) {
    throw new ShapeError(`ssd_scan: x has shape ${show(x.shape)}, expected at least one token, head and channel`);
  }
  if (heads % groups !== 0 || n < 1 || n > MAX_STATE) {
    throw new ShapeError(
      `ssd_scan: B has shape ${show(B.shape)}, expected groups that divide the ${heads} heads of x ` +
        `and N from 1 to ${MAX_STATE}`,
    );
  }
  const perToken = { dt: [batch, length, heads], B: [batch, length, groups, n], C: [batch, length, groups, n] };
  const shapes = { ...perToken, A_log: [heads], D: [heads], dt_bias: [heads] };
  for (const [name, shape] of Object.entries(shapes)) {
    expectShape('ssd_scan', name, inputs[name as keyof typeof shapes], shape);
  }
  if (initialState) expectShape('ssd_scan', 'initialState', initialState, [batch, heads, p, n]);
  expectWhole('ssd_scan', 'chunkSize', chunkSize, 1);
  return s;
}
