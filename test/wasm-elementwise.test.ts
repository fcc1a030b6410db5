import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { erf } from '../ops/elementwise/erf.ts';
import type { Kernels } from '../wasm/kernels.ts';
import { close, machines, random } from './wasm-machine.ts';

type Unary = (x: number, y: number, n: number) => void;
type UnaryBackward = (x: number, y: number, dy: number, dx: number, n: number) => void;

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const u = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const cdf = (x: number): number => 0.5 * (1 + erf(x / Math.SQRT2));

/** Function and derivative in f64; `positive` where only x > 0 has a value. */
const TABLE: Record<string, { f: (x: number) => number; df: (x: number) => number; positive?: boolean }> = {
  neg: { f: (x) => -x, df: () => -1 },
  abs: { f: Math.abs, df: Math.sign },
  exp: { f: Math.exp, df: Math.exp },
  log: { f: Math.log, df: (x) => 1 / x, positive: true },
  sin: { f: Math.sin, df: Math.cos },
  cos: { f: Math.cos, df: (x) => -Math.sin(x) },
  tanh: { f: Math.tanh, df: (x) => 1 - Math.tanh(x) ** 2 },
  sigmoid: { f: sigmoid, df: (x) => sigmoid(x) * sigmoid(-x) },
  relu: { f: (x) => Math.max(x, 0), df: (x) => (x > 0 ? 1 : 0) },
  silu: { f: (x) => x * sigmoid(x), df: (x) => sigmoid(x) * (1 + x * sigmoid(-x)) },
  softplus: { f: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), df: sigmoid },
  gelu: { f: (x) => x * cdf(x), df: (x) => cdf(x) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI) },
  gelu_tanh: {
    f: (x) => x * sigmoid(2 * u(x)),
    df: (x) => {
      const s = sigmoid(2 * u(x));
      return s + x * s * sigmoid(-2 * u(x)) * 2 * Math.sqrt(2 / Math.PI) * (1 + 0.134145 * x * x);
    },
  },
  erf: { f: erf, df: (x) => (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) },
  square: { f: (x) => x * x, df: (x) => 2 * x },
  sqrt: { f: Math.sqrt, df: (x) => 0.5 / Math.sqrt(x), positive: true },
  rsqrt: { f: (x) => 1 / Math.sqrt(x), df: (x) => -0.5 * x ** -1.5, positive: true },
  reciprocal: { f: (x) => 1 / x, df: (x) => -1 / (x * x) },
};

const all = await machines();
const kernel = <T>(e: Kernels, name: string): T => (e as unknown as Record<string, T>)[name];

for (const [name, { f, df, positive }] of Object.entries(TABLE)) {
  test(`${name} and its derivative`, () => {
    for (const m of all) {
      for (const n of [1, 2, 3, 4, 5, 7, 401]) {
        const x = random(n, n, n > 100 ? 9 : 3).map((v) => (positive ? Math.abs(v) + 1e-3 : v));
        const dy = random(n, n + 1);
        const [xp, y, dx] = [m.put(x), m.out(n), m.out(n)];
        kernel<Unary>(m.kernels.exports, name)(xp, y, n);
        kernel<UnaryBackward>(m.kernels.exports, `${name}_backward`)(xp, y, m.put(dy), dx, n);
        // an absolute floor only where a difference of rounded numbers makes one
        close(`${name} n=${n}`, m.read(y, n), Array.from(x, f), 2e-6, 3e-7);
        close(`${name}_backward n=${n}`, m.read(dx, n), Array.from(x, (v, i) => df(v) * dy[i]), 4e-6, 1e-6);
        m.finish(name);
      }
    }
  });
}

test('relative error stays near 1e-6 where results are tiny or huge', () => {
  const names = ['exp', 'log', 'tanh', 'sigmoid', 'softplus', 'erf', 'silu'];
  for (const m of all) {
    for (const name of names) {
      const { f, positive } = TABLE[name];
      const magnitudes = Array.from({ length: 400 }, (_, i) => 10 ** (-30 + i * 0.08));
      const signed = positive ? magnitudes : [...magnitudes, ...magnitudes.map((v) => -v)];
      const x = Float32Array.from(signed).filter((v) => Math.abs(v) < (positive ? 1e38 : 80));
      const y = m.out(x.length);
      kernel<Unary>(m.kernels.exports, name)(m.put(x), y, x.length);
      close(name, m.read(y, x.length), Array.from(x, f), 1.5e-6, 0);
      m.finish(name);
    }
  }
});

test('infinities, NaN, zeros and subnormals', () => {
  const x = [Infinity, -Infinity, NaN, 0, 1e-40, 3e38, -3e38, 100, -100, 88.7, -103.9];
  const names = ['exp', 'log', 'tanh', 'sigmoid', 'softplus', 'erf', 'relu', 'abs', 'sqrt', 'reciprocal', 'gelu_tanh'];
  for (const m of all) {
    for (const name of names) {
      const y = m.out(x.length);
      kernel<Unary>(m.kernels.exports, name)(m.put(x), y, x.length);
      const fround = Float32Array.from(x);
      const want = Array.from(fround, (v) => Math.fround(TABLE[name].f(v)) + 0);
      if (name === 'gelu_tanh') want[1] = NaN; // −∞·0, as the formula has it
      // all but exp itself may flush what is subnormal
      close(name, m.read(y, x.length).map((v) => v + 0), want, 1e-5, name === 'exp' ? 1e-44 : 1.2e-38);
      m.finish(name);
    }
  }
});

test('sin and cos far out', () => {
  const x = Float32Array.from([1, 10, 1000, 8191, 8193, 1e5, 1e7, -3e8, 0.1, -12345.5, Infinity, NaN]);
  for (const m of all) {
    for (const name of ['sin', 'cos'] as const) {
      const y = m.out(x.length);
      kernel<Unary>(m.kernels.exports, name)(m.put(x), y, x.length);
      close(name, m.read(y, x.length), Array.from(x, Math[name]), 1e-6, 3e-6);
      m.finish(name);
    }
  }
});

const BINARY: Record<string, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  maximum: Math.max,
  minimum: Math.min,
};

for (const [name, f] of Object.entries(BINARY)) {
  test(`${name}: same shape, rows and columns`, () => {
    for (const m of all) {
      const e = m.kernels.exports;
      for (const [rows, n] of [[1, 1], [3, 5], [2, 8], [7, 31]]) {
        const [a, same, row, col] = [random(rows * n, 1), random(rows * n, 2), random(n, 3), random(rows, 4)];
        const [ap, y1, y2, y3] = [m.put(a), m.out(rows * n), m.out(rows * n), m.out(rows * n)];
        kernel<(...args: number[]) => void>(e, name)(ap, m.put(same), y1, rows * n);
        kernel<(...args: number[]) => void>(e, `${name}_rows`)(ap, m.put(row), y2, rows, n);
        kernel<(...args: number[]) => void>(e, `${name}_cols`)(ap, m.put(col), y3, rows, n);
        close(name, m.read(y1, rows * n), Array.from(a, (v, i) => f(v, same[i])));
        close(`${name}_rows`, m.read(y2, rows * n), Array.from(a, (v, i) => f(v, row[i % n])));
        close(`${name}_cols`, m.read(y3, rows * n), Array.from(a, (v, i) => f(v, col[Math.floor(i / n)])));
        m.finish(name);
      }
    }
  });
}

test('scale_add, fill', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const n of [1, 6, 17]) {
      const [y, b] = [random(n, 1), random(n, 2).map((v) => v + 2)];
      const [sum, plain, filled] = [m.inout(y), m.out(n), m.out(n)];
      e.scale_add(m.put(b), sum, n, 0.5, -2);
      e.scale_add(m.put(b), plain, n, 3, 0);
      e.fill(filled, n, 7.5);
      close('scale_add', m.read(sum, n), Array.from(b, (v, i) => 0.5 * v - 2 * y[i]));
      close('scale_add over NaN', m.read(plain, n), Array.from(b, (v) => 3 * v));
      assert.ok(m.read(filled, n).every((v) => v === 7.5));
      m.finish('elementwise');
    }
  }
});

test.run();
