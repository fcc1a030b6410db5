import { apply } from '../../engine/apply.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { FLOATS, isFloat } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Each, INTEGERS, promote, type Row, type Value, valuesOf } from './define.ts';
import { defineDifferentiable } from './gradient.ts';
import { nanWgsl } from './math.ts';
import { power, powWgsl } from './pow.ts';
import { remainderOf, remainderOfIntegers, remainderWgsl } from './remainder.ts';
import { binaryOnWasm, hasBinaryKernel } from './wasm.ts';

/** dy·∂f of (a, b, y, dy). */
interface Slope {
  readonly f: Value;
  readonly wgsl: string;
}

/** One elementwise function of two arguments that broadcast, with its partial derivatives. */
interface BinaryRow extends Row {
  /** dy·∂f/∂a, dy·∂f/∂b: formulas, or numbers for ∂f where they are constant. */
  readonly da: Slope | number;
  readonly db: Slope | number;
  readonly helpers?: string;
}

/**
 * torch's share of dy for the operand x of a maximum or minimum: all where x won, half where both are equal, none where
 * the other won; where one is NaN, all for both.
 */
const share = (x: number, other: number, dy: number) => (x === other ? dy / 2 : x < other ? 0 : dy);
const SHARE = /* wgsl */ `${nanWgsl}
fn share(x: f32, other: f32, dy: f32) -> f32 {
  if (is_nan(x) || is_nan(other)) { return dy; }
  return select(select(dy, 0.0, x < other), 0.5 * dy, x == other);
}
`;

/**
 * The elementwise function of torch's name, of two tensors that broadcast as torch has it: floats → their dtype, f32 where
 * they differ. All but pow take whole numbers of one dtype too, which wrap around.
 */
function binary(name: string, row: BinaryRow): (a: Tensor, b: Tensor) => Tensor {
  const { da, db, helpers, integers } = row;
  const partial = (slope: Slope | number) => (typeof slope === 'number' ? slope : { ...slope, f: () => slope.f });
  const op = defineDifferentiable<object, 'a' | 'b'>({
    name,
    inputs: ['a', 'b'],
    result(inputs) {
      const dtype = promote(name, inputs, ...FLOATS, ...(integers ? INTEGERS : []));
      return name === 'div' && !isFloat(dtype) ? 'f32' : dtype;
    },
    ...valuesOf(row, 'a'),
    helpers,
    partials: { a: partial(da), b: partial(db) },
    wasm: ({ a, b }, y, _, { k }) => hasBinaryKernel(name) && binaryOnWasm(k, name, a, b, y),
    wasmBackward: (read, made, _, { k }) => partialsOnWasm(name, read, made, k),
  });
  return (a, b) => apply(op, { a, b }, {}).y;
}

/** The partials of mul and div by C kernels. */
function partialsOnWasm(name: string, { a, b, dy }: Each<Slot>, { da, db }: Each<Slot>, k: WasmPlanner['k']): boolean {
  switch (name) {
    case 'mul':
      return (!da || binaryOnWasm(k, 'mul', dy, b, da)) && (!db || binaryOnWasm(k, 'mul', dy, a, db));
    case 'div': {
      const byB = (x: Slot, y: Slot) => binaryOnWasm(k, 'div', x, b, y);
      if (da && !byB(dy, da)) return false;
      if (!db) return true;
      const done = byB(a, db) && byB(db, db) && binaryOnWasm(k, 'mul', dy, db, db);
      if (done) k.neg(db, db, db.size);
      return done;
    }
    default:
      return false;
  }
}

export const add = binary('add', { f: (a, b) => a + b, wgsl: 'a + b', da: 1, db: 1, integers: {} });
export const sub = binary('sub', { f: (a, b) => a - b, wgsl: 'a - b', da: 1, db: -1, integers: {} });

export const mul = binary('mul', {
  f: (a, b) => a * b,
  wgsl: 'a * b',
  da: { f: (_a, b, _y, dy) => dy * b, wgsl: 'dy * b' },
  db: { f: (a, _b, _y, dy) => dy * a, wgsl: 'dy * a' },
  integers: { f: Math.imul },
});

/** a/b; of whole numbers too as f32. */
export const div = binary('div', {
  f: (a, b) => a / b,
  wgsl: 'a / b',
  da: { f: (_a, b, _y, dy) => dy / b, wgsl: 'dy / b' },
  db: { f: (a, b, _, dy) => -dy * (a / b / b), wgsl: '-dy * (a / b / b)' },
  integers: { f: (a, b) => Math.fround(a) / Math.fround(b), wgsl: 'f32(a) / f32(b)' },
});

/** The larger of a and b; where they are equal each gets half the gradient. */
export const maximum = binary('maximum', {
  f: Math.max,
  wgsl: 'max_(a, b)',
  da: { f: (a, b, _, dy) => share(a, b, dy), wgsl: 'share(a, b, dy)' },
  db: { f: (a, b, _, dy) => share(b, a, dy), wgsl: 'share(b, a, dy)' },
  helpers: SHARE,
  integers: { wgsl: 'max(a, b)' },
});

/** The smaller of a and b; where they are equal each gets half the gradient. */
export const minimum = binary('minimum', {
  f: Math.min,
  wgsl: 'min_(a, b)',
  da: { f: (a, b, _, dy) => share(-a, -b, dy), wgsl: 'share(-a, -b, dy)' },
  db: { f: (a, b, _, dy) => share(-b, -a, dy), wgsl: 'share(-b, -a, dy)' },
  helpers: SHARE,
  integers: { wgsl: 'min(a, b)' },
});

/** What is left of a by whole multiples of b, exactly, with the sign of b. Of whole numbers, 0 where b is 0. */
export const remainder = binary('remainder', {
  f: remainderOf,
  wgsl: 'remainder_(a, b)',
  da: 1,
  db: {
    f: (a, b, _y, dy) => -dy * Math.round((a - remainderOf(a, b)) / b),
    wgsl: '-dy * round((a - remainder_(a, b)) / b)',
  },
  helpers: remainderWgsl,
  integers: { wgsl: remainderOfIntegers },
});

export const pow = binary('pow', {
  f: power,
  wgsl: 'pow_(a, b)',
  da: { f: (a, b, _, dy) => (b === 0 ? 0 : dy * b * power(a, b - 1)), wgsl: 'pow_da(a, b, dy)' },
  db: { f: (a, b, _, dy) => (a === 0 && b >= 0 ? 0 : dy * power(a, b) * Math.log(a)), wgsl: 'pow_db(a, b, dy)' },
  helpers: powWgsl,
});
