import { apply } from '../../engine/apply.ts';
import { expectFinite, expectOneOf, expectWhole } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { scaled } from '../common/math.ts';
import { launchRows } from '../common/rows.ts';
import { expectFloats, expectShape } from '../common/shapes.ts';
import { expectClasses, logSums, maxAndLogSum } from './log-sum.ts';
import { launchReduction, reduceOnHost, type Reduction } from './reduction.ts';

type CrossEntropyAttrs = Omit<Required<CrossEntropyOptions>, 'weight'>;

const reductionOf = ({ reduction }: CrossEntropyAttrs): Reduction => ({ factor: 1, byWeight: reduction === 'mean' });

/** What a class is worth as a target of a row: all is the label's, but for the share of label smoothing. */
function targetOnHost({ labelSmoothing }: CrossEntropyAttrs, label: number, classes: number, weight?: HostArg) {
  return (c: number) =>
    scaled((c === label ? 1 - labelSmoothing : 0) + labelSmoothing / classes, weight ? weight.data[c] : 1);
}

/** WGSL of the same; a label that is no class has none. */
const targets = (weighted: boolean, smooth: boolean) => /* wgsl */ `
fn weight_of(c: u32) -> f32 { return ${weighted ? 'load_weight(min(c, params.columns - 1u))' : '1.0'}; }
fn target_of(label: i32, c: u32) -> f32 {
  let spread = ${smooth ? 'params.smoothing' : '0.0'};
  return scaled(select(0.0, 1.0 - spread, u32(label) == c) + spread / f32(params.columns), weight_of(c));
}`;

/** Σ target·−log p over the classes, and Σ target. */
const ALL_CLASSES = /* wgsl */ `
  var terms = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let share = target_of(label, c);
    terms += vec2<f32>(scaled(share, stat.y - (load_logits(base + c) - stat.x)), share);
  }
  let sums = row_sum2(terms, local);`;

const LABEL_ALONE = 'let sums = vec2<f32>(stat.y - (load_logits(base + at) - stat.x), 1.0);';

/** What a device is told of the attributes. */
const paramsOf = ({ ignoreIndex, labelSmoothing }: CrossEntropyAttrs) =>
  ({ ignore: ['i32', ignoreIndex], smoothing: ['f32', labelSmoothing], nan: 0x7fc00000 }) as const;

/**
 * Also gives each row's maximum and log Σ exp(x − maximum); 1 / Σ weights of labels that count, unless losses stay
 * apart; and Σ of each row's targets where that is not 1.
 */
const crossEntropyOp = /* @__PURE__ */ defineOp({
  name: 'cross_entropy',
  inputs: ['logits', 'labels', 'weight?'],
  outputs: ['loss', 'stats', 'factor?', 'mass?'],
  shape({ logits, labels, weight }, { ignoreIndex, labelSmoothing, reduction }: CrossEntropyAttrs) {
    expectWhole('cross_entropy', 'ignoreIndex', ignoreIndex, -(2 ** 31));
    expectFinite('cross_entropy', 'labelSmoothing', labelSmoothing, 0, 1);
    expectOneOf('cross_entropy', 'reduction', reduction, 'mean', 'sum', 'none');
    expectFloats('cross_entropy', { logits, weight });
    expectDType('cross_entropy', 'labels', labels.dtype, 'i32');
    expectClasses('cross_entropy', 'logits', logits);
    expectShape('cross_entropy', 'labels', labels, logits.shape.slice(0, -1));
    if (weight) expectShape('cross_entropy', 'weight', weight, logits.shape.slice(-1));
    return {
      loss: spec(reduction === 'none' ? labels.shape : []),
      stats: spec([...labels.shape, 2]),
      factor: reduction === 'none' ? undefined : spec([]),
      mass: weight || labelSmoothing > 0 ? spec(labels.shape) : undefined,
    };
  },
  reference({ logits, labels, weight }, { loss, stats, factor, mass }, attrs) {
    const n = logits.shape.at(-1)!;
    let total = 0;
    let counted = 0;
    for (let r = 0; r < labels.size; r++) {
      const label = labels.data[r];
      const row = logits.data.subarray(r * n, r * n + n);
      const [max, logSum] = maxAndLogSum(row);
      stats.data.set([max, logSum], 2 * r);
      const target = targetOnHost(attrs, label, n, weight);
      let sum = label >= 0 && label < n ? 0 : NaN;
      let all = 0;
      for (let c = 0; c < n; c++) {
        const share = target(c);
        all += share;
        sum += scaled(share, logSum - (row[c] - max));
      }
      const ignored = label === attrs.ignoreIndex;
      if (mass) mass.data[r] = all;
      if (!factor) loss.data[r] = ignored ? 0 : sum;
      if (ignored) continue;
      counted += weight?.data[label] ?? 1;
      total += sum;
    }
    if (factor) [loss.data[0], factor.data[0]] = reduceOnHost(total, counted, reductionOf(attrs));
  },
  webgpu({ logits, labels, weight }, { loss, stats, factor, mass }, attrs, device) {
    const losses = factor ? device.scratch([labels.size]) : loss;
    const weights = factor && device.scratch([labels.size]);
    const perRow = launchRows(device, labels.size, logits.shape.at(-1)!, {
      key: `cross_entropy.${attrs.labelSmoothing > 0}`,
      reads: { logits, labels, weight },
      writes: { losses, weights, stats, mass },
      params: paramsOf(attrs),
      declarations: () => `${logSums('1.0')}${targets(weight !== undefined, attrs.labelSmoothing > 0)}`,
      body: () => /* wgsl */ `
  var sum = no_exp();
  for (var c = lane; c < params.columns; c += LANES) { sum = with_exp(sum, load_logits(base + c)); }
  let stat = max_and_log_sum(sum, no_exp(), local).xy;
  let label = load_labels(min(row, params.rows - 1u));
  let at = min(u32(label), params.columns - 1u);
  ${mass ? ALL_CLASSES : LABEL_ALONE}
  if (row >= params.rows || lane > 0u) { return; }
  let counts = label != params.ignore;
  let loss = select(bitcast<f32>(params.nan), sums.x, u32(label) < params.columns);
  store_losses(row, select(0.0, loss, counts));
  ${weights ? 'store_weights(row, select(0.0, weight_of(u32(label)), counts));' : ''}
  ${mass ? 'store_mass(row, sums.y);' : ''}
  store_stats(2u * row, stat.x);
  store_stats(2u * row + 1u, stat.y);`,
    });
    return factor ? [perRow, launchReduction(device, reductionOf(attrs), { losses, weights }, { loss, factor })] : [perRow];
  },
  wasm({ logits, labels }, { loss, stats, factor, mass }, { ignoreIndex, reduction }, { k }) {
    if (reduction !== 'mean' || mass) return false;
    k.cross_entropy(logits, labels, loss, stats, factor!, labels.size, logits.shape.at(-1)!, ignoreIndex);
    return true;
  },
  saves: ['logits', 'labels', 'weight', 'stats', 'factor', 'mass'],
  backward: ({ needs, saved, grads, attrs }) => ({
    logits: needs.logits ? apply(crossEntropyBackward, { ...saved, dy: grads.loss! }, attrs).dlogits : null,
  }),
});

/** dlogits = dy·factor·(mass·softmax − target), 0 in rows that do not count. */
const crossEntropyBackward = /* @__PURE__ */ defineOp({
  name: 'cross_entropy_backward',
  inputs: ['logits', 'labels', 'weight?', 'stats', 'factor?', 'mass?', 'dy'],
  outputs: ['dlogits'],
  shape: ({ logits }, _: CrossEntropyAttrs) => ({ dlogits: spec(logits.shape, logits.dtype) }),
  reference({ logits, labels, weight, stats, factor, mass, dy }, { dlogits }, attrs) {
    const n = logits.shape.at(-1)!;
    for (let r = 0; r < labels.size; r++) {
      const scale = factor ? factor.data[0] * dy.data[0] : dy.data[r];
      const target = targetOnHost(attrs, labels.data[r], n, weight);
      for (let c = 0; c < n; c++) {
        const p = Math.exp(logits.data[r * n + c] - stats.data[2 * r] - stats.data[2 * r + 1]);
        const slope = scale * ((mass ? mass.data[r] : 1) * p - target(c));
        dlogits.data[r * n + c] = labels.data[r] === attrs.ignoreIndex ? 0 : slope;
      }
    }
  },
  webgpu({ logits, labels, weight, stats, factor, mass, dy }, { dlogits }, attrs, device) {
    return [launchElements(device, logits.size, {
      key: `cross_entropy.backward.${attrs.labelSmoothing > 0}`,
      reads: { logits, labels, weight, stats, factor, mass, dy },
      writes: { dlogits },
      params: { columns: logits.shape.at(-1)!, ...paramsOf(attrs) },
      declarations: () => targets(weight !== undefined, attrs.labelSmoothing > 0),
      body: () => /* wgsl */ `
  let row = i / params.columns;
  let label = load_labels(row);
  let p = exp((load_logits(i) - load_stats(2u * row)) - load_stats(2u * row + 1u));
  let scale = ${factor ? 'load_factor(0u) * load_dy(0u)' : 'load_dy(row)'};
  let slope = scale * (${mass ? 'load_mass(row) * ' : ''}p - target_of(label, i - row * params.columns));
  store_dlogits(i, select(slope, 0.0, label == params.ignore));`,
    })];
  },
  wasm({ logits, labels, stats, factor, mass, dy }, { dlogits }, { ignoreIndex }, { k }) {
    if (!factor || mass) return false;
    const sizes = [labels.size, logits.shape.at(-1)!, ignoreIndex] as const;
    k.cross_entropy_backward(logits, labels, stats, factor, dy, dlogits, ...sizes);
    return true;
  },
});

export interface CrossEntropyOptions {
  /** Rows of this label do not count. Default: −100. */
  readonly ignoreIndex?: number;
  /** Floats (V): factors of the classes, by which `mean` weighs too. No gradient goes to them. */
  readonly weight?: Tensor;
  /** Share of each target, 0 to 1, that is spread evenly over all classes (Szegedy et al. 2016). Default: 0. */
  readonly labelSmoothing?: number;
  /** `mean`: Σ rows / Σ weights of their labels; `sum`: Σ rows; `none`: the rows. Default: `mean`. */
  readonly reduction?: 'mean' | 'sum' | 'none';
}

/**
 * −log softmax(logits)[label] of the rows whose label counts (torch.nn.functional.cross_entropy). Where none counts,
 * mean loss and gradient are 0 (torch has NaN), so that a batch without answers does no harm; a label out of range gives
 * NaN.
 * @param logits floats (…, V), V ≥ 1
 * @param labels i32 (…)
 * @returns f32 [], or of the labels' shape where nothing is reduced
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { weight, ignoreIndex = -100, labelSmoothing = 0, reduction = 'mean' } = options;
  const attrs = { ignoreIndex, labelSmoothing, reduction };
  return scope(() => apply(crossEntropyOp, { logits, labels, weight }, attrs).loss);
}
