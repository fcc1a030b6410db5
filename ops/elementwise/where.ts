import { apply } from '../../engine/apply.ts';
import { expectDType } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { ELEMENTS, promote } from './define.ts';
import { fill } from './fill.ts';
import { defineDifferentiable } from './gradient.ts';
import { holds, type Types } from './kernel.ts';

const chosen = (a: string, b: string) => (types: Types) => `select(${b}, ${a}, ${holds('cond', types.cond)})`;

const whereOp = /* @__PURE__ */ defineDifferentiable<object, 'cond' | 'a' | 'b'>({
  name: 'where',
  inputs: ['cond', 'a', 'b'],
  result({ cond, a, b }) {
    expectDType('where', 'cond', cond.dtype, ...ELEMENTS);
    return promote('where', { a, b }, ...ELEMENTS);
  },
  f: () => (cond, a, b) => (cond !== 0 ? a : b),
  wgsl: chosen('a', 'b'),
  partials: {
    a: { f: () => (cond, _a, _b, _y, dy) => (cond !== 0 ? dy : 0), wgsl: chosen('dy', '0.0') },
    b: { f: () => (cond, _a, _b, _y, dy) => (cond !== 0 ? 0 : dy), wgsl: chosen('0.0', 'dy') },
  },
});

/**
 * a where `cond`, of any dtype, is not 0, else b; all three broadcast. a and b are floats, of which the result has the
 * dtype, f32 where they differ, or of one other dtype.
 */
export function where(cond: Tensor, a: Tensor, b: Tensor): Tensor {
  return apply(whereOp, { cond, a, b }, {}).y;
}

/** x, but `value` where `mask`, which broadcasts, is not 0. @throws ArgumentError for a value that x's dtype cannot hold */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  return scope(() => where(mask, fill(x.backend, [], value, x.dtype), x));
}
