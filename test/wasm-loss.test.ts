import { test } from 'uvu';
import { close, gradients, machines, random, type Reference } from './wasm-machine.ts';

const all = await machines();
const rowsOf = (x: number[], n: number): number[][] =>
  Array.from({ length: x.length / n }, (_, r) => x.slice(r * n, (r + 1) * n));
const logSoftmax = (row: number[]): number[] => {
  const max = Math.max(...row);
  const lse = max + Math.log(row.reduce((s, v) => s + Math.exp(v - max), 0));
  return row.map((v) => v - lse);
};
const SHAPES = [[1, 1], [3, 5], [4, 16], [5, 23]];
const IGNORE = -100;

test('cross_entropy and its gradient, ignored rows among them', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const [rows, n] of SHAPES) {
      const logits = random(rows * n, n, 6);
      const targets = Int32Array.from({ length: rows }, (_, r) => (r % 3 === 1 ? IGNORE : (r * 7) % n));
      const [x, t, loss, lse, dx] = [m.put(logits), m.put(targets), m.out(rows), m.out(rows), m.out(rows * n)];
      e.cross_entropy(x, t, loss, lse, rows, n, IGNORE);
      e.cross_entropy_backward(x, t, lse, dx, rows, n, IGNORE, 0.25);
      const f: Reference = (v) =>
        rowsOf(v, n).map((row, r) => (targets[r] === IGNORE ? 0 : -logSoftmax(row)[targets[r]]));
      close('cross_entropy', m.read(loss, rows), f(Array.from(logits)), 1e-5, 2e-6);
      const want = gradients(f, [logits], new Array(rows).fill(0.25))[0];
      close('cross_entropy_backward', m.read(dx, rows * n), want, 1e-4, 1e-6);
      m.finish('cross_entropy');
    }
  }
});

test('kl_div and its gradient, at a temperature', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const [rows, n] of SHAPES) {
      const [student, teacher] = [random(rows * n, 1, 4), random(rows * n, 2, 4)];
      const [s, t, loss] = [m.put(student), m.put(teacher), m.out(rows)];
      const [ls, lt, ds] = [m.out(rows), m.out(rows), m.out(rows * n)];
      e.kl_div(s, t, loss, ls, lt, rows, n, 0.5);
      e.kl_div_backward(s, t, ls, lt, ds, rows, n, 0.5, 3);
      const f: Reference = (v) =>
        rowsOf(v, n).map((row, r) => {
          const target = logSoftmax(rowsOf(Array.from(teacher), n)[r].map((x) => x / 2));
          return logSoftmax(row.map((x) => x / 2)).reduce((sum, q, i) => sum + Math.exp(target[i]) * (target[i] - q), 0);
        });
      close('kl_div', m.read(loss, rows), f(Array.from(student)), 1e-5, 3e-6);
      const want = gradients(f, [student], new Array(rows).fill(3))[0];
      close('kl_div_backward', m.read(ds, rows * n), want, 1e-4, 3e-6);
      m.finish('kl_div');
    }
  }
});

test('adamw: three steps as torch has them, and none where a gradient is not finite', () => {
  const [lr, beta1, beta2, eps, decay, clip] = [0.01, 0.9, 0.95, 1e-8, 0.1, 0.5];
  for (const m of all) {
    for (const n of [1, 6, 9]) {
      const start = random(n, n);
      const [p, taken, left] = [m.inout(start), m.put([9, clip, 1]), m.put([NaN, NaN, 0])];
      const [first, second] = [m.inout(new Float32Array(n)), m.inout(new Float32Array(n))];
      const want = Array.from(start, (v) => ({ p: v, m: 0, v: 0 }));
      for (let step = 1; step <= 3; step++) {
        const g = random(n, step + 10);
        const [c1, c2] = [1 - beta1 ** step, 1 - beta2 ** step];
        const hyper = m.put([lr, beta1, beta2, eps, c1, c2]);
        m.kernels.exports.adamw(p, m.put(g), first, second, hyper, taken, n, decay);
        m.kernels.exports.adamw(p, m.put(g), first, second, hyper, left, n, decay);
        want.forEach((w, i) => {
          const grad = g[i] * clip;
          w.m = beta1 * w.m + (1 - beta1) * grad;
          w.v = beta2 * w.v + (1 - beta2) * grad * grad;
          w.p = w.p * (1 - lr * decay) - ((lr / c1) * w.m) / (Math.sqrt(w.v / c2) + eps);
        });
      }
      close('p', m.read(p, n), want.map((w) => w.p), 1e-5, 1e-6);
      close('m', m.read(first, n), want.map((w) => w.m), 1e-5, 1e-7);
      close('v', m.read(second, n), want.map((w) => w.v), 1e-5, 1e-7);
      m.finish('adamw');
    }
  }
});

test.run();
