import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { close, machines, random } from '../support/wasm-machine.ts';

const all = await machines();

test('strided_copy: every order of four dimensions, repeats and reversals', () => {
  const orders = Array.from({ length: 256 }, (_, n) => [n >> 6, (n >> 4) & 3, (n >> 2) & 3, n & 3]);
  for (const m of all) {
    for (const order of orders.filter((o) => new Set(o).size === 4)) {
      const shape = [2, 3, 5, 9];
      const own = [135, 45, 9, 1];
      const sizes = order.map((d) => shape[d]);
      const from = order.map((d) => own[d]);
      const to = [sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1];
      const x = random(270, 3);
      const y = m.out(270);
      m.kernels.exports.strided_copy(m.put(x), y, 4, ...quad(sizes), ...quad(from), ...quad(to), 0, 0, 0);
      const index = (n: number, d: number) => Math.floor(n / to[d]) % sizes[d];
      const want = Array.from(x, (_, n) => x[from.reduce((at, stride, d) => at + index(n, d) * stride, 0)]);
      assert.equal(Array.from(m.read(y, 270)), want, `order ${order}`);
      m.finish(`copy ${order}`);
    }
    const y = m.out(12);
    m.kernels.exports.strided_copy(m.put([1, 2, 3]) + 8, y, 4, 1, 1, 4, 3, 0, 0, 0, -1, 0, 0, 3, 1, 0, 0, 0);
    assert.equal(Array.from(m.read(y, 12)), [3, 2, 1, 3, 2, 1, 3, 2, 1, 3, 2, 1]);
    m.finish('repeat and reverse');
  }
});

const quad = (v: number[]): [number, number, number, number] => [v[0], v[1], v[2], v[3]];

test('gather_rows and scatter_rows', () => {
  for (const m of all) {
    for (const n of [1, 5, 8]) {
      const often = new Array<number>(130).fill(1);  // is summed in blocks
      const rows = [3, 0, 3, -1, 0, ...often];
      const [table, x] = [random(4 * n, 1), random(rows.length * n, 2)];
      const indices = Int32Array.of(3, 0, 3, 4, 0);
      const [picked, sums] = [m.out(5 * n), m.out(4 * n)];
      m.kernels.exports.gather_rows(m.put(table), m.put(indices), picked, 5, n, 4, 0);
      const room = m.out(m.kernels.exports.scatter_rows_scratch(rows.length, n, 4) / 4);
      m.kernels.exports.scatter_rows(m.put(x), m.put(Int32Array.from(rows)), sums, rows.length, n, 4, room);
      const want = new Array<number>(4 * n).fill(0);
      rows.forEach((row, r) => {
        for (let j = 0; row >= 0 && j < n; j++) want[row * n + j] += x[r * n + j];
      });
      const rowAt = (row: number): number[] => Array.from({ length: n }, (_, j) => (row < 4 ? table[row * n + j] : NaN));
      const gathered = Array.from(indices).flatMap(rowAt);
      close('gather_rows', m.read(picked, 5 * n), gathered, 0, 0);
      close('scatter_rows', m.read(sums, 4 * n), want);
      m.finish('rows');
    }
    const [x, long] = [new Float32Array(100_000).fill(0.1), m.out(1)];
    const room = m.out(m.kernels.exports.scatter_rows_scratch(x.length, 1, 1) / 4);
    m.kernels.exports.scatter_rows(m.put(x), m.put(new Int32Array(x.length)), long, x.length, 1, 1, room);
    close('a long sum', m.read(long, 1), [x.length * x[0]], 1e-6);
    m.finish('a long sum');
  }
});

test.run();
