import { apply } from '../../engine/apply.ts';
import { type DType, expectDType, FLOATS } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise, ELEMENTS, promote } from './define.ts';
import { type Expression, holds } from './kernel.ts';

type OfOne = (x: Tensor) => Tensor;
type OfTwo = (a: Tensor, b: Tensor) => Tensor;

/**
 * What is true or false of elements. @param f of one or two. @param wgsl a condition. @param comparing whether operands
 * are held against one another
 */
function predicate<F extends OfOne | OfTwo>(
  name: string,
  f: (a: number, b: number) => boolean,
  wgsl: Expression,
  { takes = ELEMENTS, comparing = false }: { takes?: readonly DType[]; comparing?: boolean } = {},
): F {
  const inputs = f.length === 2 ? ['a', 'b'] : ['x'];
  const op = defineElementwise<object, string>({
    name,
    inputs,
    result(given) {
      for (const input of inputs) expectDType(name, input, given[input].dtype, ...takes);
      if (comparing) promote(name, given, ...takes);
      return 'bool';
    },
    f: () => (a, b) => Number(f(a, b)),
    wgsl: (types) => `select(0u, 1u, ${typeof wgsl === 'string' ? wgsl : wgsl(types)})`,
  });
  const run = (...given: Tensor[]) => apply(op, Object.fromEntries(inputs.map((input, i) => [input, given[i]])), {}).y;
  return run as F;
}

/** WGSL leaves open what comparisons make of NaN: `beside` says it. */
function comparison(
  name: string,
  operator: string,
  f: (a: number, b: number) => boolean,
  beside = '&& !is_nan(a) && !is_nan(b)',
): OfTwo {
  return predicate(name, f, ({ a }) => `a ${operator} b ${a === 'f32' ? beside : ''}`, { comparing: true });
}

function logical(name: string, operator: string, f: (a: number, b: number) => boolean): OfTwo {
  return predicate(name, f, ({ a, b }) => `${holds('a', a)} ${operator} ${holds('b', b)}`);
}

/** Whether a = b: floats, or one dtype of whole numbers or bool, broadcasting → bool, as all comparisons. No gradient. */
export const eq = /* @__PURE__ */ comparison('eq', '==', (a, b) => a === b);
export const ne = /* @__PURE__ */ comparison('ne', '!=', (a, b) => a !== b, '|| is_nan(a) || is_nan(b)');
export const lt = /* @__PURE__ */ comparison('lt', '<', (a, b) => a < b);
export const le = /* @__PURE__ */ comparison('le', '<=', (a, b) => a <= b);
export const gt = /* @__PURE__ */ comparison('gt', '>', (a, b) => a > b);
export const ge = /* @__PURE__ */ comparison('ge', '>=', (a, b) => a >= b);
/** Whether neither a nor b is 0: any dtypes, broadcasting → bool. NaN is not 0. */
export const logicalAnd = /* @__PURE__ */ logical('logical_and', '&&', (a, b) => a !== 0 && b !== 0);
/** Whether a or b is not 0: any dtypes, broadcasting → bool. */
export const logicalOr = /* @__PURE__ */ logical('logical_or', '||', (a, b) => a !== 0 || b !== 0);
/** Whether x is 0: any dtype → bool. */
export const logicalNot = /* @__PURE__ */ predicate<OfOne>(
  'logical_not',
  (x) => x === 0,
  ({ x }) => `!${holds('x', x)}`,
);
/** Whether x is NaN: floats → bool. */
export const isnan = /* @__PURE__ */ predicate<OfOne>('isnan', (x) => Number.isNaN(x), 'is_nan(x)', { takes: FLOATS });
/** Whether x is ∞ or −∞: floats → bool. */
export const isinf = /* @__PURE__ */ predicate<OfOne>(
  'isinf',
  (x) => Math.abs(x) === Infinity,
  '(bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u',
  { takes: FLOATS },
);
