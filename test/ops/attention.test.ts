import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { type ElementDType, decoder, encoder, FLOATS } from '../../engine/dtype.ts';
import type { Backend } from '../../engine/backend.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import type { Run } from '../cases/case.ts';
import { assertNear, checkDifferences, evaluate, random } from '../support/agree.ts';
import { Inputs } from '../support/inputs.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { attention, cast, permute } = ops;
const { test, backends, reference, others } = await suiteOnBackends('attention');

const inFormat = (dtype: ElementDType) => (x: number) => decoder(dtype)(encoder(dtype)(x));

const softmaxRow = (scores: number[]) => {
  const top = Math.max(...scores);
  const p = scores.map((s) => Math.exp(s - top));
  const sum = p.reduce((a, b) => a + b, 0);
  return p.map((x) => x / sum);
};

/**
 * o of q (L, H, D) on k and v (S, KV, D) in f64: causal and aligned to the end, `added` to the scores; 0 for what sees
 * no key.
 */
function byHand(
  [q, k, v]: readonly ArrayLike<number>[],
  [L, H, KV, D]: readonly number[],
  added: (h: number, i: number, j: number) => number = () => 0,
): number[] {
  const keys = k.length / (KV * D);
  return Array.from({ length: L * H }, (_, row) => {
    const [i, h] = [Math.floor(row / H), row % H];
    const at = (j: number) => (j * KV + Math.floor(h / (H / KV))) * D;
    const dot = (j: number) => Array.from({ length: D }, (_, d) => q[row * D + d] * k[at(j) + d]).reduce((a, b) => a + b);
    const scores = Array.from({ length: Math.max(0, i + 1 + keys - L) }, (_, j) => dot(j) / Math.sqrt(D) + added(h, i, j));
    const p = softmaxRow(scores).map((x) => (Number.isNaN(x) ? 0 : x));
    return Array.from({ length: D }, (_, d) => p.reduce((sum, x, j) => sum + x * v[at(j) + d], 0));
  }).flat();
}

test('a single head is softmax(q·k/√d) v over the visible keys', async () => {
  const [length, keys, dim] = [2, 3, 4];
  const data = [length, keys, keys].map((n, i) => random(n * dim, i + 1, 6));
  for (const backend of backends) {
    const [q, k, v] = data.map((x) => fromData(backend, x, [1, 1, x.length / dim, dim]));
    const got = await attention(q, k, v, { causal: true }).data();
    assertNear([got], [Float32Array.from(byHand(data, [length, 1, 1, dim]))], backend.kind, 1e-5);
  }
});

test('both layouts are the same attention', async () => {
  const swap = (t: Tensor) => permute(t, [0, 2, 1, 3]);
  for (const backend of backends) {
    const x = fromData(backend, random(2 * 5 * 4, 1), [1, 2, 5, 4]);
    const y = attention(swap(x), swap(x), swap(x), { causal: true, layout: 'blhd' });
    assert.equal(await swap(y).data(), await attention(x, x, x, { causal: true }).data(), backend.kind);
  }
});

test('rows that see no key are 0 with gradients of 0', async () => {
  const run: Run = (t) => {
    const mask = t.values([0, 0, 0], [1, 3], 'i32');
    return attention(t(1, 3, 4, 8), t(1, 3, 2, 8), t(1, 3, 2, 8), { layout: 'blhd', mask });
  };
  for (const backend of backends) {
    for (const values of await evaluate(backend, run)) assert.ok(values.every((x: number) => x === 0));
  }
});

test('large logits stay finite', async () => {
  for (const backend of backends) {
    const big = fromData(backend, random(2 * 8, 1, 2e4), [1, 1, 2, 8]);
    const out = await attention(big, big, big, { scale: 1 }).data();
    assert.ok(out.every((x: number) => Number.isFinite(x)));
  }
});

interface How extends Omit<ops.AttentionOptions, 'mask'> {
  readonly mask?: readonly number[];
}

/** o, dq, dk and dv of one head for dy of ones. */
async function single(backend: Backend, q: number[], k: number[], v: number[], dim: number, how: How = {}) {
  const tensors = [q, k, v].map((data) => fromData(backend, data, [1, 1, data.length / dim, dim]));
  for (const t of tensors) t.requiresGrad = true;
  const mask = how.mask && fromData(backend, how.mask, [1, how.mask.length], 'i32');
  const o = attention(tensors[0], tensors[1], tensors[2], { ...how, mask });
  ops.backwardFrom([o], [fromData(backend, new Float32Array(o.size).fill(1), o.shape)]);
  const results = [o, ...tensors.map((t) => t.grad!)];
  const [y, dq, dk, dv] = await Promise.all(results.map(async (t) => [...(await t.data())]));
  return { o: y, dq, dk, dv };
}

test('scores of any size: alike are shared evenly, the only one counts', async () => {
  for (const backend of backends) {
    const dim = 80;
    const all = (value: number) => new Array<number>(dim).fill(value);
    const even = await single(backend, all(300), [...all(300), ...all(300)], [...all(1), ...all(3)], dim);
    assert.equal(even.o, all(2), backend.kind);
    assert.equal(even.dv, new Array(2 * dim).fill(0.5), backend.kind);
    for (const [i, slope] of even.dk.entries()) {
      const want = ((i < dim ? -1 : 1) * 0.5 * dim * 300) / Math.sqrt(dim);
      assert.ok(Math.abs(slope - want) < 1e-2, `${backend.kind}: dk[${i}] is ${slope}, expected ${want}`);
    }
    for (const score of [-3.4e38, -3e38, -1e30, 3e38]) {
      const only = await single(backend, [score], [1], [7], 1);
      assert.equal(only, { o: [7], dq: [0], dk: [0], dv: [1] }, `${backend.kind}: ${score}`);
    }
    // As torch's safe softmax has it, a row of −∞ alone is one that sees no key.
    const none = await single(backend, [-3e38], [10], [7], 1);
    assert.equal(none, { o: [0], dq: [0], dk: [0], dv: [0] }, backend.kind);
    const over = await single(backend, [3e38], [10, 1], [7, 8], 1);
    assert.equal(over, { o: [NaN], dq: [NaN], dk: [NaN, NaN], dv: [NaN, NaN] }, backend.kind);
  }
});

test('masked keys that are not finite: what torch makes of masked_fill with −∞', async () => {
  const mask = [1, 0];
  for (const backend of backends) {
    for (const odd of [NaN, Infinity]) {
      const v = await single(backend, [1], [1, 2], [1, odd], 1, { mask });
      assert.equal(v, { o: [NaN], dq: [NaN], dk: [NaN, 0], dv: [1, 0] }, `${backend.kind}: v ${odd}`);
      const k = await single(backend, [1], [1, odd], [1, 2], 1, { mask });
      assert.equal(k, { o: [1], dq: [NaN], dk: [0, 0], dv: [1, 0] }, `${backend.kind}: k ${odd}`);
    }
    const q = await single(backend, [NaN], [1, 3], [1, 2], 1, { mask });
    assert.equal(q, { o: [NaN], dq: [NaN], dk: [NaN, NaN], dv: [NaN, NaN] }, `${backend.kind}: q`);
  }
});

test('an infinite value comes out infinite', async () => {
  for (const backend of backends) {
    for (const v of [[1, Infinity], [Infinity, 1], [1, 2, -Infinity]]) {
      const { o } = await single(backend, [1], v.map(() => 1), v, 1);
      assert.equal(o, [v.find((x) => !Number.isFinite(x))!], `${backend.kind}: ${v}`);
    }
  }
});

test('a token that is not finite reaches no causal token before it, nor its gradients', async () => {
  const nan = [NaN, NaN, NaN];
  for (const backend of backends) {
    const of = (q: number[], k: number[], v: number[]) => single(backend, q, k, v, 1, { causal: true });
    for (const odd of [NaN, Infinity]) {
      const { o, dq } = await of([1, 1, 1], [1, 2, odd], [1, 2, 3]);
      const clean = await of([1, 1, 1], [1, 2, 3], [1, 2, 3]);
      const want = [...clean.o.slice(0, 2), NaN, ...clean.dq.slice(0, 2), NaN];
      assert.equal([...o, ...dq], want, `${backend.kind}: k ${odd}`);
    }
    const v = await of([1, 1, 1], [1, 2, 3], [1, 2, NaN]);
    assert.ok(v.o.slice(0, 2).every(Number.isFinite) && v.dq.slice(0, 2).every(Number.isFinite), backend.kind);
    assert.equal([v.o[2], v.dq[2], ...v.dk], [NaN, NaN, ...nan], backend.kind);
    // The first token is seen by all; the last key is seen by the last token alone.
    const q = await of([NaN, 1, 1], [1, 2, 3], [1, 2, 3]);
    assert.equal([Number.isNaN(q.dk[0]), ...q.dk.slice(1).map(Number.isFinite)], [true, true, true], backend.kind);
  }
});

test('values and gradients of many causal tokens, one of them not finite, are those of the reference', async () => {
  const [length, dim, odd] = [20, 4, 15];
  for (const [poisoned, value] of [[0, NaN], [1, NaN], [1, Infinity], [2, NaN]]) {
    const data = [1, 2, 3].map((seed) => Array.from(random(length * dim, seed)));
    data[poisoned][odd * dim + 1] = value;
    const of = (backend: Backend) => single(backend, data[0], data[1], data[2], dim, { causal: true });
    const want = await of(reference);
    for (let i = 0; i < length; i++) {
      const sees = poisoned === 0 ? i === odd : i >= odd;
      if (sees && value === Infinity) continue;
      assert.is(want.o.slice(i * dim, (i + 1) * dim).every(Number.isFinite), !sees, `${'qkv'[poisoned]}, row ${i}`);
    }
    assert.ok(want.dq.slice(0, odd * dim).every(Number.isFinite));
    for (const backend of others) {
      for (const [name, values] of Object.entries(await of(backend))) {
        values.forEach((v, i) => {
          const w = want[name as keyof typeof want][i];
          const near = Number.isNaN(w) ? Number.isNaN(v) : Math.abs(v - w) < 1e-5;
          assert.ok(near, `${backend.kind}, ${'qkv'[poisoned]}: ${name}[${i}] is ${v}, expected ${w}`);
        });
      }
    }
  }
});

/** Rows of a cache with room, the rest poisoned: counts of keys, tokens of q, capacity; query heads, key heads, size. */
const CACHES: readonly (readonly [counts: readonly number[], length: number, room: number, sizes: readonly number[]])[] = [
  [[1, 70], 1, 70, [4, 2, 8]],
  [[33], 1, 70, [4, 2, 8]],
  [[5, 2, 64], 4, 70, [4, 2, 8]],
  [[20, 40], 17, 50, [2, 2, 12]],
  [[300, 1, 700, 0, 513], 1, 700, [4, 2, 20]],
  [[400, 500], 3, 600, [2, 1, 6]],
];

for (const [counts, length, room, [heads, kv, dim]] of CACHES) {
  test(`decoding ${length} on a cache with ${counts} of ${room} keys is attention over those alone`, async () => {
    const batch = Math.max(2, counts.length);
    const of = (b: number) => counts[Math.min(b, counts.length - 1)];
    const each = [length * heads * dim, room * kv * dim, room * kv * dim];
    for (const dtype of FLOATS) {
      const stored = each.map((n, i) => Array.from(random(batch * n, i + 1, 4), inFormat(dtype)));
      const rows = (b: number) => stored.map((x, i) => x.slice(b * each[i], b * each[i] + (i ? of(b) * kv * dim : each[0])));
      const want = Array.from({ length: batch }, (_, b) => byHand(rows(b), [length, heads, kv, dim])).flat();
      for (let b = 0; b < batch; b++) {
        for (const x of stored.slice(1)) x.fill(NaN, (b * room + of(b)) * kv * dim, (b + 1) * room * kv * dim);
      }
      for (const backend of backends) {
        const [q, k, v] = stored.map((data, i) =>
          fromData(backend, data, [batch, i ? room : length, i ? kv : heads, dim], dtype),
        );
        const keyCount = fromData(backend, [...counts], [counts.length], 'i32');
        const o = attention(q, k, v, { causal: true, layout: 'blhd', keyCount });
        assert.is(o.dtype, dtype);
        const most = { f32: 1e-6, f16: 4e-4, bf16: 4e-3 }[dtype];
        assertNear([await cast(o, 'f32').data()], [Float32Array.from(want)], `${backend.kind} ${dtype}`, most);
      }
    }
  });
}

/** Position, capacity; query heads, key heads, size, of which so many turn. */
const STEPS: readonly (readonly [at: number, room: number, sizes: readonly number[]])[] = [
  [0, 5, [4, 2, 8, 4]],
  [69, 70, [4, 4, 10, 6]],
  [600, 1100, [2, 1, 80, 32]],
];

for (const [at, room, [heads, kv, dim, rotaryDim]] of STEPS) {
  test(`a step at ${at} of ${room} positions turns, appends and attends as rope, slice_scatter and attention do`, async () => {
    const turn = { rotaryDim, theta: 500 };
    const data = [heads, kv, kv, room * kv, room * kv].map((n, i) => random(2 * n * dim, i + 1, 4));
    for (const x of data.slice(3)) for (const b of [0, 1]) x.fill(NaN, (b * room + at) * kv * dim, (b + 1) * room * kv * dim);
    for (const backend of backends) {
      const [q, k, v, keys, values] = data.map((x, i) =>
        fromData(backend, x, [2, i < 3 ? 1 : room, i === 0 ? heads : kv, dim]),
      );
      const [first, end] = [at, at + 1].map((n) => fromData(backend, [n], [1], 'i32'));
      const [wantK, wantV] = [keys, values].map((t) => ops.clone(t));
      const options = { ...turn, start: first, layout: 'blhd' } as const;
      ops.sliceScatter_(wantK, ops.rope(k, options), 1, first);
      ops.sliceScatter_(wantV, v, 1, first);
      const want = attention(ops.rope(q, options), wantK, wantV, { causal: true, layout: 'blhd', keyCount: end });
      const o = ops.attentionStep_({ q, k, v, keys, values, first, end }, turn);
      const got = [o, ...[keys, values].map((t) => ops.slice(t, 1, 0, at + 1))];
      const wanted = [want, ...[wantK, wantV].map((t) => ops.slice(t, 1, 0, at + 1))];
      const read = (all: Tensor[]) => Promise.all(all.map((t) => t.data()));
      assertNear(await read(got), await read(wanted), backend.kind, 2e-6);
    }
  });
}

const MASKS: readonly (readonly number[])[] = [[2, 4, 5, 9], [1, 4, 5, 9], [2, 1, 5, 9], [1, 1, 5, 9], [2, 4, 1, 9], [1, 1, 1, 9], [2, 9]];

for (const shape of MASKS) {
  test(`a mask [${shape}] hides keys, or is added to the scores`, async () => {
    const [batch, heads, kv, length, keys, dim] = [2, 4, 2, 5, 9, 6];
    const sizes = [[batch, length, heads, dim], [batch, keys, kv, dim], [batch, keys, kv, dim]];
    const inputs = sizes.map((s, i) => random(s.reduce((a, b) => a * b), i + 1, 4));
    const noise = random(shape.reduce((a, b) => a * b), 4, 6);
    // One in three keys is hidden, and for one row of the mask all are.
    const hidden = noise.map((x, i) => (i < keys || x < -1 ? 1 : 0));
    const [B, H, L] = shape.length === 4 ? shape : [batch, 1, 1];
    const place = (b: number, h: number, i: number, j: number) =>
      (((b % B) * H + (h % H)) * L + (i % L)) * keys + j;
    for (const [dtype, data] of [
      ['bool', hidden.map((x) => 1 - x)],
      ['f32', noise.map((x, i) => (hidden[i] ? -Infinity : x))],
      ['f32', noise.map((x, i) => (i < keys ? -3.4e38 : x))],
    ] as const) {
      const want = Array.from({ length: batch }, (_, b) => {
        const rows = inputs.map((x) => x.subarray((b * x.length) / batch, ((b + 1) * x.length) / batch));
        return byHand(rows, [length, heads, kv, dim], (h, i, j) => {
          const at = data[place(b, h, i, j)];
          return dtype === 'f32' ? at : at ? 0 : -Infinity;
        });
      });
      const run: Run = (t) => {
        const [q, k, v] = inputs.map((data, i) => t.leaf(data, sizes[i]));
        return attention(q, k, v, { causal: true, layout: 'blhd', mask: t.values(data, shape, dtype) });
      };
      const [, ...gradients] = await evaluate(reference, run);
      for (const backend of backends) {
        const label = `${backend.kind} ${dtype}`;
        assertNear(await evaluate(backend, run), [Float32Array.from(want.flat()), ...gradients], label, 1e-5);
      }
    }
  });
}

test('gradients under an added mask are the differences in f64', async () => {
  const run: Run = (t) => {
    const mask = t.values([0, -1, 2, 1.5, -Infinity, 0], [1, 1, 2, 3]);
    return attention(t(1, 2, 2, 3), t(1, 3, 1, 3), t(1, 3, 1, 3), { layout: 'blhd', mask });
  };
  await checkDifferences(new Inputs(new ReferenceBackend({ double: true })), run, {});
});

test.run();
