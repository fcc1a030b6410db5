import { expectFinite, expectOneOf } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply, apply1, defineOp, type HostArg, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { distillBackward, distillForward, type DistillKind, STATS } from './distill-kernels.ts';
import { flatLaunch } from '../common/flat.ts';
import { comesBefore } from '../reduce/order.ts';
import { expectClasses, type Finish, finishLaunch, finishOnHost, maxAndLogSum } from './row-losses.ts';
import { lanesFor, rowGrid } from '../common/rows.ts';
import { expectShape } from '../common/shapes.ts';

export type { DistillKind } from './distill-kernels.ts';

export interface DistillOptions {
  /**
   * With p_s and p_t the softmax of logits/T, a row's loss is
   * - `kl`: Σ p_t (log p_t − log p_s)
   * - `reverse`: Σ p_s (log p_s − log p_t)
   * - `jsd`: ½ Σ m (log m − log p_s) + ½ Σ m (log m − log p_t), m = ½(p_s + p_t)
   * - `ce`: −log softmax(student)[argmax teacher], without temperature
   * - `l2`: ‖student − teacher‖² of the logits, without temperature; the reduction's root is the loss
   */
  readonly kind: DistillKind;
  readonly temperature: number;
  /**
   * `batchmean`: Σ rows / (size of the first dimension), as torch's kl_div has it; for `ce` the mean over rows and for
   * `l2` the plain sum, as published. `mean`: Σ rows / number of rows (with weights: / Σ weights). `sum`: Σ rows.
   * `kl`, `reverse` and `jsd` are multiplied by T².
   */
  readonly reduction: 'batchmean' | 'mean' | 'sum';
}

/** How rows become one loss. */
function finish({ kind, temperature, reduction }: DistillOptions, batch: number): Finish {
  const root = kind === 'l2';
  const scaled = kind === 'ce' || kind === 'l2' ? 1 : temperature * temperature;
  const byWeight = reduction === 'mean' || (reduction === 'batchmean' && kind === 'ce');
  const overBatch = reduction === 'batchmean' && kind !== 'ce' && kind !== 'l2';
  return { factor: overBatch ? scaled / batch : scaled, byWeight, root };
}

/** The size of the first dimension of (B, …, V); 1 for a single row. */
function batchOf(shape: readonly number[]): number {
  return shape.length > 1 ? shape[0] : 1;
}

function logCosh(x: number): number {
  const a = Math.abs(x);
  return a + Math.log1p(Math.exp(-2 * a)) - Math.LN2;
}

/** 0·x = 0, also for infinite x. */
const times = (p: number, x: number) => (p === 0 ? 0 : p * x);

/** A row's loss; puts the last of its statistics, which its gradient needs, beside the others. */
function rowLoss(kind: DistillKind, s: HostArg, t: HostArg, at: number, n: number, k: number, stats: number[]): number {
  let loss = 0;
  let best = 0;
  for (let c = 0; c < n; c++) {
    const a = (s.data[at + c] - stats[0]) * k - stats[1];
    const b = (t.data[at + c] - stats[2]) * k - stats[3];
    if (kind === 'kl') loss += times(Math.exp(b), b - a);
    if (kind === 'reverse') loss += times(Math.exp(a), a - b);
    if (kind === 'jsd') {
      loss += times((Math.exp(a) + Math.exp(b)) / 2, logCosh((a - b) / 2));
      stats[4] += times(Math.exp(a) / 2, logCosh((a - b) / 2));
    }
    if (kind === 'l2') loss += (s.data[at + c] - t.data[at + c]) ** 2;
    if (comesBefore(t.data[at + c], c, t.data[at + best], best)) best = c;
  }
  if (kind === 'reverse') stats[4] = loss;
  if (kind !== 'ce') return loss;
  stats[4] = best;
  return stats[1] - (s.data[at + best] - stats[0]);
}

/** The derivative of a row's loss by one logit of the student. */
function slope(kind: DistillKind, s: number, t: number, c: number, k: number, stats: ArrayLike<number>): number {
  const a = (s - stats[0]) * k - stats[1];
  const b = (t - stats[2]) * k - stats[3];
  const p = Math.exp(a);
  const q = Math.exp(b);
  switch (kind) {
    case 'kl':
      return k * (p - q);
    case 'reverse':
      return k * times(p, a - b - stats[4]);
    case 'jsd':
      return k * (times(p, logCosh((a - b) / 2) / 2 - stats[4]) + (p - q) / 4);
    case 'ce':
      return p - (c === stats[4] ? 1 : 0);
    case 'l2':
      return 2 * (s - t);
    default:
      return kind satisfies never;
  }
}

/** 1/T, which `ce` and `l2` leave out. */
function inverse({ kind, temperature }: DistillOptions): number {
  return kind === 'ce' || kind === 'l2' ? 1 : 1 / temperature;
}

/** The op behind `distillLoss`: also gives d loss/d (weighted row loss), and the statistics of each row. */
export const distillLossOp = /* @__PURE__ */ defineOp<DistillOptions>({
  name: 'distill_loss',
  shape([student, teacher, weights], { kind, temperature, reduction }) {
    expectOneOf('distill_loss', 'kind', kind, 'kl', 'reverse', 'jsd', 'ce', 'l2');
    expectOneOf('distill_loss', 'reduction', reduction, 'batchmean', 'mean', 'sum');
    expectFinite('distill_loss', 'temperature', temperature, Number.MIN_VALUE);
    expectDType('distill_loss', 'student', student.dtype, 'f32');
    expectDType('distill_loss', 'teacher', teacher.dtype, 'f32');
    expectShape('distill_loss', 'teacher', teacher, student.shape);
    expectClasses('distill_loss', 'student', student);
    const rows = student.shape.slice(0, -1);
    if (weights) {
      expectDType('distill_loss', 'weights', weights.dtype, 'f32');
      expectShape('distill_loss', 'weights', weights, rows);
    }
    return [spec([]), spec([]), spec([...rows, STATS])];
  },
  reference({ inputs: [student, teacher, weights], outputs: [loss, factor, stats], attrs }) {
    const n = student.shape.at(-1)!;
    const k = inverse(attrs);
    let total = 0;
    let weight = 0;
    for (let r = 0; r * n < student.size; r++) {
      const row = [...maxAndLogSum(student.data, r * n, n, k), ...maxAndLogSum(teacher.data, r * n, n, k), 0];
      const w = weights ? weights.data[r] : 1;
      total += times(w, rowLoss(attrs.kind, student, teacher, r * n, n, k, row));
      weight += w;
      stats.data.set(row, r * STATS);
    }
    [loss.data[0], factor.data[0]] = finishOnHost(total, weight, finish(attrs, batchOf(student.shape)));
  },
  webgpu({ inputs: [student, teacher, weights], outputs: [loss, factor, stats], attrs, scratch }) {
    const n = student.shape.at(-1)!;
    const rows = student.size / n;
    const lanes = lanesFor(n);
    const losses = scratch([rows]);
    return [
      {
        shader: distillForward(attrs.kind, lanes),
        args: [student, teacher, losses, stats],
        params: [rows, n, inverse(attrs)],
        grid: rowGrid(rows, lanes),
      },
      finishLaunch(losses, weights ?? null, loss, factor, finish(attrs, batchOf(student.shape))),
    ];
  },
  wasm({ inputs: [student, teacher, weights], outputs: [loss, factor, stats], attrs, k }) {
    if (attrs.kind !== 'kl') return false;
    const n = student.shape.at(-1)!;
    const end = finish(attrs, batchOf(student.shape));
    const args = [student.ptr, teacher.ptr, weights?.ptr ?? 0, loss.ptr, factor.ptr, stats.ptr] as const;
    k.kl_div(...args, student.size / n, n, inverse(attrs), end.factor, Number(end.byWeight));
    return true;
  },
  saves: { inputs: [0, 1, 2], outputs: [1, 2] },
  backward({ needs, inputSpecs, input, output, grads, attrs }) {
    const weights = inputSpecs.length > 2 ? [input(2)] : [];
    const inputs = [input(0), input(1), output(2), output(1), grads[0]!, ...weights];
    return [needs[0] ? apply1(distillLossBackward, inputs, attrs) : null, null, null];
  },
});

const distillLossBackward = /* @__PURE__ */ defineOp<DistillOptions>({
  name: 'distill_loss_backward',
  shape: ([student]) => [spec(student.shape)],
  reference({ inputs: [student, teacher, stats, factor, dy, weights], outputs: [ds], attrs }) {
    const n = student.shape.at(-1)!;
    const k = inverse(attrs);
    for (let r = 0; r * n < ds.size; r++) {
      const row = stats.data.subarray(r * STATS, (r + 1) * STATS);
      const w = factor.data[0] * dy.data[0] * (weights ? weights.data[r] : 1);
      for (let i = r * n; i < r * n + n; i++) {
        ds.data[i] = w === 0 ? 0 : w * slope(attrs.kind, student.data[i], teacher.data[i], i % n, k, row);
      }
    }
  },
  webgpu({ inputs, outputs: [ds], attrs }) {
    const kernel = distillBackward(attrs.kind, inputs.length > 5);
    return [flatLaunch(kernel, [...inputs, ds], [ds.size, ds.shape.at(-1)!, inverse(attrs)], ds.size)];
  },
  wasm({ inputs: [student, teacher, stats, factor, dy, weights], outputs: [ds], attrs, k }) {
    if (attrs.kind !== 'kl') return false;
    const n = ds.shape.at(-1)!;
    const args = [student.ptr, teacher.ptr, stats.ptr, factor.ptr, dy.ptr, weights?.ptr ?? 0, ds.ptr] as const;
    k.kl_div_backward(...args, ds.size / n, n, inverse(attrs));
    return true;
  },
});

/**
 * The loss between a student's and a teacher's logits (Hinton et al. 2015; MaTVLM §3.3): see `DistillOptions`. No
 * gradient goes to the teacher, and nothing of the logits' size is stored but the gradient.
 * @param student f32 (…, V), V ≥ 1
 * @param teacher f32, of the same shape
 * @param weights f32 (…), factors for the rows' losses: which tokens count
 * @returns f32 []
 * @throws ArgumentError for a kind or reduction that is none of these, and a temperature that is not above 0
 */
export function distillLoss(student: Tensor, teacher: Tensor, options: DistillOptions, weights?: Tensor): Tensor {
  const inputs = weights ? [student, teacher, weights] : [student, teacher];
  const [loss, factor, stats] = apply(distillLossOp, inputs, options);
  factor.dispose();
  stats.dispose();
  return loss;
}
