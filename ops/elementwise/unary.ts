import { expectOneOf } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { inFloat32 } from './half.ts';
import { erf as erfOf, erfWgsl, logWgsl, nanWgsl, normalCdf } from './math.ts';
import { trigWgsl } from './trig.ts';

/**
 * One elementwise function: its value, and its derivative in terms of input x and output y, in JavaScript and WGSL.
 * The C kernels carry the same names (`wasm/src/unary.c`).
 */
interface Row {
  readonly f: (x: number) => number;
  readonly df: (x: number, y: number) => number;
  readonly wgsl: string;
  readonly dwgsl: string;
  /** Functions the WGSL expressions call. */
  readonly helpers?: string;
}

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const INV_SQRT_2PI = 1 / Math.sqrt(2 * Math.PI);
const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

const sigmoidOf = (x: number) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const geluInner = (x: number) => SQRT_2_OVER_PI * (x + 0.044715 * x * x * x);

/**
 * WGSL's tanh overflows to NaN on some drivers for large arguments, where the clamp changes nothing in f32, and loses
 * the bits of small ones, which the series keeps.
 */
const TANH = /* wgsl */ `${nanWgsl}
fn tanh_(x: f32) -> f32 {
  let s = x * x;
  let near = x * (1.0 + s * (-0.33333333 + s * (0.13333333 - s * 0.053968254)));
  return select(select(tanh(clamp(x, -15.0, 15.0)), near, abs(x) < 0.2), x, is_nan(x));
}
`;
const SIGMOID = /* wgsl */ `
fn sigmoid_(x: f32) -> f32 { let e = exp(-abs(x)); return select(e, 1.0, x >= 0.0) / (1.0 + e); }
`;
/**
 * ½(1 + tanh u) is σ(2u), which keeps the bits of the lower tail. Beyond ±20 the derivative is 0 or 1, and x² must not
 * overflow.
 */
const GELU_TANH = /* wgsl */ `${nanWgsl}${SIGMOID}
fn gelu_twice(x: f32) -> f32 { return ${2 * SQRT_2_OVER_PI} * (x + 0.044715 * x * x * x); }
fn dgelu_tanh(x: f32) -> f32 {
  let c = clamp(x, -20.0, 20.0);
  let u = gelu_twice(c);
  let s = sigmoid_(u);
  let d = s + c * s * sigmoid_(-u) * ${2 * SQRT_2_OVER_PI} * (1.0 + 0.134145 * c * c);
  return select(d, x, is_nan(x));
}
`;

const ROWS = {
  neg: { f: (x) => -x, df: () => -1, wgsl: '-x', dwgsl: '-1.0' },
  // At NaN torch has 0.
  abs: {
    f: Math.abs,
    df: (x) => Math.sign(x) || 0,
    wgsl: 'abs(x)',
    dwgsl: 'select(sign(x), 0.0, is_nan(x))',
    helpers: nanWgsl,
  },
  exp: { f: Math.exp, df: (_, y) => y, wgsl: 'exp(x)', dwgsl: 'y' },
  sin: { f: Math.sin, df: (x) => Math.cos(x), wgsl: 'sin_(x)', dwgsl: 'cos_(x)', helpers: trigWgsl },
  cos: { f: Math.cos, df: (x) => -Math.sin(x), wgsl: 'cos_(x)', dwgsl: '-sin_(x)', helpers: trigWgsl },
  log: { f: Math.log, df: (x) => 1 / x, wgsl: 'log_(x)', dwgsl: '1.0 / x', helpers: logWgsl },
  sqrt: { f: Math.sqrt, df: (_, y) => 0.5 / y, wgsl: 'sqrt(x)', dwgsl: '0.5 / y' },
  rsqrt: {
    f: (x) => 1 / Math.sqrt(x),
    df: (x, y) => (-0.5 * y) / x,
    wgsl: '1.0 / sqrt(x)',
    dwgsl: '-0.5 * y / x',
  },
  reciprocal: { f: (x) => 1 / x, df: (_, y) => -y * y, wgsl: '1.0 / x', dwgsl: '-y * y' },
  square: { f: (x) => x * x, df: (x) => 2 * x, wgsl: 'x * x', dwgsl: '2.0 * x' },
  tanh: { f: Math.tanh, df: (_, y) => 1 - y * y, wgsl: 'tanh_(x)', dwgsl: '1.0 - y * y', helpers: TANH },
  sigmoid: {
    f: sigmoidOf,
    df: (_, y) => y * (1 - y),
    wgsl: 'sigmoid_(x)',
    dwgsl: 'y * (1.0 - y)',
    helpers: SIGMOID,
  },
  relu: {
    f: (x) => Math.max(x, 0),
    df: (x) => (x <= 0 ? 0 : 1),
    wgsl: 'max_(x, 0.0)',
    dwgsl: 'select(0.0, 1.0, x > 0.0 || is_nan(x))',
    helpers: nanWgsl,
  },
  silu: {
    f: (x) => x * sigmoidOf(x),
    df: (x) => sigmoidOf(x) * (1 + x * (1 - sigmoidOf(x))),
    wgsl: 'x * sigmoid_(x)',
    dwgsl: 'sigmoid_(x) * (1.0 + x * (1.0 - sigmoid_(x)))',
    helpers: SIGMOID,
  },
  softplus: {
    f: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
    df: sigmoidOf,
    wgsl: 'softplus_(x)',
    dwgsl: 'sigmoid_(x)',
    helpers: `${SIGMOID}${logWgsl}
fn softplus_(x: f32) -> f32 { return max(x, 0.0) + log_of_one_plus(exp(-abs(x))); }
`,
  },
  erf: {
    f: erfOf,
    df: (x) => TWO_OVER_SQRT_PI * Math.exp(-x * x),
    wgsl: 'erf_(x)',
    dwgsl: `${TWO_OVER_SQRT_PI} * exp(-x * x)`,
    helpers: erfWgsl,
  },
  gelu: {
    f: (x) => x * normalCdf(x),
    df: (x) => normalCdf(x) + x * INV_SQRT_2PI * Math.exp(-0.5 * x * x),
    wgsl: 'x * normal_cdf(x)',
    dwgsl: `normal_cdf(x) + x * ${INV_SQRT_2PI} * exp(-0.5 * x * x)`,
    helpers: erfWgsl,
  },
  gelu_tanh: {
    f: (x) => x * sigmoidOf(2 * geluInner(x)),
    df: (x) => {
      const c = Math.max(-100, Math.min(100, x));
      const u = 2 * geluInner(c);
      const s = sigmoidOf(u);
      return s + 2 * c * s * sigmoidOf(-u) * SQRT_2_OVER_PI * (1 + 0.134145 * c * c);
    },
    wgsl: 'x * sigmoid_(gelu_twice(x))',
    dwgsl: 'dgelu_tanh(x)',
    helpers: GELU_TANH,
  },
} satisfies Record<string, Row>;

export type UnaryName = keyof typeof ROWS;

/** The names of all elementwise functions of one argument. */
export const unaryNames = Object.keys(ROWS) as UnaryName[];

/** Whether the derivative is written in terms of the input (x) or the output (y). */
const needs = (row: Row, name: 'x' | 'y') => new RegExp(`\\b${name}\\b`).test(row.dwgsl);

function forwardOp(name: UnaryName, row: Row): Op {
  const [readsX, readsY] = [needs(row, 'x'), needs(row, 'y')];
  const kernel = new Elementwise({
    name: `unary.${name}`,
    reads: { x: 'f32' },
    writes: { y: 'f32' },
    values: { y: row.wgsl },
    helpers: row.helpers,
  });
  return defineOp({
    name,
    shape([x]) {
      expectDType(name, 'x', x.dtype, 'f32');
      return [spec(x.shape)];
    },
    reference({ inputs: [x], outputs: [y] }) {
      for (let i = 0; i < y.size; i++) y.data[i] = row.f(x.data[i]);
    },
    webgpu: ({ inputs, outputs }) => [kernel.launch(inputs, outputs)],
    wasm({ inputs: [x], outputs: [y], k }) {
      k[name](x.ptr, y.ptr, y.size);
      return true;
    },
    saves: { inputs: readsX ? [0] : [], outputs: readsY ? [0] : [] },
    backward({ input, output, grads }) {
      const dy = grads[0]!;
      // dy stands in for what the derivative does not look at.
      return [apply1(BACKWARD[name], [readsX ? input(0) : dy, readsY ? output(0) : dy, dy], {})];
    },
  });
}

/** dx = dy · f′(x), in one kernel. */
function backwardOp(name: UnaryName, row: Row): Op {
  const read = [needs(row, 'x'), needs(row, 'y'), true];
  const kernel = new Elementwise({
    name: `unary.${name}.backward`,
    reads: Object.fromEntries(['x', 'y', 'dy'].filter((_, i) => read[i]).map((name) => [name, 'f32'])),
    writes: { dx: 'f32' },
    values: { dx: `dy * (${row.dwgsl})` },
    helpers: row.helpers,
  });
  return defineOp({
    name: `${name}_backward`,
    shape: ([x]) => [spec(x.shape)],
    reference({ inputs: [x, y, dy], outputs: [dx] }) {
      for (let i = 0; i < dx.size; i++) dx.data[i] = dy.data[i] * row.df(x.data[i], y.data[i]);
    },
    webgpu: ({ inputs, outputs }) => [kernel.launch(inputs.filter((_, i) => read[i]), outputs)],
    wasm({ inputs: [x, y, dy], outputs: [dx], k }) {
      k[`${name}_backward`](x.ptr, y.ptr, dy.ptr, dx.ptr, dx.size);
      return true;
    },
  });
}

function table(make: (name: UnaryName, row: Row) => Op): Record<UnaryName, Op> {
  return Object.fromEntries(unaryNames.map((name) => [name, make(name, ROWS[name])])) as Record<UnaryName, Op>;
}

const BACKWARD = /* @__PURE__ */ table(backwardOp);
/** The op objects, by torch's names. */
export const unaryOps = /* @__PURE__ */ table(forwardOp);

/** Applies the elementwise function of that name: floats of any shape → the same shape and dtype. */
export function unary(name: UnaryName, x: Tensor): Tensor {
  expectOneOf('unary', 'name', name, ...unaryNames);
  return bind(name)(x);
}

const bind = (name: UnaryName) => (x: Tensor) => inFloat32([x], (inputs) => apply1(unaryOps[name], inputs, {}));
export const neg = bind('neg');
export const abs = bind('abs');
export const exp = bind('exp');
export const sin = bind('sin');
export const cos = bind('cos');
export const log = bind('log');
export const sqrt = bind('sqrt');
export const rsqrt = bind('rsqrt');
export const reciprocal = bind('reciprocal');
export const square = bind('square');
export const tanh = bind('tanh');
export const sigmoid = bind('sigmoid');
export const relu = bind('relu');
/** x·sigmoid(x). */
export const silu = bind('silu');
/** log(1 + eˣ), exact for large |x|. */
export const softplus = bind('softplus');
export const erf = bind('erf');
/** The exact GELU, by erf. */
export const gelu = bind('gelu');
/** GELU by tanh (Phi's `gelu_new`, SigLIP's `gelu_pytorch_tanh`). */
export const geluTanh = bind('gelu_tanh');
