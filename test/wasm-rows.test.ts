import { test } from 'uvu';
import { close, gradients, type Machine, machines, random, type Reference } from './wasm-machine.ts';

const all = await machines();
const rowsOf = (x: ArrayLike<number>, n: number): number[][] =>
  Array.from({ length: x.length / n }, (_, r) => Array.from(x as number[]).slice(r * n, (r + 1) * n));
const sum = (x: number[]): number => x.reduce((a, b) => a + b, 0);
const SHAPES = [[1, 1], [3, 2], [2, 5], [5, 16], [4, 35], [9, 7]];

test('sums over either dimension, and norms', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const [rows, n] of [...SHAPES, [700, 9], [3, 1100]]) {
      const x = random(rows * n, 1);
      const [xp, last, first] = [m.put(x), m.out(rows), m.out(n)];
      e.sum_last(xp, last, rows, n, 1);
      e.sum_first(xp, first, rows, n, 2, m.out(e.sum_first_scratch(rows, n) / 4));
      const columns = Array.from({ length: n }, (_, i) => sum(rowsOf(x, n).map((r) => r[i])) / 2);
      close('sum_last', m.read(last, rows), rowsOf(x, n).map(sum));
      close('half of sum_first', m.read(first, n), columns);
      const squares = Array.from(x, (v) => v * v).reduce((p, q) => p + q, 0);
      const norm = m.out(1);
      e.l2_distance(xp, undefined, norm, rows * n);
      close('l2_distance', m.read(norm, 1), [Math.sqrt(squares)]);
      m.finish('sums');
    }
  }
});

test('l2_distance and its gradient, 0 between equals', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const n of [1, 4, 7, 19]) {
      const [a, b] = [random(n, 1), random(n, 2)];
      const [ap, bp, dy] = [m.put(a), m.put(b), m.put([3])];
      const [y, da, none, flat] = [m.out(1), m.out(n), m.out(1), m.out(n)];
      e.l2_distance(ap, bp, y, n);
      e.l2_distance_backward(ap, bp, y, dy, da, n);
      e.l2_distance(ap, ap, none, n);
      e.l2_distance_backward(ap, ap, none, dy, flat, n);
      const f: Reference = (x) => [Math.sqrt(x.reduce((s, v, i) => s + (v - b[i]) ** 2, 0))];
      close('l2_distance', m.read(y, 1), f(Array.from(a)));
      close('l2_distance_backward', m.read(da, n), gradients(f, [a], [3])[0], 1e-5, 1e-6);
      close('between equals', [...m.read(none, 1), ...m.read(flat, n)], new Array(n + 1).fill(0), 0, 0);
      m.finish('l2_distance');
    }
  }
});

const logsumexp = (r: number[]): number => Math.max(...r) + Math.log(sum(r.map((v) => Math.exp(v - Math.max(...r)))));
const logSoftmax = (n: number) => (x: number[]) => rowsOf(x, n).flatMap((r) => r.map((v) => v - logsumexp(r)));

test('softmax, log_softmax, logsumexp and their gradients', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    for (const [rows, n] of SHAPES) {
      const size = rows * n;
      const [x, dy] = [random(size, 1, 8), random(size, 2)];
      const [y, ly, lse, dx, ldx] = [m.out(size), m.out(size), m.out(rows), m.out(size), m.out(size)];
      const [xp, dyp] = [m.put(x), m.put(dy)];
      e.softmax(xp, y, rows, n);
      e.softmax_backward(y, dyp, dx, rows, n);
      e.log_softmax(xp, ly, rows, n);
      e.log_softmax_backward(ly, dyp, ldx, rows, n);
      e.logsumexp(xp, lse, rows, n);
      const f: Reference = logSoftmax(n);
      const softmax: Reference = (v) => f(v).map(Math.exp);
      close('softmax', m.read(y, size), softmax(Array.from(x)), 3e-6, 1e-12);
      close('log_softmax', m.read(ly, size), f(Array.from(x)), 1e-6, 2e-6);
      close('logsumexp', m.read(lse, rows), rowsOf(x, n).map(logsumexp), 1e-6, 1e-6);
      close('softmax_backward', m.read(dx, size), gradients(softmax, [x], dy)[0], 1e-4, 1e-6);
      close('log_softmax_backward', m.read(ldx, size), gradients(f, [x], dy)[0], 1e-4, 3e-6);
      m.finish('softmax');
    }
  }
});

test('softmax at extremes', () => {
  const x = [-1e30, 0, 1, -3e38, -3e38, -3e38, -Infinity, 2, -Infinity];
  for (const m of all) {
    const y = m.out(9);
    m.kernels.exports.softmax(m.put(x), y, 3, 3);
    close('softmax', m.read(y, 9), [0, 0.2689414214, 0.7310585786, 1 / 3, 1 / 3, 1 / 3, 0, 1, 0]);
    m.finish('softmax');
  }
});

interface NormCase {
  center: boolean;
  gate: 0 | 1 | 2;
  bias: boolean;
  group: number;
  channels: number;
}

/** Inputs x, z, w, b. */
function normReference({ center, gate, bias, group, channels }: NormCase, eps: number): Reference {
  const silu = (v: number): number => v / (1 + Math.exp(-v));
  return (x, z, w, b) =>
    rowsOf(x, group).flatMap((row, r) => {
      const at = (i: number): number => r * group + i;
      const u = row.map((v, i) => (gate === 1 ? v * silu(z[at(i)]) : v));
      const mean = center ? sum(u) / group : 0;
      const rstd = 1 / Math.sqrt(sum(u.map((v) => (v - mean) ** 2)) / group + eps);
      return u.map((v, i) => {
        const c = at(i) % channels;
        return ((v - mean) * rstd * w[c] + (bias ? b[c] : 0)) * (gate === 2 ? silu(z[at(i)]) : 1);
      });
    });
}

function checkNorm(m: Machine, c: NormCase, rows: number): void {
  const label = `norm ${JSON.stringify(c)}`;
  const e = m.kernels.exports;
  const size = rows * c.group;
  const [x, z, w, b, dy] = [size, size, c.channels, c.channels, size].map((n, i) => random(n, i + rows, 2));
  const [xp, zp, wp, bp, dyp] = [x, z, w, b, dy].map((v) => m.put(v));
  const [y, mean, rstd] = [m.out(size), c.center ? m.out(rows) : 0, m.out(rows)];
  const [gate, zUsed] = [c.gate, c.gate ? zp : 0];
  e.norm(xp, zUsed, wp, c.bias ? bp : 0, y, mean, rstd, rows, c.group, c.channels, 1e-5, gate);
  const f = normReference(c, 1e-5);
  close(label, m.read(y, size), f(...[x, z, w, b].map((v) => Array.from(v))), 1e-5, 1e-5);
  const [dx, dz, dw, db] = [m.out(size), c.gate ? m.out(size) : 0, m.out(c.channels), c.bias ? m.out(c.channels) : 0];
  e.norm_backward(xp, zUsed, wp, mean, rstd, dyp, dx, dz, rows, c.group, c.channels, gate);
  const room = m.out(e.norm_weights_scratch(c.channels) / 4);
  e.norm_weights_backward(xp, zUsed, mean, rstd, dyp, dw, db, rows, c.group, c.channels, gate, room);
  const want = gradients(f, [x, z, w, b], dy);
  close(`${label} dx`, m.read(dx, size), want[0], 1e-4, 2e-5);
  if (dz) close(`${label} dz`, m.read(dz, size), want[1], 1e-4, 2e-5);
  close(`${label} dw`, m.read(dw, c.channels), want[2], 1e-4, 2e-5);
  if (db) close(`${label} db`, m.read(db, c.channels), want[3], 1e-4, 2e-5);
  m.finish(label);
}

test('layer norm, RMS norm, gated RMS norm and their gradients', () => {
  for (const m of all) {
    for (const [group, channels, rows] of [[5, 5, 3], [8, 8, 4], [6, 18, 6], [1, 3, 3], [37, 37, 2]]) {
      checkNorm(m, { center: group > 1, gate: 0, bias: true, group, channels }, rows);
      for (const gate of [0, 1, 2] as const) checkNorm(m, { center: false, gate, bias: false, group, channels }, rows);
    }
  }
});

test.run();
