import { expectNumber } from '../../engine/arguments.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { unary } from './activation.ts';

const clampTo = /* @__PURE__ */ unary(
  'clamp',
  [(x, _, { min, max }) => Math.min(Math.max(x, min), max), 'min_(max_(x, params.min), params.max)'],
  [
    (x, _, { min, max }) => Number(x >= min && x <= max),
    'select(0.0, 1.0, x >= params.min && x <= params.max)',
  ],
  { params: ['min', 'max'], masks: true },
);

const leaky = /* @__PURE__ */ unary(
  'leaky_relu',
  [(x, _, { slope }) => (x > 0 ? x : slope * x), 'select(params.slope * x, x, x > 0.0 && !is_nan(x))'],
  [(x, _, { slope }) => (x > 0 ? 1 : slope), 'select(params.slope, 1.0, x > 0.0 && !is_nan(x))'],
  { params: ['slope'] },
);

const exponential = /* @__PURE__ */ unary(
  'elu',
  [(x, _, { alpha }) => (x > 0 ? x : alpha * Math.expm1(x)), 'select(params.alpha * expm1_(x), x, x > 0.0)'],
  [(x, _, { alpha }) => (x > 0 ? 1 : alpha * Math.exp(x)), 'select(params.alpha * exp(x), 1.0, x > 0.0)'],
  { params: ['alpha'] },
);

/** A number as x's elements have it, so that a bound that equals an element is no larger and no smaller. */
function rounded(name: string, value: number): number {
  expectNumber('clamp', name, value);
  return Math.fround(value);
}

/**
 * x held between `min` and `max`, either of which may be left out: floats of any shape → the same shape and dtype. As
 * torch has it: where min > max the result is max, a bound of NaN makes the whole result NaN, and the gradient passes
 * where x lies within the bounds and nowhere else (a NaN lies within none).
 */
export function clamp(x: Tensor, { min, max }: { min?: number | null; max?: number | null }): Tensor {
  return clampTo(x, { min: rounded('min', min ?? -Infinity), max: rounded('max', max ?? Infinity) });
}

/** x where it is above 0, else slope·x: floats of any shape → the same shape and dtype. */
export function leakyRelu(x: Tensor, slope = 0.01): Tensor {
  expectNumber('leaky_relu', 'slope', slope);
  return leaky(x, { slope });
}

/** x where it is above 0, else alpha·(eˣ − 1): floats of any shape → the same shape and dtype. */
export function elu(x: Tensor, alpha = 1): Tensor {
  expectNumber('elu', 'alpha', alpha);
  return exponential(x, { alpha });
}
