import { expectOneOf } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply, apply1, defineOp, type Op, spec, type WasmArg, type WasmCall } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { binaryOnWasm } from './binary-wasm.ts';
import { Elementwise } from './elementwise.ts';
import { inFloat32 } from './half.ts';
import { nanWgsl } from './math.ts';
import { power, powWgsl } from './pow.ts';
import { sumTo } from '../reduce/reduce.ts';
import { mulScalar } from './scalar.ts';
import { broadcastIndex, broadcastShapes } from '../common/shapes.ts';

/** A partial derivative times dy in JavaScript and WGSL. */
interface Slope {
  readonly f: (a: number, b: number, dy: number) => number;
  readonly wgsl: string;
}

/** One elementwise function of two arguments that broadcast, with its partial derivatives. */
interface Row {
  readonly f: (a: number, b: number) => number;
  readonly wgsl: string;
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

const ROWS = {
  add: { f: (a, b) => a + b, wgsl: 'a + b', da: 1, db: 1 },
  sub: { f: (a, b) => a - b, wgsl: 'a - b', da: 1, db: -1 },
  mul: {
    f: (a, b) => a * b,
    wgsl: 'a * b',
    da: { f: (_, b, dy) => dy * b, wgsl: 'dy * b' },
    db: { f: (a, _, dy) => dy * a, wgsl: 'dy * a' },
  },
  div: {
    f: (a, b) => a / b,
    wgsl: 'a / b',
    da: { f: (_, b, dy) => dy / b, wgsl: 'dy / b' },
    db: { f: (a, b, dy) => -dy * (a / b / b), wgsl: '-dy * (a / b / b)' },
  },
  maximum: {
    f: Math.max,
    wgsl: 'max_(a, b)',
    da: { f: share, wgsl: 'share(a, b, dy)' },
    db: { f: (a, b, dy) => share(b, a, dy), wgsl: 'share(b, a, dy)' },
    helpers: SHARE,
  },
  minimum: {
    f: Math.min,
    wgsl: 'min_(a, b)',
    da: { f: (a, b, dy) => share(-a, -b, dy), wgsl: 'share(-a, -b, dy)' },
    db: { f: (a, b, dy) => share(-b, -a, dy), wgsl: 'share(-b, -a, dy)' },
    helpers: SHARE,
  },
  pow: {
    f: power,
    wgsl: 'pow_(a, b)',
    da: { f: (a, b, dy) => (b === 0 ? 0 : dy * b * power(a, b - 1)), wgsl: 'pow_da(a, b, dy)' },
    db: { f: (a, b, dy) => (a === 0 && b >= 0 ? 0 : dy * power(a, b) * Math.log(a)), wgsl: 'pow_db(a, b, dy)' },
    helpers: powWgsl,
  },
} satisfies Record<string, Row>;

export type BinaryName = keyof typeof ROWS;
/** The names of all elementwise functions of two arguments. */
export const binaryNames = Object.keys(ROWS) as BinaryName[];

function forwardOp(name: BinaryName, row: Row): Op {
  const kernel = new Elementwise({
    name: `binary.${name}`,
    reads: { a: 'f32', b: 'f32' },
    writes: { y: 'f32' },
    values: { y: row.wgsl },
    helpers: row.helpers,
  });
  return defineOp({
    name,
    shape([a, b]) {
      expectDType(name, 'a', a.dtype, 'f32');
      expectDType(name, 'b', b.dtype, 'f32');
      return [spec(broadcastShapes(name, a.shape, b.shape))];
    },
    reference({ inputs: [a, b], outputs: [y] }) {
      const ia = broadcastIndex(a.shape, y.shape);
      const ib = broadcastIndex(b.shape, y.shape);
      for (let i = 0; i < y.size; i++) y.data[i] = row.f(a.data[ia[i]], b.data[ib[i]]);
    },
    webgpu: ({ inputs, outputs }) => [kernel.launch(inputs, outputs)],
    wasm: ({ inputs: [a, b], outputs: [y], k }) => name !== 'pow' && binaryOnWasm(k, name, a, b, y),
    saves: constant(row.da) && constant(row.db) ? {} : { inputs: [0, 1] },
    backward({ input, inputSpecs, grads, needs }) {
      const dy = grads[0]!;
      const wanted = { a: needs[0] && !constant(row.da), b: needs[1] && !constant(row.db) };
      const formed = wanted.a || wanted.b ? apply(BACKWARD[name], [input(0), input(1), dy], wanted) : [];
      const reduce = (k: number, partial: Slope | number, own: Tensor) => {
        const sum = sumTo(constant(partial) ? dy : own, inputSpecs[k].shape);
        return constant(partial) && partial !== 1 ? mulScalar(sum, partial) : sum;
      };
      return [
        needs[0] ? reduce(0, row.da, formed[0]) : null,
        needs[1] ? reduce(1, row.db, formed[formed.length - 1]) : null,
      ];
    },
  });
}

function constant(partial: Slope | number): partial is number {
  return typeof partial === 'number';
}

interface Wanted {
  readonly a: boolean;
  readonly b: boolean;
}

/** dy·∂f/∂a and dy·∂f/∂b at the broadcast shape, those that are wanted, in one kernel. */
function backwardOp(name: BinaryName, row: Row): Op<Wanted> {
  const partialsOf = ({ a, b }: Wanted) => [...(a ? [row.da] : []), ...(b ? [row.db] : [])] as Slope[];
  const kernels: Elementwise[] = [];
  const kernelFor = (wanted: Wanted) => {
    const code = (wanted.a ? 1 : 0) + (wanted.b ? 2 : 0);
    return (kernels[code] ??= backwardKernel(`binary.${name}.backward${code}`, row, partialsOf(wanted)));
  };
  return defineOp<Wanted>({
    name: `${name}_backward`,
    shape: ([, , dy], wanted) => partialsOf(wanted).map(() => spec(dy.shape)),
    reference({ inputs: [a, b, dy], outputs, attrs }) {
      const ia = broadcastIndex(a.shape, dy.shape);
      const ib = broadcastIndex(b.shape, dy.shape);
      partialsOf(attrs).forEach(({ f }, k) => {
        for (let i = 0; i < dy.size; i++) outputs[k].data[i] = f(a.data[ia[i]], b.data[ib[i]], dy.data[i]);
      });
    },
    webgpu: ({ inputs, outputs, attrs }) => [kernelFor(attrs).launch(inputs, outputs)],
    wasm: (call) => partialsOnWasm(name, call),
  });
}

/** The partials of mul and div by C kernels. */
function partialsOnWasm(name: BinaryName, { inputs: [a, b, dy], outputs, attrs, k }: WasmCall<Wanted>): boolean {
  const da = attrs.a ? outputs[0] : null;
  const db = attrs.b ? outputs[outputs.length - 1] : null;
  switch (name) {
    case 'mul':
      return (!da || binaryOnWasm(k, 'mul', dy, b, da)) && (!db || binaryOnWasm(k, 'mul', dy, a, db));
    case 'div': {
      const byB = (x: WasmArg, y: WasmArg) => binaryOnWasm(k, 'div', x, b, y);
      if (da && !byB(dy, da)) return false;
      if (!db) return true;
      const done = byB(a, db) && byB(db, db) && binaryOnWasm(k, 'mul', dy, db, db);
      if (done) k.neg(db.ptr, db.ptr, db.size);
      return done;
    }
    default:
      return false;
  }
}

function backwardKernel(name: string, row: Row, partials: readonly Slope[]): Elementwise {
  return new Elementwise({
    name,
    reads: { a: 'f32', b: 'f32', dy: 'f32' },
    writes: Object.fromEntries(partials.map((_, k) => [`d${k}`, 'f32'])),
    values: Object.fromEntries(partials.map(({ wgsl }, k) => [`d${k}`, wgsl])),
    helpers: row.helpers,
  });
}

const table = <T>(make: (name: BinaryName, row: Row) => T) =>
  Object.fromEntries(binaryNames.map((name) => [name, make(name, ROWS[name])])) as Record<BinaryName, T>;

const BACKWARD = /* @__PURE__ */ table(backwardOp);
/** The op objects, by torch's names. */
export const binaryOps = /* @__PURE__ */ table(forwardOp);

/** Applies the elementwise function of that name to two float tensors that broadcast as torch has it. */
export function binary(name: BinaryName, a: Tensor, b: Tensor): Tensor {
  expectOneOf('binary', 'name', name, ...binaryNames);
  return bind(name)(a, b);
}

const bind = (name: BinaryName) => (a: Tensor, b: Tensor) =>
  inFloat32([a, b], (inputs) => apply1(binaryOps[name], inputs, {}));
export const add = bind('add');
export const sub = bind('sub');
export const mul = bind('mul');
export const div = bind('div');
/** The larger of a and b; where they are equal each gets half the gradient. */
export const maximum = bind('maximum');
/** The smaller of a and b; where they are equal each gets half the gradient. */
export const minimum = bind('minimum');
export const pow = bind('pow');
