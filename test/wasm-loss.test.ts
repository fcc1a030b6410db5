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
      const labels = Int32Array.from({ length: rows }, (_, r) => (r % 3 === 1 ? IGNORE : (r * 7) % n));
      const [x, t, loss] = [m.put(logits), m.put(labels), m.out(1)];
      const [stats, factor, dx] = [m.out(2 * rows), m.out(1), m.out(rows * n)];
      e.cross_entropy(x, t, loss, stats, factor, rows, n, IGNORE);
      e.cross_entropy_backward(x, t, stats, factor, m.put([0.25]), dx, rows, n, IGNORE);
      const f: Reference = (v) => {
        const losses = rowsOf(v, n).flatMap((row, r) => (labels[r] === IGNORE ? [] : [-logSoftmax(row)[labels[r]]]));
        return [losses.reduce((a, b) => a + b, 0) / losses.length];
      };
      close('cross_entropy', m.read(loss, 1), f(Array.from(logits)), 1e-5, 2e-6);
      close('cross_entropy_backward', m.read(dx, rows * n), gradients(f, [logits], [0.25])[0], 1e-4, 1e-6);
      m.finish('cross_entropy');
    }
  }
});

test('cross_entropy of nothing is 0, of a label out of range NaN', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    const [x, loss, stats, factor, dx] = [m.put(random(6, 1)), m.out(1), m.out(4), m.out(1), m.out(6)];
    const none = m.put(Int32Array.of(IGNORE, IGNORE));
    e.cross_entropy(x, none, loss, stats, factor, 2, 3, IGNORE);
    e.cross_entropy_backward(x, none, stats, factor, m.put([1]), dx, 2, 3, IGNORE);
    close('loss and gradient', [...m.read(loss, 1), ...m.read(dx, 6)], new Array(7).fill(0), 0, 0);
    e.cross_entropy(x, m.put(Int32Array.of(1, 3)), loss, stats, factor, 2, 3, IGNORE);
    close('out of range', m.read(loss, 1), [NaN]);
    m.finish('cross_entropy');
  }
});

test('kl_div and its gradient: a temperature, weights, both reductions', () => {
  const [k, scale] = [0.5, 3];
  for (const m of all) {
    const e = m.kernels.exports;
    for (const [rows, n] of SHAPES) {
      for (const weighted of [false, true]) {
        const [student, teacher] = [random(rows * n, 1, 4), random(rows * n, 2, 4)];
        const weights = Array.from({ length: rows }, (_, r) => (weighted ? r % 3 : 1));
        if (weighted && rows === 1) weights[0] = 2;
        const [s, t, w] = [m.put(student), m.put(teacher), weighted ? m.put(weights) : 0];
        const [loss, factor, stats, ds] = [m.out(1), m.out(1), m.out(rows * 5), m.out(rows * n)];
        e.kl_div(s, t, w, loss, factor, stats, rows, n, k, scale, +weighted);
        e.kl_div_backward(s, t, stats, factor, m.put([0.7]), w, ds, rows, n, k);
        const targets = rowsOf(Array.from(teacher), n).map((row) => logSoftmax(row.map((x) => x * k)));
        const f: Reference = (v) => {
          const losses = rowsOf(v, n).map((row, r) => {
            const log = logSoftmax(row.map((x) => x * k));
            return weights[r] * log.reduce((sum, q, i) => sum + Math.exp(targets[r][i]) * (targets[r][i] - q), 0);
          });
          const over = weighted ? weights.reduce((a, b) => a + b, 0) : 1;
          return [(scale / over) * losses.reduce((a, b) => a + b, 0)];
        };
        close('kl_div', m.read(loss, 1), f(Array.from(student)), 1e-5, 3e-6);
        close('kl_div_backward', m.read(ds, rows * n), gradients(f, [student], [0.7])[0], 1e-4, 3e-6);
        m.finish('kl_div');
      }
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
      const [count, skipped, rate] = [m.inout([0]), m.out(1), m.put([lr])];
      const want = Array.from(start, (v) => ({ p: v, m: 0, v: 0 }));
      for (let step = 1; step <= 3; step++) {
        const g = random(n, step + 10);
        const [c1, c2] = [1 - beta1 ** step, 1 - beta2 ** step];
        const rates = [rate, n, beta1, beta2, eps, decay] as const;
        m.kernels.exports.adamw(p, m.put(g), first, second, skipped, count, left, ...rates);
        m.kernels.exports.adamw(p, m.put(g), first, second, count, skipped, taken, ...rates);
        want.forEach((w, i) => {
          const grad = g[i] * clip;
          w.m = beta1 * w.m + (1 - beta1) * grad;
          w.v = beta2 * w.v + (1 - beta2) * grad * grad;
          w.p = w.p * (1 - lr * decay) - ((lr / c1) * w.m) / (Math.sqrt(w.v / c2) + eps);
        });
      }
      close('p', m.read(p, n), want.map((w) => w.p), 1e-5, 1e-6);
      close('m', m.read(first, n), want.map((w) => w.m), 1e-5, 1e-7);
      close('count', m.read(count, 1), [3]);
      close('v', m.read(second, n), want.map((w) => w.v), 1e-5, 1e-7);
      m.finish('adamw');
    }
  }
});

test.run();
