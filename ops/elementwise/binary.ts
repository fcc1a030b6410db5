import { apply } from '../../engine/apply.ts';
import { FLOATS, isFloat } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Elementwise, INTEGERS, promote, type Value } from './define.ts';
import { defineDifferentiable } from './gradient.ts';
import powWgsl from './pow.wgsl';
import remainderWgsl from './remainder.wgsl';
import { binaryOnWasm, hasBinaryKernel } from './wasm.ts';

/** In JavaScript, in WGSL and perhaps by C kernels: a function of a and b, or dy·∂f of (a, b, y, dy). */
type Formula = readonly [f: Value, wgsl: string, wasm?: Elementwise<object>['wasm']];

/**
 * The elementwise function of torch's name, of two tensors that broadcast as torch has it: floats → their dtype, f32
 * where they differ. All but pow take whole numbers of one dtype too, which wrap around.
 * @param da dy·∂f/∂a, or ∂f/∂a alone where it is constant; `db` of b
 * @param integers what it is of whole numbers, where it takes them and it is not the same
 */
function binary(
  name: string,
  [f, wgsl]: Formula,
  da: Formula | number,
  db: Formula | number,
  integers?: Elementwise<object>['integers'],
  helpers?: string,
): (a: Tensor, b: Tensor) => Tensor {
  const partial = (d: Formula | number) => (typeof d === 'number' ? d : { f: () => d[0], wgsl: d[1], wasm: d[2] });
  const op = defineDifferentiable<object, 'a' | 'b'>({
    name,
    inputs: ['a', 'b'],
    result(inputs) {
      const dtype = promote(name, inputs, ...FLOATS, ...(integers ? INTEGERS : []));
      return name === 'div' && !isFloat(dtype) ? 'f32' : dtype;
    },
    f: () => f,
    wgsl,
    integers,
    helpers,
    partials: { a: partial(da), b: partial(db) },
    wasm: ({ a, b }, y, _, { k }) => hasBinaryKernel(name) && binaryOnWasm(k, name, a, b, y),
  });
  return (a, b) => apply(op, { a, b }, {}).y;
}

export const add = binary('add', [(a, b) => a + b, 'a + b'], 1, 1, {});
export const sub = binary('sub', [(a, b) => a - b, 'a - b'], 1, -1, {});

export const mul = binary(
  'mul',
  [(a, b) => a * b, 'a * b'],
  [(_a, b, _y, dy) => dy * b, 'dy * b', ({ b, dy }, da, _, { k }) => binaryOnWasm(k, 'mul', dy, b, da)],
  [(a, _b, _y, dy) => dy * a, 'dy * a', ({ a, dy }, db, _, { k }) => binaryOnWasm(k, 'mul', dy, a, db)],
  { f: () => Math.imul },
);

/** a/b; of whole numbers too as f32. */
export const div = binary(
  'div',
  [(a, b) => a / b, 'a / b'],
  [(_a, b, _y, dy) => dy / b, 'dy / b', ({ b, dy }, da, _, { k }) => binaryOnWasm(k, 'div', dy, b, da)],
  [
    (a, b, _, dy) => -dy * (a / b / b),
    '-dy * (a / b / b)',
    ({ a, b, dy }, db, _, { k }) => {
      const overB = (x: Slot) => binaryOnWasm(k, 'div', x, b, db);
      const done = overB(a) && overB(db) && binaryOnWasm(k, 'mul', dy, db, db);
      if (done) k.neg(db, db, db.size);
      return done;
    },
  ],
  { f: () => (a, b) => Math.fround(a) / Math.fround(b), wgsl: 'f32(a) / f32(b)' },
);

/**
 * torch's share of dy for the operand x of a maximum: all where x won, half where both are equal, none where the other
 * won; where one is NaN, all for both.
 */
const share = (x: number, other: number, dy: number) => (x === other ? dy / 2 : x < other ? 0 : dy);

/** The larger of a and b; where they are equal each gets half the gradient. */
export const maximum = binary(
  'maximum',
  [(a, b) => Math.max(a, b), 'max_(a, b)'],
  [(a, b, _, dy) => share(a, b, dy), 'share(a, b, dy)'],
  [(a, b, _, dy) => share(b, a, dy), 'share(b, a, dy)'],
  { wgsl: 'max(a, b)' },
);

/** The smaller of a and b; where they are equal each gets half the gradient. */
export const minimum = binary(
  'minimum',
  [(a, b) => Math.min(a, b), 'min_(a, b)'],
  [(a, b, _, dy) => share(-a, -b, dy), 'share(-a, -b, dy)'],
  [(a, b, _, dy) => share(-b, -a, dy), 'share(-b, -a, dy)'],
  { wgsl: 'min(a, b)' },
);

/** a − b·⌊a/b⌋ as torch has it: the remainder of C's fmod, moved by b where its sign is not that of b. */
function remainderOf(a: number, b: number): number {
  const r = a % b;
  return r !== 0 && r < 0 !== b < 0 ? r + b : r;
}

/** What is left of a by whole multiples of b, exactly, with the sign of b. Of whole numbers, 0 where b is 0. */
export const remainder = binary(
  'remainder',
  [remainderOf, 'remainder_(a, b)'],
  1,
  [
    (a, b, _y, dy) => -dy * Math.round((a - remainderOf(a, b)) / b),
    '-dy * round((a - remainder_(a, b)) / b)',
  ],
  // WGSL has 0 for a divisor of 0.
  { wgsl: ({ a }) => (a === 'u32' ? 'a % b' : 'a % b + select(0, b, a % b != 0 && (a % b < 0) != (b < 0))') },
  remainderWgsl,
);

/** aᵇ as C and torch have it: unlike JavaScript's, 1 for a base of 1 and any exponent, and for −1 to the ±∞. */
function power(a: number, b: number): number {
  return a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : Math.pow(a, b);
}

export const pow = binary(
  'pow',
  [power, 'pow_(a, b)'],
  [(a, b, _, dy) => (b === 0 ? 0 : dy * b * power(a, b - 1)), 'select(dy * b * pow_(a, b - 1.0), 0.0, b == 0.0)'],
  [
    (a, b, _, dy) => (a === 0 && b >= 0 ? 0 : dy * power(a, b) * Math.log(a)),
    'select(dy * pow_(a, b) * log_(a), 0.0, a == 0.0 && b >= 0.0)',
  ],
  undefined,
  powWgsl,
);
