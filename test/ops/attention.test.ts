import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { type ElementDType, decoder, encoder, FLOATS } from '../../engine/dtype.ts';
import type { Backend } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import {
  attention,
  type AttentionOptions,
  attentionStep_,
  backwardFrom,
  cast,
  clone,
  rope,
  slice,
  sliceScatter_,
} from '../../ops/index.ts';
import { assertNear, checkGradients, evaluate, type Input, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu } from '../support/backends.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const wasm = await openBackend('wasm');
const double = new ReferenceBackend({ double: true });
const test = suite('attention');

const inFormat = (dtype: ElementDType) => (x: number) => decoder(dtype)(encoder(dtype)(x));

// Drivers on the CPU run rolled loops and take minutes to compile what GPUs run. This asks for that everywhere.
if (process.env.MATVLM_TILED) Object.assign((gpu as unknown as { caps: object }).caps, { software: false });

test.after(() => {
  closeBackend(gpu);
  closeBackend(reference);
  closeBackend(wasm);
});

const softmaxRow = (scores: number[]) => {
  const top = Math.max(...scores);
  const p = scores.map((s) => Math.exp(s - top));
  const sum = p.reduce((a, b) => a + b, 0);
  return p.map((x) => x / sum);
};

test('a single head by hand: softmax(q·k/√d) v over the visible keys', async () => {
  const [length, keys, dim] = [2, 3, 4];
  const [q, k, v] = [length, keys, keys].map((n, i) => random(n * dim, i + 1, 6));
  const dots = (i: number) =>
    [0, 1, 2].map((j) => [0, 1, 2, 3].reduce((s, d) => s + (q[i * dim + d] * k[j * dim + d]) / 2, 0));
  const want = [0, 1].flatMap((i) => {
    const p = softmaxRow(dots(i).map((s, j) => (j <= i + keys - length ? s : -1e30)));
    return [0, 1, 2, 3].map((d) => p.reduce((s, x, j) => s + x * v[j * dim + d], 0));
  });
  for (const backend of [reference, gpu]) {
    const t = (data: Float32Array, n: number) => fromData(backend, data, [1, 1, n, dim]);
    const got = await attention(t(q, length), t(k, keys), t(v, keys), { causal: true }).data();
    assertNear([got], [Float32Array.from(want)], backend.kind, 1e-5);
  }
});

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

/** [batch, heads, key heads, tokens, keys, head size] */
type Sizes = readonly [number, number, number, number, number, number];

interface Case {
  readonly name: string;
  readonly sizes: Sizes;
  readonly causal: boolean;
  readonly layout: 'bhld' | 'blhd';
  readonly masked?: boolean;
}

const cases: Case[] = [
  { name: 'short, more keys', sizes: [3, 2, 2, 16, 43, 8], causal: true, layout: 'blhd' },
  { name: 'grouped', sizes: [2, 6, 2, 21, 37, 8], causal: true, layout: 'bhld' },
  { name: 'masked', sizes: [2, 4, 2, 40, 40, 8], causal: true, layout: 'blhd', masked: true },
  { name: 'fewer keys than queries', sizes: [1, 1, 1, 9, 5, 8], causal: true, layout: 'bhld' },
  { name: 'larger heads, few rows', sizes: [2, 2, 1, 7, 37, 36], causal: true, layout: 'blhd' },
  { name: 'larger heads, masked', sizes: [2, 4, 2, 21, 40, 36], causal: true, layout: 'bhld', masked: true },
  { name: 'head size no multiple of 4', sizes: [2, 2, 1, 19, 19, 6], causal: false, layout: 'blhd' },
  { name: 'larger heads, no multiple of 4', sizes: [1, 2, 2, 19, 21, 35], causal: false, layout: 'blhd' },
];

function inputsOf({ sizes, layout, masked }: Omit<Case, 'name'>): Input[] {
  const [batch, heads, kv, length, keys, dim] = sizes;
  const order = (h: number, l: number) => (layout === 'bhld' ? [batch, h, l, dim] : [batch, l, h, dim]);
  const qkv: Input[] = [order(heads, length), order(kv, keys), order(kv, keys)].map((shape) => ({ shape }));
  if (!masked) return qkv;
  // The first sequences hide scattered keys; the last hides every key: its rows see nothing.
  const open = (i: number) => (i < (batch - 1) * keys && i % 3 !== 1 ? 1 : 0);
  return [...qkv, { shape: [batch, keys], data: Int32Array.from({ length: batch * keys }, (_, i) => open(i)) }];
}

for (const c of cases) {
  test(`WebGPU is the reference: ${c.name}`, async () => {
    const body = ([q, k, v, mask]: Tensor[]) => [attention(q, k, v, { causal: c.causal, layout: c.layout, mask })];
    const want = await evaluate(reference, inputsOf(c), body);
    assertNear(await evaluate(gpu, inputsOf(c), body), want, c.name, 1e-5);
  });
}

test('both layouts are the same attention', async () => {
  const [heads, length, dim] = [2, 5, 4];
  const x = random(heads * length * dim, 1);
  const y = new Float32Array(x.length);
  const each = (f: (a: number, b: number) => void) => {
    for (let i = 0; i < heads * length * dim; i++) {
      const [h, l, d] = [Math.floor(i / dim / length), Math.floor(i / dim) % length, i % dim];
      f((h * length + l) * dim + d, (l * heads + h) * dim + d);
    }
  };
  each((a, b) => (y[b] = x[a]));
  const first = fromData(reference, x, [1, heads, length, dim]);
  const second = fromData(reference, y, [1, length, heads, dim]);
  const a = await attention(first, first, first, { causal: true }).data();
  const b = await attention(second, second, second, { causal: true, layout: 'blhd' }).data();
  each((i, j) => assert.is(a[i], b[j]));
});

test('rows that see no key are 0 with gradients of 0', async () => {
  const c = { sizes: [1, 4, 2, 3, 3, 8], causal: false, layout: 'blhd', masked: true } as const;
  const body = ([q, k, v, mask]: Tensor[]) => [attention(q, k, v, { layout: c.layout, mask })];
  for (const backend of [reference, gpu]) {
    for (const values of await evaluate(backend, inputsOf(c), body)) assert.ok(values.every((x: number) => x === 0));
  }
});

test('NaN in q or k comes out, and only in the rows that see it', async () => {
  for (const backend of [reference, gpu, wasm]) {
    for (const poisoned of [0, 1]) {
      const data = [1, 2, 3].map((seed) => random(3 * 8, seed, 1));
      data[poisoned][8] = NaN; // token 1
      const [q, k, v] = data.map((d) => fromData(backend, d, [1, 1, 3, 8]));
      const out = await attention(q, k, v, { causal: true }).data();
      for (let i = 0; i < 3; i++) {
        const sees = poisoned === 0 ? i === 1 : i >= 1;
        assert.is(Number.isNaN(out[i * 8]), sees, `${backend.kind}, ${'qk'[poisoned]}, row ${i}: ${out[i * 8]}`);
      }
    }
  }
});

test('large logits stay finite', async () => {
  for (const backend of [reference, gpu]) {
    const big = fromData(backend, random(2 * 8, 1, 2e4), [1, 1, 2, 8]);
    const out = await attention(big, big, big, { scale: 1 }).data();
    assert.ok(out.every((x: number) => Number.isFinite(x)));
  }
});

interface How extends Omit<AttentionOptions, 'mask'> {
  readonly mask?: readonly number[];
}

/** o, dq, dk and dv of one head for dy of ones. */
async function single(backend: Backend, q: number[], k: number[], v: number[], dim: number, how: How = {}) {
  const tensors = [q, k, v].map((data) => fromData(backend, data, [1, 1, data.length / dim, dim]));
  for (const t of tensors) t.requiresGrad = true;
  const mask = how.mask && fromData(backend, how.mask, [1, how.mask.length], 'i32');
  const o = attention(tensors[0], tensors[1], tensors[2], { ...how, mask });
  backwardFrom([o], [fromData(backend, new Float32Array(o.size).fill(1), o.shape)]);
  const results = [o, ...tensors.map((t) => t.grad!)];
  const [y, dq, dk, dv] = await Promise.all(results.map(async (t) => [...(await t.data())]));
  return { o: y, dq, dk, dv };
}

test('scores of any size: alike are shared evenly, the only one counts', async () => {
  for (const backend of [reference, gpu, wasm]) {
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
  for (const backend of [reference, gpu, wasm]) {
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
  for (const backend of [reference, gpu, wasm]) {
    for (const v of [[1, Infinity], [Infinity, 1], [1, 2, -Infinity]]) {
      const { o } = await single(backend, [1], v.map(() => 1), v, 1);
      assert.equal(o, [v.find((x) => !Number.isFinite(x))!], `${backend.kind}: ${v}`);
    }
  }
});

test('a token that is not finite reaches no causal token before it, nor its gradients', async () => {
  const nan = [NaN, NaN, NaN];
  for (const backend of [reference, gpu, wasm]) {
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
  for (const poisoned of [0, 1, 2]) {
    const data = [1, 2, 3].map((seed) => Array.from(random(length * dim, seed)));
    data[poisoned][odd * dim + 1] = poisoned === 1 ? Infinity : NaN;
    const of = (backend: Backend) => single(backend, data[0], data[1], data[2], dim, { causal: true });
    const want = await of(reference);
    assert.ok(want.o.slice(0, odd * dim).every(Number.isFinite) && want.dq.slice(0, odd * dim).every(Number.isFinite));
    for (const backend of [gpu, wasm]) {
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
      for (const backend of [reference, gpu, wasm]) {
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
    for (const backend of [reference, gpu, wasm]) {
      const [q, k, v, keys, values] = data.map((x, i) =>
        fromData(backend, x, [2, i < 3 ? 1 : room, i === 0 ? heads : kv, dim]),
      );
      const [first, end] = [at, at + 1].map((n) => fromData(backend, [n], [1], 'i32'));
      const [wantK, wantV] = [keys, values].map((t) => clone(t));
      const options = { ...turn, start: first, layout: 'blhd' } as const;
      sliceScatter_([wantK, wantV], [rope(k, options), v], 1, first);
      const want = attention(rope(q, options), wantK, wantV, { causal: true, layout: 'blhd', keyCount: end });
      const o = attentionStep_({ q, k, v, keys, values, first, end }, turn);
      const got = [o, ...[keys, values].map((t) => slice(t, 1, 0, at + 1))];
      const wanted = [want, ...[wantK, wantV].map((t) => slice(t, 1, 0, at + 1))];
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
      const body = ([q, k, v]: Tensor[]) => [
        attention(q, k, v, { causal: true, layout: 'blhd', mask: fromData(q.backend, data, shape, dtype) }),
      ];
      const given = inputs.map((data, i) => ({ data, shape: sizes[i] }));
      const [, ...gradients] = await evaluate(reference, given, body);
      for (const backend of [reference, gpu, wasm]) {
        const label = `${backend.kind} ${dtype}`;
        assertNear(await evaluate(backend, given, body), [Float32Array.from(want.flat()), ...gradients], label, 1e-5);
      }
    }
  });
}

test('gradients under an added mask are the differences in f64', async () => {
  const mask = Float64Array.of(0, -1, 2, 1.5, -Infinity, 0);
  await checkGradients(double, [[1, 2, 2, 3], [1, 3, 1, 3], [1, 3, 1, 3]].map((shape) => ({ shape })), ([q, k, v]) => [
    attention(q, k, v, { layout: 'blhd', mask: fromData(double, mask, [1, 1, 2, 3]) }),
  ]);
});

test('shapes that do not fit are refused by name', () => {
  const t = (...shape: number[]) => fromData(reference, new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
  const refused = (run: () => void, text: RegExp) =>
    assert.throws(run, (e: Error) => e instanceof ShapeError && text.test(e.message));
  refused(() => attention(t(1, 3, 2, 4), t(1, 2, 2, 4), t(1, 2, 2, 4)), /k has shape \[1, 2, 2, 4\]/);
  refused(() => attention(t(1, 2, 2, 4), t(1, 2, 2, 4), t(1, 2, 3, 4)), /v has shape/);
  const [x, mask] = [t(1, 2, 2, 4), fromData(reference, [1], [1, 1], 'i32')];
  refused(() => attention(x, x, x, { mask }), /mask has shape \[1, 1\], expected \[1, 2\], or \[1, 2, 2, 2\] with 1/);
  refused(() => attention(x, x, x, { mask: t(1, 2, 2, 1) }), /mask/);
  refused(() => attention(x, x, x, { keyCount: fromData(reference, [1, 2], [2], 'i32') }), /keyCount has shape \[2\]/);
});

test.run();
