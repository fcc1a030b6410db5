import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import {
  add,
  backward,
  cast,
  crossEntropy,
  type CrossEntropyOptions,
  distillLoss,
  type DistillOptions,
  l2Distance,
} from '../../ops/index.ts';
import { assertNear, evaluate, type Input, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu, openWasms } from '../support/backends.ts';
import { close, gradients } from '../support/wasm-machine.ts';

const reference = await openBackend('reference');
const gpu = await openGpu();
const backends = [reference, gpu, ...(await openWasms())];
const test = suite('losses');

test.after(() => backends.forEach(closeBackend));

/** Labels below n, every fifth ignored. */
function labelsFor(rows: number, n: number): Int32Array {
  return Int32Array.from({ length: rows }, (_, i) => (i % 5 === 3 ? -100 : (i * 37) % n));
}

const kinds = ['kl', 'reverse', 'jsd', 'ce', 'l2'] as const;
const reductions = ['batchmean', 'mean', 'sum'] as const;
const options: DistillOptions[] = kinds.flatMap((kind) =>
  reductions.map((reduction) => ({ kind, reduction, temperature: 1.7 })),
);

/** torch's cross_entropy in f64, by its own formula: −log p of the label and the mean over all classes, each weighed. */
function torchCrossEntropy(labels: Int32Array, n: number, options: CrossEntropyOptions & { weights?: Float32Array }) {
  const { reduction = 'mean', labelSmoothing = 0, weights = new Float32Array(n).fill(1) } = options;
  return (x: number[]): number[] => {
    let total = 0;
    const rows = Array.from(labels, (label, r) => {
      const row = x.slice(r * n, r * n + n);
      const max = Math.max(...row);
      const lse = max + Math.log(row.reduce((sum, v) => sum + Math.exp(v - max), 0));
      if (label === -100) return 0;
      total += weights[label];
      const smooth = row.reduce((sum, v, c) => sum + weights[c] * (lse - v), 0);
      return (1 - labelSmoothing) * weights[label] * (lse - row[label]) + (labelSmoothing / n) * smooth;
    });
    if (reduction === 'none') return rows;
    const sum = rows.reduce((a, b) => a + b, 0);
    return [reduction === 'sum' ? sum : sum / total];
  };
}

/** Σ weights·KL(teacher ‖ student) / over, in f64, of logits divided by the temperature. */
function weightedKl(teacher: Float32Array, weights: readonly number[], temperature: number, over: number) {
  const n = teacher.length / weights.length;
  const logSoftmax = (x: ArrayLike<number>, r: number): number[] => {
    const row = Array.from({ length: n }, (_, c) => x[r * n + c] / temperature);
    const lse = Math.log(row.reduce((sum, v) => sum + Math.exp(v), 0));
    return row.map((v) => v - lse);
  };
  return (student: number[]): number[] => {
    const rows = weights.map((weight, r) => {
      const [p, q] = [logSoftmax(teacher, r), logSoftmax(student, r)];
      return weight * p.reduce((sum, log, c) => sum + Math.exp(log) * (log - q[c]), 0);
    });
    return [(temperature ** 2 / over) * rows.reduce((a, b) => a + b, 0)];
  };
}

test('KL with weights of rows and its gradient are what the formula gives in f64', async () => {
  for (const [rows, n] of [[1, 1], [3, 5], [4, 16], [5, 23]]) {
    const weights = Array.from({ length: rows }, (_, r) => (rows === 1 ? 2 : r % 3));
    const [s, t] = [random(rows * n, 1, 8), random(rows * n, 2, 8)];
    const f = weightedKl(t, weights, 2, weights.reduce((a, b) => a + b, 0));
    const want = [f(Array.from(s)), gradients(f, [s], random(1, 101))[0]].map((v) => Float64Array.from(v));
    const inputs = [s, t].map((data) => ({ shape: [rows, n], data }));
    for (const backend of backends) {
      const got = await evaluate(backend, inputs, ([x, y]) => [
        distillLoss(x, y.detach(), { kind: 'kl', temperature: 2, reduction: 'mean' }, fromData(backend, weights, [rows])),
      ]);
      got.slice(0, 2).forEach((values, i) => close(`${backend.description} ${rows}×${n}`, values, want[i], 2e-5, 3e-6));
    }
  }
});

const targets: [rows: number, n: number, options: CrossEntropyOptions, weighted: boolean][] = [
  [1, 1, {}, false],
  [210, 12, {}, false],
  [3, 701, {}, false],
  [9, 33, {}, true],
  [9, 33, { labelSmoothing: 1 }, false],
  [210, 12, { labelSmoothing: 0.3 }, true],
  [3, 701, { labelSmoothing: 0.3 }, true],
  [9, 33, { reduction: 'sum' }, false],
  [9, 33, { reduction: 'sum', labelSmoothing: 0.3 }, true],
  [9, 33, { reduction: 'none' }, false],
  [9, 33, { reduction: 'none', labelSmoothing: 0.3 }, true],
];

for (const [rows, n, options, weighted] of targets) {
  const what = `${rows}×${n} ${JSON.stringify(options)}${weighted ? ', classes weighed' : ''}`;
  test(`cross-entropy and its gradient are torch's: ${what}`, async () => {
    const weights = weighted ? random(n, 9, 2, 1.1) : undefined;
    const [data, labels] = [random(rows * n, 3, 20), labelsFor(rows, n)];
    const f = torchCrossEntropy(labels, n, { ...options, weights });
    const want = [f(Array.from(data))].map((v) => Float64Array.from(v));
    want.push(Float64Array.from(gradients(f, [data], random(want[0].length, 101))[0]));
    for (const backend of backends) {
      const got = await evaluate(backend, [{ shape: [rows, n], data }, { shape: [rows], data: labels }], ([x, t]) => [
        crossEntropy(x, t, { ...options, weight: weights && fromData(backend, weights, [n]) }),
      ]);
      assertNear(got, want, `${backend.kind} ${what}`, 2e-5);
    }
  });
}

test('losses of 16-bit logits are those of the same numbers in f32, their gradients in 16 bits', async () => {
  const labels = labelsFor(9, 33);
  for (const backend of backends) {
    for (const [dtype, most] of [['f16', 1e-3], ['bf16', 8e-3]] as const) {
      const [x, t] = [1, 2].map((seed) => cast(fromData(backend, random(9 * 33, seed, 8), [9, 33]), dtype));
      const both = [x, cast(x, 'f32')];
      const losses = both.map((logits) => {
        logits.requiresGrad = true;
        const weight = cast(fromData(backend, random(33, 5, 1, 1), [33]), logits.dtype);
        const ce = crossEntropy(logits, fromData(backend, labels, [9], 'i32'), { weight, labelSmoothing: 0.1 });
        const kl = distillLoss(logits, cast(t, logits.dtype), { kind: 'kl', temperature: 2, reduction: 'mean' });
        const loss = add(ce, kl);
        backward(loss);
        return loss;
      });
      assert.equal([losses[0].dtype, x.grad!.dtype], ['f32', dtype]);
      // The weights were rounded.
      assertNear([await losses[0].data()], [await losses[1].data()], `${backend.kind} ${dtype}`, most);
      assertNear([await cast(x.grad!, 'f32').data()], [await both[1].grad!.data()], `${backend.kind} ${dtype}`, most);
    }
  }
});

test('cross-entropy holds at extremes', async () => {
  const data = Float32Array.of(1e4, -1e4, 0, -Infinity, 0, 3);
  for (const backend of backends) {
    const inputs = [{ shape: [2, 3], data }, { shape: [2], data: Int32Array.of(0, 2) }];
    const [loss, grad] = await evaluate(backend, inputs, ([x, t]) => [crossEntropy(x, t)]);
    assert.ok(Math.abs(loss[0] - Math.log1p(Math.exp(-3)) / 2) < 1e-6, `${backend.kind}: ${loss[0]}`);
    assert.ok(grad.every(Number.isFinite), `${backend.kind}: ${grad}`);
  }
});

/** f32 of every magnitude, to the largest but for one power of two. */
const MAGNITUDES = [0, 1, -1, 1e4, -1e4, 1e6, 1e8, -1e8, 1e30, -1e30, 3e38, -3e38].map(Math.fround);

/** The two columns [a, b] at each magnitude. */
function atMagnitudes(pair: (s: number) => [number, number]): Input {
  return { shape: [MAGNITUDES.length, 2], data: Float32Array.from(MAGNITUDES.flatMap(pair)) };
}

function assertEach(got: ArrayLike<number>, want: readonly number[], label: string): void {
  Array.from(got).forEach((v, i) => {
    const w = want[i % want.length];
    const at = MAGNITUDES[Math.floor((i * MAGNITUDES.length) / got.length)];
    assert.ok(Object.is(v, w) || Math.abs(v - w) <= 2e-6 * Math.abs(w), `${label}, at ${at}: ${v}, expected ${w}`);
  });
}

test('cross-entropy of two equal logits is ln 2, its gradient ∓½, at every magnitude', async () => {
  const rows = MAGNITUDES.length;
  const inputs = [atMagnitudes((s) => [s, s]), { shape: [rows], data: new Int32Array(rows) }];
  for (const backend of backends) {
    const [loss, grad] = await evaluate(backend, inputs, ([x, t]) => [crossEntropy(x, t)]);
    const dy = random(1, 101)[0] / rows;
    assertEach(loss, [Math.LN2], backend.kind);
    assertEach(grad, [-dy / 2, dy / 2], backend.kind);
  }
});

test('KL and the other divergences do not depend on what both logits have added, at every magnitude', async () => {
  const flat = atMagnitudes((s) => [s, s]);
  // The teacher's logits ln 3 apart, which only small magnitudes can hold; beyond, one of two alike.
  const small = { shape: [2, 2], data: Float32Array.of(0, 0, 1, 1) };
  const tilted = { shape: [2, 2], data: Float32Array.of(0, 3 * Math.log(3), 1, 1 + 3 * Math.log(3)) };
  for (const backend of backends) {
    for (const kind of ['kl', 'reverse', 'jsd', 'ce'] as const) {
      for (const temperature of [0.5, 3]) {
        const body = ([s, t]: Tensor[]) => [distillLoss(s, t.detach(), { kind, temperature, reduction: 'sum' })];
        const label = `${backend.kind} ${kind} at ${temperature}`;
        const [loss, grad] = await evaluate(backend, [flat, flat], body);
        const ce = kind === 'ce';
        assertEach(loss, [ce ? MAGNITUDES.length * Math.LN2 : 0], label);
        const dy = random(1, 101)[0];
        assertEach(grad, ce ? [-dy / 2, dy / 2] : [0, 0], label);
      }
    }
    // KL of (¼, ¾) from (½, ½) at temperature 3, by hand.
    const body = ([s, t]: Tensor[]) => [distillLoss(s, t.detach(), { kind: 'kl', temperature: 3, reduction: 'sum' })];
    const [loss, grad] = await evaluate(backend, [small, tilted], body);
    const kl = Math.LN2 + 0.25 * Math.log(0.25) + 0.75 * Math.log(0.75);
    const dy = random(1, 101)[0];
    assert.ok(Math.abs(loss[0] - 2 * 9 * kl) < 1e-5, `${backend.kind}: ${loss[0]}`);
    assertNear([grad], [Float32Array.of(1, -1, 1, -1).map((v) => v * 3 * 0.25 * dy)], backend.kind, 1e-5);
  }
});

test('KL where the teacher is sure is ln 2, at every magnitude', async () => {
  const inputs = [atMagnitudes((s) => [s, s]), atMagnitudes((s) => [Math.abs(s) + 3e7, -1e9])];
  for (const backend of backends) {
    const body = ([s, t]: Tensor[]) => [distillLoss(s, t.detach(), { kind: 'kl', temperature: 2, reduction: 'mean' })];
    const [loss, grad] = await evaluate(backend, inputs, body);
    const dy = random(1, 101)[0] / MAGNITUDES.length;
    assertEach(loss, [4 * Math.LN2], backend.kind);
    assertEach(grad, [-dy, dy], backend.kind);
  }
});

test('l2 is right where squares are beyond f32', async () => {
  for (const backend of backends) {
    for (const s of [1e-30, 1e-3, 1e25, 1e34].map(Math.fround)) {
      for (const [weights, root] of [[[1, 1], Math.SQRT2], [[1, 0.25], Math.sqrt(1.25)], [[0, 1], 1]] as const) {
        const inputs = [{ shape: [2, 3], data: Float32Array.of(s, 0, 0, 0, -s, 0) }];
        const [loss, grad] = await evaluate(backend, inputs, ([x]) => {
          const [zero, w] = [fromData(backend, new Float32Array(6), [2, 3]), fromData(backend, weights, [2])];
          return [distillLoss(x, zero, { kind: 'l2', temperature: 1, reduction: 'sum' }, w)];
        });
        const dy = random(1, 101)[0] / root;
        assertNear([loss.map((v: number) => v / s)], [[root]].map((v) => Float32Array.from(v)), `${backend.kind} ${s}`, 1e-6);
        const slopes = Float32Array.of(weights[0] * dy, 0, 0, 0, -weights[1] * dy, 0);
        assertNear([grad], [slopes], `${backend.kind} ${s} [${weights}]`, 1e-6);
      }
    }
  }
});

test('losses of infinite and NaN logits are those of torch', async () => {
  const logits = [[-Infinity, -Infinity], [Infinity, 0], [0, Infinity], [NaN, 0], [-Infinity, 0], [3e38, -3e38]];
  const want = [[NaN, NaN, NaN], [NaN, NaN, NaN], [NaN, NaN, NaN], [NaN, NaN, NaN], [Infinity, -1, 1], [0, 0, 0]];
  for (const backend of backends) {
    for (const [i, row] of logits.entries()) {
      const x = fromData(backend, row, [1, 2]);
      x.requiresGrad = true;
      const loss = crossEntropy(x, fromData(backend, [0], [1], 'i32'));
      backward(loss);
      const got = [...(await loss.data()), ...(await x.grad!.data())].map((v) => v + 0);
      assert.equal(got, want[i], `${backend.kind}: [${row}]`);
    }
  }
});

test('losses over no rows, and no losses over no classes', async () => {
  const option = { kind: 'kl', temperature: 2 } as const;
  for (const backend of backends) {
    const t = (...shape: number[]) => fromData(backend, new Float32Array(elements(shape)), shape);
    const labels = (...shape: number[]) => fromData(backend, new Int32Array(elements(shape)), shape, 'i32');
    const none = t(0, 5);
    none.requiresGrad = true;
    const loss = add(crossEntropy(none, labels(0)), distillLoss(none, t(0, 5), { ...option, reduction: 'mean' }));
    backward(loss);
    assert.equal([[...(await loss.data())], none.grad!.shape], [[0], [0, 5]], backend.kind);
    const perBatch = distillLoss(none.detach(), t(0, 5), { ...option, reduction: 'batchmean' });
    assert.ok(Number.isNaN((await perBatch.data())[0]), `${backend.kind}: 0/0, as in torch`);
    const text = /\[2, 0\], expected .* at least one class/;
    const refused = (run: () => void) =>
      assert.throws(run, (e: Error) => e instanceof ShapeError && text.test(e.message));
    refused(() => crossEntropy(t(2, 0), labels(2)));
    for (const kind of kinds) refused(() => distillLoss(t(2, 0), t(2, 0), { ...option, kind, reduction: 'mean' }));
  }
});

test('cross-entropy is 0 where no label counts, and NaN for a label out of range', async () => {
  for (const backend of backends) {
    const of = (...labels: number[]) =>
      evaluate(backend, [{ shape: [2, 3] }, { shape: [2], data: Int32Array.from(labels) }], ([x, t]) => [
        crossEntropy(x, t, { ignoreIndex: 7 }),
      ]);
    assert.equal((await of(7, 7)).map((a) => [...a]), [[0], [0, 0, 0, 0, 0, 0]], backend.kind);
    assert.ok(Number.isNaN((await of(7, 3))[0][0]), backend.kind);
    assert.ok(Number.isNaN((await of(-1, 0))[0][0]), backend.kind);
  }
});

for (const option of options) {
  test(`distillation leaves out rows of weight 0: ${option.kind}, ${option.reduction}`, async () => {
    const [s, t] = [random(4 * 9, 1, 8), random(4 * 9, 2, 8)];
    s.fill(NaN, 9, 18);
    const run = async (backend: typeof gpu, rows: number[], weights: number[]) => {
      const pick = (x: Float32Array) => ({
        shape: [rows.length, 9],
        data: Float32Array.from(rows.flatMap((r) => [...x.subarray(r * 9, r * 9 + 9)])),
      });
      const w = { shape: [rows.length], data: Float32Array.from(weights) };
      const fixed = { ...option, reduction: option.reduction === 'batchmean' ? 'sum' : option.reduction } as const;
      return evaluate(backend, [pick(s), pick(t), w], ([x, y, z]) => [distillLoss(x, y.detach(), fixed, z.detach())]);
    };
    for (const backend of backends) {
      const [all, allGrad] = await run(backend, [0, 1, 2, 3], [1, 0, 0.5, 2]);
      const [some, someGrad] = await run(reference, [0, 2, 3], [1, 0.5, 2]);
      assertNear([all, allGrad.subarray(18)], [some, someGrad.subarray(9)], backend.kind, 2e-5);
      assert.ok(allGrad.subarray(9, 18).every((v) => v === 0), `${backend.kind}: gradient of a row of weight 0`);
    }
  });
}

test('distillation of a student that is its teacher: loss and gradient 0, gradients close by are right', async () => {
  const same = random(50, 4, 10);
  const near = same.map((v, i) => v + (i % 2 ? 1e-3 : -1e-3));
  for (const kind of ['kl', 'reverse', 'jsd', 'l2'] as const) {
    const body = ([s, t]: Tensor[]) => [distillLoss(s, t.detach(), { kind, temperature: 1, reduction: 'sum' })];
    const twins = [same, same].map((data) => ({ shape: [2, 25], data }));
    const [loss, grad] = await evaluate(gpu, twins, body);
    assert.ok(Math.abs(loss[0]) < 1e-6 && grad.every((v) => Math.abs(v) < 1e-6), `${kind}: ${loss} ${grad}`);
    const pair = [near, same].map((data) => ({ shape: [2, 25], data }));
    const got = await evaluate(gpu, pair, body);
    const want = await evaluate(reference, pair, body);
    assertNear([got[1]], [want[1]], kind, 5e-3);
  }
});

test('distillation holds at extremes', async () => {
  const s = Float32Array.of(-Infinity, 0, 1e4, 300, -300, 0);
  const t = Float32Array.of(-Infinity, 1, 1e4, -300, 300, 0);
  for (const kind of ['kl', 'ce'] as const) {
    const inputs = [s, t].map((data) => ({ shape: [2, 3], data }));
    const body = ([x, y]: Tensor[]) => [distillLoss(x, y.detach(), { kind, temperature: 1, reduction: 'sum' })];
    for (const backend of backends) {
      const [loss, grad] = await evaluate(backend, inputs, body);
      assert.ok(Math.abs(loss[0] - 600) < 1e-3, `${backend.kind} ${kind}: ${loss[0]}`);
      assert.ok(grad.every(Number.isFinite), `${backend.kind} ${kind}: ${grad}`);
    }
  }
});

test('a loss has the same bits twice', async () => {
  const inputs = [1, 2].map((seed) => ({ shape: [700, 70], data: random(49000, seed, 9) }));
  const body = ([s, t]: Tensor[]) => [
    distillLoss(s, t.detach(), { kind: 'kl', temperature: 2, reduction: 'mean' }),
    l2Distance(s, t),
  ];
  assert.equal(await evaluate(gpu, inputs, body), await evaluate(gpu, inputs, body));
});

test('the gradient of l2Distance at 0 is 0', async () => {
  const data = random(5, 1);
  for (const backend of backends) {
    const twins = [data, data].map((d) => ({ shape: [5], data: d }));
    const [y, da, db] = await evaluate(backend, twins, ([a, b]) => [l2Distance(a, b)]);
    assert.ok([...y, ...da, ...db].every((v) => v === 0), backend.kind);
  }
});

test.run();
