import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { ShapeError } from '../../engine/errors.ts';
import { fromData } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import type { Run } from '../cases/case.ts';
import { assertNear, checkDifferences, evaluate, random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { Inputs } from '../support/inputs.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { add, backward, cast, crossEntropy, distillLoss, l2Distance } = ops;
const { test, backends, reference, gpu } = await suiteOnBackends('losses');

/** Labels below n, every fifth ignored. */
function labelsFor(rows: number, n: number): Int32Array {
  return Int32Array.from({ length: rows }, (_, i) => (i % 5 === 3 ? -100 : (i * 37) % n));
}

const double = new ReferenceBackend({ double: true });
const kinds = ['kl', 'reverse', 'jsd', 'ce', 'l2'] as const;
const reductions = ['batchmean', 'mean', 'sum'] as const;
const options: ops.DistillOptions[] = kinds.flatMap((kind) =>
  reductions.map((reduction) => ({ kind, reduction, temperature: 1.7 })),
);

interface Weighed extends ops.CrossEntropyOptions {
  readonly weights?: Float32Array;
}

/** torch's cross_entropy in f64, by its own formula: −log p of the label and the mean over all classes, each weighed. */
function torchCrossEntropy(labels: Int32Array, n: number, options: Weighed) {
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

test('KL with weights of rows is the mean of the rows by their weights', async () => {
  for (const [rows, n] of [[1, 1], [3, 5], [4, 16], [5, 23]]) {
    const weights = Array.from({ length: rows }, (_, r) => (rows === 1 ? 2 : r % 3));
    const data = [random(rows * n, 1, 8), random(rows * n, 2, 8)];
    const kl = { kind: 'kl', temperature: 2, reduction: 'mean' } as const;
    for (const backend of backends) {
      const row = (r: number) => data.map((x) => fromData(backend, x.slice(r * n, (r + 1) * n), [1, n]));
      let want = 0;
      for (const [r, weight] of weights.entries()) {
        const [s, t] = row(r);
        want += weight * (await distillLoss(s, t, kl).item());
      }
      want /= weights.reduce((a, b) => a + b);
      const [s, t] = data.map((x) => fromData(backend, x, [rows, n]));
      const got = await distillLoss(s, t, kl, fromData(backend, weights, [rows])).item();
      const near = Math.abs(got - want) <= 2e-5 * want + 3e-6;
      assert.ok(near, `${backend.description} ${rows}×${n}: ${got}, expected ${want}`);
    }
  }
});

const targets: [rows: number, n: number, options: ops.CrossEntropyOptions, weighted: boolean][] = [
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
    const run: Run = (t) => {
      const [x, y] = [t.leaf(data, [rows, n]), t.values(labels, [rows], 'i32')];
      return crossEntropy(x, y, { ...options, weight: weights && t.values(weights, [n]) });
    };
    const [, gradient] = await evaluate(double, run);
    const want = [Float64Array.from(torchCrossEntropy(labels, n, { ...options, weights })(Array.from(data))), gradient];
    for (const backend of backends) assertNear(await evaluate(backend, run), want, `${backend.kind} ${what}`, 2e-5);
    await checkDifferences(new Inputs(double), run, { samples: 20 });
  });
}

test('losses of 16-bit logits are f32', () => {
  for (const backend of backends) {
    for (const dtype of ['f16', 'bf16'] as const) {
      const [x, t] = [1, 2].map((seed) => cast(fromData(backend, random(9 * 33, seed, 8), [9, 33]), dtype));
      const ce = crossEntropy(x, fromData(backend, labelsFor(9, 33), [9], 'i32'));
      assert.equal([ce, distillLoss(x, t, options[0])].map((loss) => loss.dtype), ['f32', 'f32']);
    }
  }
});

test('cross-entropy holds at extremes', async () => {
  const data = Float32Array.of(1e4, -1e4, 0, -Infinity, 0, 3);
  for (const backend of backends) {
    const run: Run = (t) => crossEntropy(t.leaf(data, [2, 3]), t.values([0, 2], [2], 'i32'));
    const [loss, grad] = await evaluate(backend, run);
    assert.ok(Math.abs(loss[0] - Math.log1p(Math.exp(-3)) / 2) < 1e-6, `${backend.kind}: ${loss[0]}`);
    assert.ok(grad.every(Number.isFinite), `${backend.kind}: ${grad}`);
  }
});

test('a class that is no target may weigh anything', async () => {
  for (const backend of backends) {
    const run: Run = (t) => {
      const [x, y] = [t.leaf(Float32Array.of(1, 2, 3), [1, 3]), t.values([0], [1], 'i32')];
      return crossEntropy(x, y, { weight: t.values([1, Infinity, NaN]) });
    };
    const [loss, grad] = await evaluate(backend, run);
    assert.ok(Math.abs(loss[0] - 2.4076059) < 1e-6, `${backend.kind}: ${loss[0]}`);
    assert.ok(grad.every(Number.isFinite), `${backend.kind}: ${grad}`);
  }
});

/** f32 of every magnitude, to the largest but for one power of two. */
const MAGNITUDES = [0, 1, -1, 1e4, -1e4, 1e6, 1e8, -1e8, 1e30, -1e30, 3e38, -3e38].map(Math.fround);

/** The two columns [a, b] at each magnitude. */
const atMagnitudes = (pair: (s: number) => [number, number]) => Float32Array.from(MAGNITUDES.flatMap(pair));
const flat = atMagnitudes((s) => [s, s]);

/** A distillation of rows of logits to those of a teacher. */
function distilled(columns: number, student: Float32Array, teacher: Float32Array, options: ops.DistillOptions): Run {
  const shape = [student.length / columns, columns];
  return (t) => distillLoss(t.leaf(student, shape), t.values(teacher, shape), options);
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
  const labels = new Int32Array(rows);
  for (const backend of backends) {
    const run: Run = (t) => crossEntropy(t.leaf(flat, [rows, 2]), t.values(labels, [rows], 'i32'));
    const [loss, grad] = await evaluate(backend, run);
    const dy = random(1, 101)[0] / rows;
    assertEach(loss, [Math.LN2], backend.kind);
    assertEach(grad, [-dy / 2, dy / 2], backend.kind);
  }
});

test('KL and the other divergences do not depend on what both logits have added, at every magnitude', async () => {
  // The teacher's logits ln 3 apart, which only small magnitudes can hold; beyond, one of two alike.
  const small = Float32Array.of(0, 0, 1, 1);
  const tilted = Float32Array.of(0, 3 * Math.log(3), 1, 1 + 3 * Math.log(3));
  for (const backend of backends) {
    for (const kind of ['kl', 'reverse', 'jsd', 'ce'] as const) {
      for (const temperature of [0.5, 3]) {
        const label = `${backend.kind} ${kind} at ${temperature}`;
        const [loss, grad] = await evaluate(backend, distilled(2, flat, flat, { kind, temperature, reduction: 'sum' }));
        const ce = kind === 'ce';
        assertEach(loss, [ce ? MAGNITUDES.length * Math.LN2 : 0], label);
        const dy = random(1, 101)[0];
        assertEach(grad, ce ? [-dy / 2, dy / 2] : [0, 0], label);
      }
    }
    // KL of (¼, ¾) from (½, ½) at temperature 3, by hand.
    const atThree = { kind: 'kl', temperature: 3, reduction: 'sum' } as const;
    const [loss, grad] = await evaluate(backend, distilled(2, small, tilted, atThree));
    const kl = Math.LN2 + 0.25 * Math.log(0.25) + 0.75 * Math.log(0.75);
    const dy = random(1, 101)[0];
    assert.ok(Math.abs(loss[0] - 2 * 9 * kl) < 1e-5, `${backend.kind}: ${loss[0]}`);
    assertNear([grad], [Float32Array.of(1, -1, 1, -1).map((v) => v * 3 * 0.25 * dy)], backend.kind, 1e-5);
  }
});

test('KL where the teacher is sure is ln 2, at every magnitude', async () => {
  const sure = atMagnitudes((s) => [Math.abs(s) + 3e7, -1e9]);
  const run = distilled(2, flat, sure, { kind: 'kl', temperature: 2, reduction: 'mean' });
  for (const backend of backends) {
    const [loss, grad] = await evaluate(backend, run);
    const dy = random(1, 101)[0] / MAGNITUDES.length;
    assertEach(loss, [4 * Math.LN2], backend.kind);
    assertEach(grad, [-dy, dy], backend.kind);
  }
});

test('l2 is right where squares are beyond f32', async () => {
  for (const backend of backends) {
    for (const s of [1e-30, 1e-3, 1e25, 1e34].map(Math.fround)) {
      for (const [weights, root] of [[[1, 1], Math.SQRT2], [[1, 0.25], Math.sqrt(1.25)], [[0, 1], 1]] as const) {
        const [loss, grad] = await evaluate(backend, (t) => {
          const [x, zero] = [t.leaf(Float32Array.of(s, 0, 0, 0, -s, 0), [2, 3]), t.values(new Float32Array(6), [2, 3])];
          return distillLoss(x, zero, { kind: 'l2', temperature: 1, reduction: 'sum' }, t.values(weights));
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
      const x = Object.assign(fromData(backend, row, [1, 2]), { requiresGrad: true });
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
    const refused = (run: () => void) => throws(run, ShapeError, /\[2, 0\], expected .* at least one class/);
    refused(() => crossEntropy(t(2, 0), labels(2)));
    for (const kind of kinds) refused(() => distillLoss(t(2, 0), t(2, 0), { ...option, kind, reduction: 'mean' }));
  }
});

test('cross-entropy is 0 where no label counts, and NaN for a label out of range', async () => {
  for (const backend of backends) {
    const of = (...labels: number[]) =>
      evaluate(backend, (t) => crossEntropy(t(2, 3), t.values(labels, [2], 'i32'), { ignoreIndex: 7 }));
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
      const pick = (x: Float32Array) => Float32Array.from(rows.flatMap((r) => [...x.subarray(r * 9, r * 9 + 9)]));
      const fixed = { ...option, reduction: option.reduction === 'batchmean' ? 'sum' : option.reduction } as const;
      return evaluate(backend, (make) => {
        const shape = [rows.length, 9];
        return distillLoss(make.leaf(pick(s), shape), make.values(pick(t), shape), fixed, make.values(weights));
      });
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
    const run = (student: Float32Array) => distilled(25, student, same, { kind, temperature: 1, reduction: 'sum' });
    const [loss, grad] = await evaluate(gpu, run(same));
    assert.ok(Math.abs(loss[0]) < 1e-6 && grad.every((v) => Math.abs(v) < 1e-6), `${kind}: ${loss} ${grad}`);
    const [got, want] = [await evaluate(gpu, run(near)), await evaluate(reference, run(near))];
    assertNear([got[1]], [want[1]], kind, 5e-3);
  }
});

test('distillation holds at extremes', async () => {
  const s = Float32Array.of(-Infinity, 0, 1e4, 300, -300, 0);
  const t = Float32Array.of(-Infinity, 1, 1e4, -300, 300, 0);
  for (const kind of ['kl', 'ce'] as const) {
    for (const backend of backends) {
      const [loss, grad] = await evaluate(backend, distilled(3, s, t, { kind, temperature: 1, reduction: 'sum' }));
      assert.ok(Math.abs(loss[0] - 600) < 1e-3, `${backend.kind} ${kind}: ${loss[0]}`);
      assert.ok(grad.every(Number.isFinite), `${backend.kind} ${kind}: ${grad}`);
    }
  }
});

test('the gradient of l2Distance at 0 is 0', async () => {
  const data = random(5, 1);
  for (const backend of backends) {
    const [y, da, db] = await evaluate(backend, (t) => l2Distance(t.leaf(data, [5]), t.leaf(data, [5])));
    assert.ok([...y, ...da, ...db].every((v) => v === 0), backend.kind);
  }
});

test.run();
