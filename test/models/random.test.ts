import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { Random } from '../../models/nn/random.ts';
import { throws } from '../support/expect.ts';

const test = suite('Random');
const many = (n: number, draw: () => number) => Array.from({ length: n }, draw);
const mean = (a: number[]) => a.reduce((s, v) => s + v, 0) / a.length;

test('a seed gives the same numbers everywhere', () => {
  const r = new Random(42);
  assert.equal(many(4, () => r.u32()), [660444221, 3652823732, 77672526, 910233633]);
  assert.equal([r.uniform(), r.normal(), r.normal()], [0.5348906284683476, 1.6377429616879076, 0.5254597354577297]);
  assert.equal([r.integer(1000), r.integer(2 ** 40)], [567, 451498400670]);
});

test('nearby seeds, and seeds that differ above 32 bits, give other numbers', () => {
  const firsts = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1].map((seed) => new Random(seed).u32());
  assert.is(new Set(firsts).size, firsts.length);
});

/** Correlation of two lists of uniform numbers. */
function correlation(a: number[], b: number[]): number {
  const [ma, mb] = [mean(a), mean(b)];
  const product = (x: number[], mx: number, y: number[], my: number) => mean(x.map((v, i) => (v - mx) * (y[i] - my)));
  return product(a, ma, b, mb) / Math.sqrt(product(a, ma, a, ma) * product(b, mb, b, mb));
}

test('streams of neighbouring seeds and indices have nothing in common', () => {
  const draws = (seed: number, index: number) => {
    const random = Random.stream(seed, index);
    return many(4, () => random.uniform());
  };
  for (const [seed, index] of [[1, 0], [0, 1], [1, 1], [2 ** 21, 0], [2 ** 32, 0], [0, 2 ** 32], [1, -1]]) {
    const pairs = Array.from({ length: 1000 }, (_, i) => [draws(7, i), draws(7 + seed, i + index)]);
    for (let k = 0; k < 4; k++) {
      const r = correlation(pairs.map(([a]) => a[k]), pairs.map(([, b]) => b[k]));
      assert.ok(Math.abs(r) < 0.12, `draw ${k} of streams ${seed} and ${index} apart: correlation ${r}`);
    }
    const near = pairs.filter(([a, b]) => Math.abs(a[0] - b[0]) < 0.01).length;
    assert.ok(near < 50, `${near} of 1000 first draws are within 0.01`);
  }
});

test('no two streams are the same, nor a stream and a seed', () => {
  const near = (n: number) => [n - 1, n, n + 1];
  const numbers = [0, 5, 2 ** 21, 2 ** 31, 2 ** 32, 2 ** 42, 2 ** 53 - 2].flatMap(near);
  const all = [...numbers, ...numbers.map((n) => -n)].filter((n, i, list) => list.indexOf(n) === i);
  const states = all.flatMap((seed) => all.map((index) => Random.stream(seed, index).state().words.join()));
  for (const seed of numbers) if (seed >= 0) states.push(new Random(seed).state().words.join());
  assert.ok(states.length > 1500);
  assert.is(new Set(states).size, states.length);
});

test('the draws of a stream stay as they are', () => {
  const random = Random.stream(3, 2 ** 40 + 1);
  assert.equal(many(3, () => random.u32()), [1732294624, 823342553, 2563528105]);
});

test('goes on from a saved state, also between the two normal numbers of a pair', () => {
  const r = new Random(7);
  many(5, () => r.normal());
  const saved = JSON.parse(JSON.stringify(r.state()));
  const want = [...many(5, () => r.normal()), r.uniform(), ...r.shuffle([1, 2, 3, 4, 5, 6])];
  const other = new Random(0);
  other.restore(saved);
  assert.equal([...many(5, () => other.normal()), other.uniform(), ...other.shuffle([1, 2, 3, 4, 5, 6])], want);
});

test('uniform and normal have their moments', () => {
  const r = new Random(1);
  const u = many(20000, () => r.uniform(-2, 4));
  assert.ok(u.every((v) => v >= -2 && v < 4));
  assert.ok(Math.abs(mean(u) - 1) < 0.05);
  const z = many(20000, () => r.normal(3, 2));
  const m = mean(z);
  assert.ok(Math.abs(m - 3) < 0.06);
  assert.ok(Math.abs(mean(z.map((v) => (v - m) ** 2)) - 4) < 0.15);
  assert.ok(Math.abs(mean(z.map((v) => Number(Math.abs(v - 3) < 2))) - 0.6827) < 0.015);
  assert.ok(Math.abs(mean(z.map((v) => ((v - 3) / 2) ** 4)) - 3) < 0.25);
});

test('integer and shuffle are even', () => {
  const r = new Random(5);
  const counts = new Array(6).fill(0);
  for (let i = 0; i < 12000; i++) counts[r.integer(6)]++;
  assert.ok(counts.every((c) => Math.abs(c - 2000) < 180), String(counts));
  const firsts = new Array(4).fill(0);
  for (let i = 0; i < 8000; i++) firsts[r.shuffle([0, 1, 2, 3])[0]]++;
  assert.ok(firsts.every((c) => Math.abs(c - 2000) < 180), String(firsts));
  assert.equal([...r.shuffle(Array.from({ length: 50 }, (_, i) => i))].sort((a, b) => a - b), [...Array(50).keys()]);
});

test('refuses what is no seed and no bound', () => {
  for (const bad of [-1, 1.5, NaN, 2 ** 53]) throws(() => new Random(bad), ArgumentError);
  for (const bad of [1.5, NaN, 2 ** 53]) {
    throws(() => Random.stream(bad, 0), ArgumentError);
    throws(() => Random.stream(0, bad), ArgumentError);
  }
  for (const bad of [0, -3, 2.5]) throws(() => new Random(1).integer(bad), ArgumentError);
});

test.run();
