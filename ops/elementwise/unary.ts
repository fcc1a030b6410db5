import { dsilu, erf as erfOf, normalCdf, sigmoid as sigmoidOf, silu as siluOf } from '../common/math.ts';
import { unary } from './activation.ts';

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const INV_SQRT_2PI = 1 / Math.sqrt(2 * Math.PI);
const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

/** Also of NaN 0, as in torch. */
const signOf = (x: number) => Number(x > 0) - Number(x < 0);
/** Halves go to the even neighbour. */
const roundOf = (x: number) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
const geluInner = (x: number) => SQRT_2_OVER_PI * (x + 0.044715 * x * x * x);
const geluTanhSlope = (x: number) => {
  const c = Math.max(-100, Math.min(100, x));
  const u = 2 * geluInner(c);
  const s = sigmoidOf(u);
  return s + 2 * c * s * sigmoidOf(-u) * SQRT_2_OVER_PI * (1 + 0.134145 * c * c);
};
/** With e = exp(−|x|), tanh(log(1 + eˣ)) is a ratio of polynomials that loses no digits. */
const tanhSoftplus = (x: number) => {
  const e = Math.exp(-Math.abs(x));
  return x > 0 ? (1 + 2 * e) / (1 + 2 * e + 2 * e * e) : (e * (e + 2)) / (e * (e + 2) + 2);
};

/** −x; whole numbers wrap around. */
export const neg = unary('neg', [(x) => -x, '-x'], -1, { integers: { wgsl: '0 - x' } });
export const abs = unary('abs', [Math.abs, 'abs(x)'], [signOf, 'sign_(x)'], { integers: {} });
export const exp = unary('exp', [Math.exp, 'exp(x)'], [(_, y) => y, 'y']);
export const sin = unary('sin', [Math.sin, 'sin_(x)'], [Math.cos, 'cos_(x)']);
export const cos = unary('cos', [Math.cos, 'cos_(x)'], [(x) => -Math.sin(x), '-sin_(x)']);
export const log = unary('log', [Math.log, 'log_(x)'], [(x) => 1 / x, '1.0 / x']);
export const sqrt = unary('sqrt', [Math.sqrt, 'sqrt(x)'], [(_, y) => 0.5 / y, '0.5 / y']);
export const rsqrt = unary(
  'rsqrt',
  [(x) => 1 / Math.sqrt(x), '1.0 / sqrt(x)'],
  [(x, y) => (-0.5 * y) / x, '-0.5 * y / x'],
);
export const reciprocal = unary('reciprocal', [(x) => 1 / x, '1.0 / x'], [(_, y) => -y * y, '-y * y']);
export const square = unary('square', [(x) => x * x, 'x * x'], [(x) => 2 * x, '2.0 * x'], {
  integers: { f: () => (x) => Math.imul(x, x) },
});
export const tanh = unary('tanh', [Math.tanh, 'tanh_(x)'], [(_, y) => 1 - y * y, '1.0 - y * y']);
export const sigmoid = unary('sigmoid', [sigmoidOf, 'sigmoid_(x)'], [(_, y) => y * (1 - y), 'y * (1.0 - y)']);
export const relu = unary(
  'relu',
  [(x) => Math.max(x, 0), 'max_(x, 0.0)'],
  [(x) => (x <= 0 ? 0 : 1), 'select(0.0, 1.0, x > 0.0 || is_nan(x))'],
  { integers: { wgsl: 'max(x, 0)' } },
);

/** x·sigmoid(x). */
export const silu = unary('silu', [siluOf, 'silu(x)'], [dsilu, 'dsilu(x)']);

/** log(1 + eˣ), exact for large |x|. */
export const softplus = unary(
  'softplus',
  [(x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), 'softplus_(x)'],
  [sigmoidOf, 'sigmoid_(x)'],
);

export const erf = unary(
  'erf',
  [erfOf, 'erf_(x)'],
  [(x) => TWO_OVER_SQRT_PI * Math.exp(-x * x), `${TWO_OVER_SQRT_PI} * exp(-x * x)`],
);

/** The exact GELU, by erf. */
export const gelu = unary(
  'gelu',
  [(x) => x * normalCdf(x), 'x * normal_cdf(x)'],
  [
    (x) => normalCdf(x) + x * INV_SQRT_2PI * Math.exp(-0.5 * x * x),
    `normal_cdf(x) + x * ${INV_SQRT_2PI} * exp(-0.5 * x * x)`,
  ],
);

/** GELU by tanh (Phi's `gelu_new`, SigLIP's `gelu_pytorch_tanh`). */
export const geluTanh = unary(
  'gelu_tanh',
  [(x) => x * sigmoidOf(2 * geluInner(x)), 'x * sigmoid_(gelu_twice(x))'],
  [geluTanhSlope, 'dgelu_tanh(x)'],
);

/** The greatest whole number that is not above x. Its gradient is 0, as that of `ceil`, `round` and `sign`. */
export const floor = unary('floor', [Math.floor, 'floor(x)'], 0);
export const ceil = unary('ceil', [Math.ceil, 'ceil(x)'], 0);

/** The nearest whole number, of two equally near the even one. */
export const round = unary('round', [roundOf, 'round(x)'], 0);

/** −1, 0 or 1; 0 of NaN. */
export const sign = unary('sign', [signOf, 'sign_(x)'], 0, {
  integers: { wgsl: ({ x }) => `${x}(x > 0) - ${x}(x < 0)` },
});

/** x/(1 + |x|). */
export const softsign = unary(
  'softsign',
  [(x) => x / (1 + Math.abs(x)), 'ratio_of(x, 1.0 + abs(x))'],
  [(x) => 1 / (1 + Math.abs(x)) ** 2, '1.0 / (1.0 + abs(x)) / (1.0 + abs(x))'],
);

/** x·tanh(softplus(x)). */
export const mish = unary(
  'mish',
  [(x) => x * tanhSoftplus(x), 'x * tanh_softplus(x)'],
  [
    (x) => tanhSoftplus(x) + x * sigmoidOf(x) * (1 - tanhSoftplus(x) ** 2),
    'tanh_softplus(x) + x * sigmoid_(x) * (1.0 - tanh_softplus(x) * tanh_softplus(x))',
  ],
);

/** x·min(max(x + 3, 0), 6)/6. */
export const hardswish = unary(
  'hardswish',
  [(x) => x * (Math.min(Math.max(x + 3, 0), 6) / 6), 'x * (min_(max_(x + 3.0, 0.0), 6.0) / 6.0)'],
  [
    (x) => (x < -3 ? 0 : x <= 3 ? x / 3 + 0.5 : 1),
    'select(select(1.0, x / 3.0 + 0.5, x <= 3.0), 0.0, x < -3.0)',
  ],
);
