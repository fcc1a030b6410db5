import { apply } from '../../engine/apply.ts';
import { expectNumber } from '../../engine/arguments.ts';
import { FLOATS } from '../../engine/dtype.ts';
import type { Op } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { promote, type Value } from './define.ts';
import { defineDifferentiable } from './gradient.ts';
import { expm1Wgsl, nanWgsl } from './math.ts';

/** A function of x and numbers: its value, and its derivative in terms of x, in JavaScript and WGSL. */
interface Row<P extends string> {
  readonly name: string;
  readonly params: readonly P[];
  readonly f: (params: Readonly<Record<P, number>>) => (x: number) => number;
  readonly df: (params: Readonly<Record<P, number>>) => (x: number) => number;
  readonly wgsl: string;
  readonly dwgsl: string;
  readonly helpers: string;
}

function define<const P extends string>({ df, dwgsl, ...row }: Row<P>): Op<Readonly<Record<P, number>>, 'x', 'y'> {
  const slope = (params: Readonly<Record<P, number>>): Value => {
    const own = df(params);
    return (x, _, dy) => (own(x) === 0 ? 0 : dy * own(x));
  };
  return defineDifferentiable({
    ...row,
    inputs: ['x'],
    result: (inputs) => promote(row.name, inputs, ...FLOATS),
    partials: { x: { f: slope, wgsl: dwgsl } },
  });
}

const clampOp = /* @__PURE__ */ define({
  name: 'clamp',
  params: ['min', 'max'],
  f: ({ min, max }) => (x) => Math.min(Math.max(x, min), max),
  df: ({ min, max }) => (x) => Number(x >= min && x <= max),
  wgsl: 'min_(max_(x, params.min), params.max)',
  dwgsl: 'select(0.0, dy, x >= params.min && x <= params.max)',
  helpers: nanWgsl,
});

const leakyReluOp = /* @__PURE__ */ define({
  name: 'leaky_relu',
  params: ['slope'],
  f: ({ slope }) => (x) => (x > 0 ? x : slope * x),
  df: ({ slope }) => (x) => (x > 0 ? 1 : slope),
  wgsl: 'select(params.slope * x, x, x > 0.0 && !is_nan(x))',
  dwgsl: 'dy * select(params.slope, 1.0, x > 0.0 && !is_nan(x))',
  helpers: nanWgsl,
});

const eluOp = /* @__PURE__ */ define({
  name: 'elu',
  params: ['alpha'],
  f: ({ alpha }) => (x) => (x > 0 ? x : alpha * Math.expm1(x)),
  df: ({ alpha }) => (x) => (x > 0 ? 1 : alpha * Math.exp(x)),
  wgsl: 'select(params.alpha * expm1_(x), x, x > 0.0)',
  dwgsl: 'dy * select(params.alpha * exp(x), 1.0, x > 0.0)',
  helpers: expm1Wgsl,
});

/** A number as x's elements have it, so that a bound that equals an element is no larger and no smaller. */
function rounded(op: string, name: string, value: number): number {
  expectNumber(op, name, value);
  return Math.fround(value);
}

/**
 * x held between `min` and `max`, either of which may be left out: floats of any shape → the same shape and dtype. As
 * torch has it: where min > max the result is max, a bound of NaN makes the whole result NaN, and the gradient passes
 * where x lies within the bounds and nowhere else (a NaN lies within none).
 */
export function clamp(x: Tensor, { min, max }: { min?: number | null; max?: number | null }): Tensor {
  const bounds = { min: rounded('clamp', 'min', min ?? -Infinity), max: rounded('clamp', 'max', max ?? Infinity) };
  return apply(clampOp, { x }, bounds).y;
}

/** x where it is above 0, else slope·x: floats of any shape → the same shape and dtype. */
export function leakyRelu(x: Tensor, slope = 0.01): Tensor {
  expectNumber('leaky_relu', 'slope', slope);
  return apply(leakyReluOp, { x }, { slope }).y;
}

/** x where it is above 0, else alpha·(eˣ − 1): floats of any shape → the same shape and dtype. */
export function elu(x: Tensor, alpha = 1): Tensor {
  expectNumber('elu', 'alpha', alpha);
  return apply(eluOp, { x }, { alpha }).y;
}
