import { unary } from './activation.ts';
import { ratioWgsl } from '../common/squares.ts';
import { erf as erfOf, erfWgsl, logWgsl, nanWgsl, normalCdf } from './math.ts';
import { trigWgsl } from './trig.ts';

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const INV_SQRT_2PI = 1 / Math.sqrt(2 * Math.PI);
const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

const sigmoidOf = (x: number) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
/** Also of NaN 0, as in torch. */
const signOf = (x: number) => Number(x > 0) - Number(x < 0);
/** Halves go to the even neighbour. */
const roundOf = (x: number) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
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

/** With e = exp(−|x|), tanh(log(1 + eˣ)) is a ratio of polynomials that loses no digits. */
const tanhSoftplus = (x: number) => {
  const e = Math.exp(-Math.abs(x));
  return x > 0 ? (1 + 2 * e) / (1 + 2 * e + 2 * e * e) : (e * (e + 2)) / (e * (e + 2) + 2);
};
const MISH = /* wgsl */ `${SIGMOID}
fn tanh_softplus(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e * (e + 2.0) / (e * (e + 2.0) + 2.0), (1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e), x > 0.0);
}
`;

/** −x; whole numbers wrap around. */
export const neg = unary('neg', { f: (x) => -x, wgsl: '-x', df: -1, integers: { wgsl: '0 - x' } });

// At NaN torch has 0.
export const abs = unary('abs', {
  f: Math.abs,
  df: signOf,
  wgsl: 'abs(x)',
  dwgsl: 'sign_(x)',
  helpers: nanWgsl,
  integers: { wgsl: 'abs(x)' },
});
export const exp = unary('exp', { f: Math.exp, df: (_, y) => y, wgsl: 'exp(x)', dwgsl: 'y' });
export const sin = unary('sin', { f: Math.sin, df: (x) => Math.cos(x), wgsl: 'sin_(x)', dwgsl: 'cos_(x)', helpers: trigWgsl });
export const cos = unary('cos', { f: Math.cos, df: (x) => -Math.sin(x), wgsl: 'cos_(x)', dwgsl: '-sin_(x)', helpers: trigWgsl });
export const log = unary('log', { f: Math.log, df: (x) => 1 / x, wgsl: 'log_(x)', dwgsl: '1.0 / x', helpers: logWgsl });
export const sqrt = unary('sqrt', { f: Math.sqrt, df: (_, y) => 0.5 / y, wgsl: 'sqrt(x)', dwgsl: '0.5 / y' });

export const rsqrt = unary('rsqrt', {
  f: (x) => 1 / Math.sqrt(x),
  df: (x, y) => (-0.5 * y) / x,
  wgsl: '1.0 / sqrt(x)',
  dwgsl: '-0.5 * y / x',
});
export const reciprocal = unary('reciprocal', { f: (x) => 1 / x, df: (_, y) => -y * y, wgsl: '1.0 / x', dwgsl: '-y * y' });
export const square = unary('square', { f: (x) => x * x, df: (x) => 2 * x, wgsl: 'x * x', dwgsl: '2.0 * x', integers: { f: (x) => Math.imul(x, x) } });
export const tanh = unary('tanh', { f: Math.tanh, df: (_, y) => 1 - y * y, wgsl: 'tanh_(x)', dwgsl: '1.0 - y * y', helpers: TANH });

export const sigmoid = unary('sigmoid', {
  f: sigmoidOf,
  df: (_, y) => y * (1 - y),
  wgsl: 'sigmoid_(x)',
  dwgsl: 'y * (1.0 - y)',
  helpers: SIGMOID,
});

export const relu = unary('relu', {
  f: (x) => Math.max(x, 0),
  df: (x) => (x <= 0 ? 0 : 1),
  wgsl: 'max_(x, 0.0)',
  dwgsl: 'select(0.0, 1.0, x > 0.0 || is_nan(x))',
  helpers: nanWgsl,
  integers: { wgsl: 'max(x, 0)' },
});

/** x·sigmoid(x). */
export const silu = unary('silu', {
  f: (x) => x * sigmoidOf(x),
  df: (x) => sigmoidOf(x) * (1 + x * (1 - sigmoidOf(x))),
  wgsl: 'x * sigmoid_(x)',
  dwgsl: 'sigmoid_(x) * (1.0 + x * (1.0 - sigmoid_(x)))',
  helpers: SIGMOID,
});

/** log(1 + eˣ), exact for large |x|. */
export const softplus = unary('softplus', {
  f: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  df: sigmoidOf,
  wgsl: 'softplus_(x)',
  dwgsl: 'sigmoid_(x)',
  helpers: `${SIGMOID}${logWgsl}
fn softplus_(x: f32) -> f32 { return max(x, 0.0) + log_of_one_plus(exp(-abs(x))); }
`,
});

export const erf = unary('erf', {
  f: erfOf,
  df: (x) => TWO_OVER_SQRT_PI * Math.exp(-x * x),
  wgsl: 'erf_(x)',
  dwgsl: `${TWO_OVER_SQRT_PI} * exp(-x * x)`,
  helpers: erfWgsl,
});

/** The exact GELU, by erf. */
export const gelu = unary('gelu', {
  f: (x) => x * normalCdf(x),
  df: (x) => normalCdf(x) + x * INV_SQRT_2PI * Math.exp(-0.5 * x * x),
  wgsl: 'x * normal_cdf(x)',
  dwgsl: `normal_cdf(x) + x * ${INV_SQRT_2PI} * exp(-0.5 * x * x)`,
  helpers: erfWgsl,
});

/** GELU by tanh (Phi's `gelu_new`, SigLIP's `gelu_pytorch_tanh`). */
export const geluTanh = unary('gelu_tanh', {
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
});

/** The greatest whole number that is not above x. Its gradient is 0, as that of `ceil`, `round` and `sign`. */
export const floor = unary('floor', { f: Math.floor, wgsl: 'floor(x)', df: 0 });
export const ceil = unary('ceil', { f: Math.ceil, wgsl: 'ceil(x)', df: 0 });

/** The nearest whole number, of two equally near the even one. */
export const round = unary('round', { f: roundOf, wgsl: 'round(x)', df: 0 });

/** −1, 0 or 1; 0 of NaN. */
export const sign = unary('sign', {
  f: signOf,
  wgsl: 'sign_(x)',
  df: 0,
  helpers: nanWgsl,
  integers: { wgsl: ({ x }) => `${x}(x > 0) - ${x}(x < 0)` },
});

/** x/(1 + |x|). */
export const softsign = unary('softsign', {
  f: (x) => x / (1 + Math.abs(x)),
  df: (x) => 1 / (1 + Math.abs(x)) ** 2,
  wgsl: 'ratio_of(x, 1.0 + abs(x))',
  dwgsl: '1.0 / (1.0 + abs(x)) / (1.0 + abs(x))',
  helpers: ratioWgsl,
});

/** x·tanh(softplus(x)). */
export const mish = unary('mish', {
  f: (x) => x * tanhSoftplus(x),
  df: (x) => tanhSoftplus(x) + x * sigmoidOf(x) * (1 - tanhSoftplus(x) ** 2),
  wgsl: 'x * tanh_softplus(x)',
  dwgsl: 'tanh_softplus(x) + x * sigmoid_(x) * (1.0 - tanh_softplus(x) * tanh_softplus(x))',
  helpers: MISH,
});

/** x·min(max(x + 3, 0), 6)/6. */
export const hardswish = unary('hardswish', {
  f: (x) => x * (Math.min(Math.max(x + 3, 0), 6) / 6),
  df: (x) => (x < -3 ? 0 : x <= 3 ? x / 3 + 0.5 : 1),
  wgsl: 'x * (min_(max_(x + 3.0, 0.0), 6.0) / 6.0)',
  dwgsl: 'select(select(1.0, x / 3.0 + 0.5, x <= 3.0), 0.0, x < -3.0)',
  helpers: nanWgsl,
});
