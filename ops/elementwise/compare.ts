import { apply } from '../../engine/apply.ts';
import { type DType, expectDType, FLOATS } from '../../engine/dtype.ts';
import type { Op } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { defineElementwise, ELEMENTS, promote } from './define.ts';
import { type Expression, holds } from './kernel.ts';
import { nanWgsl } from './math.ts';

/** What is true or false of elements. */
interface Row {
  readonly inputs: readonly string[];
  readonly takes: readonly DType[];
  /** Whether the operands are held against one another. */
  readonly comparing?: boolean;
  readonly f: (a: number, b: number) => boolean;
  /** A WGSL condition. */
  readonly wgsl: Expression;
}

/** WGSL leaves open what comparisons make of NaN: `beside` says it. */
const comparison = (f: Row['f'], operator: string, beside = '&& !is_nan(a) && !is_nan(b)'): Row => {
  const wgsl: Expression = ({ a }) => `a ${operator} b ${a === 'f32' ? beside : ''}`;
  return { inputs: ['a', 'b'], takes: ELEMENTS, comparing: true, f, wgsl };
};
const logical = (f: Row['f'], operator: string): Row => {
  const wgsl: Expression = ({ a, b }) => `${holds('a', a)} ${operator} ${holds('b', b)}`;
  return { inputs: ['a', 'b'], takes: ELEMENTS, f, wgsl };
};

const ROWS = {
  eq: comparison((a, b) => a === b, '=='),
  ne: comparison((a, b) => a !== b, '!=', '|| is_nan(a) || is_nan(b)'),
  lt: comparison((a, b) => a < b, '<'),
  le: comparison((a, b) => a <= b, '<='),
  gt: comparison((a, b) => a > b, '>'),
  ge: comparison((a, b) => a >= b, '>='),
  logical_and: logical((a, b) => a !== 0 && b !== 0, '&&'),
  logical_or: logical((a, b) => a !== 0 || b !== 0, '||'),
  logical_not: { inputs: ['x'], takes: ELEMENTS, f: (x) => x === 0, wgsl: ({ x }) => `!${holds('x', x)}` },
  isnan: { inputs: ['x'], takes: FLOATS, f: Number.isNaN, wgsl: 'is_nan(x)' },
  isinf: {
    inputs: ['x'],
    takes: FLOATS,
    f: (x) => Math.abs(x) === Infinity,
    wgsl: '(bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u',
  },
} satisfies Record<string, Row>;

type Name = keyof typeof ROWS;

function predicateOp(name: string, { inputs, takes, comparing, f, wgsl }: Row): Op<object, string, 'y'> {
  return defineElementwise<object, string>({
    name,
    inputs,
    result(given) {
      for (const input of inputs) expectDType(name, input, given[input].dtype, ...takes);
      if (comparing) promote(name, given, ...takes);
      return 'bool';
    },
    f: () => (a, b) => Number(f(a, b)),
    wgsl: (types) => `select(0u, 1u, ${typeof wgsl === 'string' ? wgsl : wgsl(types)})`,
    helpers: nanWgsl,
  });
}

const OPS = /* @__PURE__ */ Object.fromEntries(Object.entries(ROWS).map(([name, row]) => [name, predicateOp(name, row)]));

const ofTwo = (name: Name) => (a: Tensor, b: Tensor) => apply(OPS[name], { a, b }, {}).y;
const ofOne = (name: Name) => (x: Tensor) => apply(OPS[name], { x }, {}).y;
/** Whether a = b: floats, or one dtype of whole numbers or bool, broadcasting → bool, as all comparisons. No gradient. */
export const eq = ofTwo('eq');
export const ne = ofTwo('ne');
export const lt = ofTwo('lt');
export const le = ofTwo('le');
export const gt = ofTwo('gt');
export const ge = ofTwo('ge');
/** Whether neither a nor b is 0: any dtypes, broadcasting → bool. NaN is not 0. */
export const logicalAnd = ofTwo('logical_and');
/** Whether a or b is not 0: any dtypes, broadcasting → bool. */
export const logicalOr = ofTwo('logical_or');
/** Whether x is 0: any dtype → bool. */
export const logicalNot = ofOne('logical_not');
/** Whether x is NaN: floats → bool. */
export const isnan = ofOne('isnan');
/** Whether x is ∞ or −∞: floats → bool. */
export const isinf = ofOne('isinf');
