import { apply } from '../../engine/apply.ts';
import { expectFinite, expectOneOf } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { launchRows } from '../common/rows.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { div, mul } from '../elementwise/binary.ts';
import { cast } from '../elementwise/cast.ts';
import { logicalNot } from '../elementwise/compare.ts';
import { ones, zerosLike } from '../elementwise/fill.ts';
import { sqrt } from '../elementwise/unary.ts';
import { maskedFill, where } from '../elementwise/where.ts';
import { argmax, l2Distance, sum } from '../reduce/reduce.ts';
import { crossEntropy } from './cross-entropy.ts';
import { type DivergenceKind, DIVERGENCES } from './divergences.ts';
import { expectClasses, logSums, maxAndLogSum } from './log-sum.ts';
import { launchReduction, reduceOnHost, type Reduction } from './reduction.ts';

export type DistillKind = DivergenceKind | 'ce' | 'l2';

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

interface DivergenceAttrs extends DistillOptions {
  readonly kind: DivergenceKind;
}

/** How rows of (B, …, V) become one loss. */
function reductionOf({ temperature, reduction }: DivergenceAttrs, { shape }: Spec): Reduction {
  const batch = reduction === 'batchmean' && shape.length > 1 ? shape[0] : 1;
  return { factor: temperature ** 2 / batch, byWeight: reduction === 'mean' };
}

/**
 * Numbers that a row leaves for its gradient: the student's maximum and log Σ exp((x − maximum)/T), the teacher's, and
 * the divergence's aux.
 */
const STATS = 5;

/** Logarithms of the probabilities of class c of row r, the student's and the teacher's, by the row's statistics. */
function logsOf(student: HostArg, teacher: HostArg, r: number, k: number, stats: ArrayLike<number>) {
  const at = r * student.shape.at(-1)!;
  return (c: number): [a: number, b: number] => [
    (student.data[at + c] - stats[0]) * k - stats[1],
    (teacher.data[at + c] - stats[2]) * k - stats[3],
  ];
}

/** The op of the divergences: also gives d loss/d (weighted row loss), and the statistics of each row. */
const distillLossOp = /* @__PURE__ */ defineOp({
  name: 'distill_loss',
  inputs: ['student', 'teacher', 'weights?'],
  outputs: ['loss', 'factor', 'stats'],
  shape({ student }, _: DivergenceAttrs) {
    return { loss: spec([]), factor: spec([]), stats: spec([...student.shape.slice(0, -1), STATS]) };
  },
  reference({ student, teacher, weights }, { loss, factor, stats }, attrs) {
    const n = student.shape.at(-1)!;
    const k = 1 / attrs.temperature;
    let total = 0;
    let weight = 0;
    for (let r = 0; r * n < student.size; r++) {
      const of = ({ data }: HostArg) => maxAndLogSum(data.subarray(r * n, r * n + n), k);
      const logs = [...of(student), ...of(teacher)];
      const logsAt = logsOf(student, teacher, r, k, logs);
      let [own, aux] = [0, 0];
      for (let c = 0; c < n; c++) {
        const [term, other] = DIVERGENCES[attrs.kind].termsOf(...logsAt(c));
        own += term;
        aux += other;
      }
      const w = weights ? weights.data[r] : 1;
      if (w !== 0) total += w * own;
      weight += w;
      stats.data.set([...logs, aux], r * STATS);
    }
    [loss.data[0], factor.data[0]] = reduceOnHost(total, weight, reductionOf(attrs, student));
  },
  webgpu({ student, teacher, weights }, { loss, factor, stats }, attrs, device) {
    const n = student.shape.at(-1)!;
    const losses = device.scratch([student.size / n]);
    const perRow = launchRows(device, losses.size, n, {
      key: `distill_loss.${attrs.kind}`,
      reads: { student, teacher, weights },
      writes: { losses, stats },
      params: { k: ['f32', 1 / attrs.temperature] } as const,
      constants: { STATS },
      declarations: () => logSums('params.k'),
      body: () => /* wgsl */ `
  var sum_s = no_exp();
  var sum_t = no_exp();
  for (var c = lane; c < params.columns; c += LANES) {
    sum_s = with_exp(sum_s, load_student(base + c));
    sum_t = with_exp(sum_t, load_teacher(base + c));
  }
  let logs = max_and_log_sum(sum_s, sum_t, local);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let a = (load_student(base + c) - logs.x) * params.k - logs.y;
    let b = (load_teacher(base + c) - logs.z) * params.k - logs.w;
    let p = exp(a);
    let q = exp(b);
    sums += ${DIVERGENCES[attrs.kind].terms};
  }
  let row_loss = row_sum2(sums, local);
  if (row >= params.rows || lane > 0u) { return; }
  let w = ${weights ? 'load_weights(row)' : '1.0'};
  store_losses(row, select(w * row_loss.x, 0.0, w == 0.0));
  for (var j = 0u; j < 4u; j++) { store_stats(row * STATS + j, logs[j]); }
  store_stats(row * STATS + 4u, row_loss.y);`,
    });
    return [perRow, launchReduction(device, reductionOf(attrs, student), { losses, weights }, { loss, factor })];
  },
  wasm({ student, teacher, weights }, { loss, factor, stats }, attrs, { k }) {
    if (attrs.kind !== 'kl') return false;
    const n = student.shape.at(-1)!;
    const end = reductionOf(attrs, student);
    const sizes = [student.size / n, n, 1 / attrs.temperature, end.factor, Number(end.byWeight)] as const;
    k.kl_div(student, teacher, weights, loss, factor, stats, ...sizes);
    return true;
  },
  saves: ['student', 'teacher', 'weights', 'factor', 'stats'],
  backward: ({ needs, saved, grads, attrs }) => ({
    student: needs.student ? apply(distillLossBackward, { ...saved, dy: grads.loss! }, attrs).dstudent : null,
  }),
});

const distillLossBackward = /* @__PURE__ */ defineOp({
  name: 'distill_loss_backward',
  inputs: ['student', 'teacher', 'weights?', 'factor', 'stats', 'dy'],
  outputs: ['dstudent'],
  shape: ({ student }, _: DivergenceAttrs) => ({ dstudent: spec(student.shape, student.dtype) }),
  reference({ student, teacher, weights, factor, stats, dy }, { dstudent }, attrs) {
    const n = student.shape.at(-1)!;
    const k = 1 / attrs.temperature;
    for (let r = 0; r * n < student.size; r++) {
      const own = stats.data.subarray(r * STATS, (r + 1) * STATS);
      const logsAt = logsOf(student, teacher, r, k, own);
      const w = factor.data[0] * dy.data[0] * (weights ? weights.data[r] : 1);
      const slope = (c: number) => w * k * DIVERGENCES[attrs.kind].slopeOf(...logsAt(c), own[4]);
      for (let c = 0; c < n; c++) dstudent.data[r * n + c] = w === 0 ? 0 : slope(c);
    }
  },
  webgpu({ student, teacher, weights, factor, stats, dy }, { dstudent }, attrs, device) {
    return [launchElements(device, student.size, {
      key: `distill_loss.backward.${attrs.kind}`,
      reads: { student, teacher, weights, factor, stats, dy },
      writes: { dstudent },
      params: { columns: student.shape.at(-1)!, k: ['f32', 1 / attrs.temperature] } as const,
      constants: { STATS },
      body: () => /* wgsl */ `
  let row = i / params.columns;
  let at = row * STATS;
  let a = (load_student(i) - load_stats(at)) * params.k - load_stats(at + 1u);
  let b = (load_teacher(i) - load_stats(at + 2u)) * params.k - load_stats(at + 3u);
  let aux = load_stats(at + 4u);
  let p = exp(a);
  let q = exp(b);
  let w = load_factor(0u) * load_dy(0u)${weights ? ' * load_weights(row)' : ''};
  store_dstudent(i, select(w * (params.k * (${DIVERGENCES[attrs.kind].slope})), 0.0, w == 0.0));`,
    })];
  },
  wasm({ student, teacher, weights, factor, stats, dy }, { dstudent }, attrs, { k }) {
    if (attrs.kind !== 'kl') return false;
    const n = student.shape.at(-1)!;
    k.kl_div_backward(student, teacher, stats, factor, dy, weights, dstudent, student.size / n, n, 1 / attrs.temperature);
    return true;
  },
});

/** The losses of kinds that other ops compute. @param weights f32 */
function plainLoss(student: Tensor, teacher: Tensor, { kind, reduction }: DistillOptions, weights: Tensor): Tensor {
  const all = sum(weights);
  const over = (total: Tensor, by: Tensor) => where(all, div(total, by), zerosLike(all));
  if (kind === 'l2') {
    const root = l2Distance(student, teacher.detach(), weights);
    return reduction === 'mean' ? over(root, sqrt(all)) : root;
  }
  // Rows without weight may hold anything.
  const labels = maskedFill(argmax(teacher, -1), logicalNot(weights), -100);
  const total = sum(mul(crossEntropy(student, labels, { reduction: 'none' }), weights));
  return reduction === 'sum' ? total : over(total, all);
}

/**
 * The loss between a student's and a teacher's logits (Hinton et al. 2015; MaTVLM §3.3): see `DistillOptions`. No
 * gradient goes to the teacher, and nothing of the logits' size is stored but the gradient.
 * @param student floats (…, V), V ≥ 1
 * @param teacher floats, of the same shape
 * @param weights floats (…), factors for the rows' losses: which tokens count
 * @returns f32 []
 * @throws ArgumentError for a kind or reduction that is none of these, and a temperature that is not above 0
 */
export function distillLoss(student: Tensor, teacher: Tensor, options: DistillOptions, weights?: Tensor): Tensor {
  const { kind, temperature, reduction } = options;
  expectOneOf('distill_loss', 'kind', kind, ...Object.keys(DIVERGENCES), 'ce', 'l2');
  expectOneOf('distill_loss', 'reduction', reduction, 'batchmean', 'mean', 'sum');
  expectFinite('distill_loss', 'temperature', temperature, Number.MIN_VALUE);
  expectFloats('distill_loss', { student, teacher, weights });
  expectShape('distill_loss', 'teacher', teacher, student.shape);
  expectClasses('distill_loss', 'student', student);
  if (weights) expectShape('distill_loss', 'weights', weights, student.shape.slice(0, -1));
  return scope(() => {
    if (kind !== 'ce' && kind !== 'l2') return apply(distillLossOp, { student, teacher, weights }, { ...options, kind }).loss;
    const rows = weights ? cast(weights.detach(), 'f32') : ones(student.backend, student.shape.slice(0, -1));
    return plainLoss(student, teacher, options, rows);
  });
}
