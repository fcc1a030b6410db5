import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import squaresWgsl from '../common/squares.wgsl';
import { launchFold } from '../reduce/fold.ts';

/** How losses of rows become one: f = factor, over Σ weights if `byWeight`. */
export interface Reduction {
  readonly factor: number;
  readonly byWeight: boolean;
  /** f·Σ w·loss; f·Σ loss, where losses hold their weights already; or √(f·Σ w·loss²), of roots of losses. */
  readonly sum: 'weighted' | 'plain' | 'root';
}

/** The one loss, and its derivative by what is summed: of Σ w·loss, Σ loss or Σ w·loss², and Σ weights. */
export function reduceOnHost(total: number, weight: number, { factor, byWeight, sum }: Reduction): [number, number] {
  const f = byWeight ? (weight === 0 ? 0 : factor / weight) : factor;
  if (sum !== 'root') return [total * f, f];
  const loss = Math.sqrt(total * f);
  return [loss, loss === 0 ? 0 : f / (2 * loss)];
}

/** WGSL: what row i adds to a sum and where in that weights are, the loss of all and its derivative. */
const SUMS = {
  weighted: {
    acc: 'vec2<f32>',
    load: 'select(vec2(weight(i) * load_losses(i), weight(i)), vec2<f32>(), weight(i) == 0.0)',
    weight: 'y',
    loss: 'total.x * f',
    slope: 'f',
  },
  // A row without weight may have a loss, as label smoothing gives it one.
  plain: { acc: 'vec2<f32>', load: 'vec2(load_losses(i), weight(i))', weight: 'y', loss: 'total.x * f', slope: 'f' },
  root: {
    acc: 'vec4<f32>',
    load: 'select(vec4(squares(sqrt(weight(i)) * load_losses(i)), weight(i)), vec4<f32>(), weight(i) == 0.0)',
    weight: 'w',
    loss: 'norm_of(total.xyz) * sqrt(f)',
    slope: 'select(0.5 * f / loss, 0.0, loss == 0.0)',
  },
} as const satisfies Record<Reduction['sum'], object>;

/** Rows of losses, and perhaps their weights, to loss [] and factor [], its derivative, in a fixed order. */
export function launchReduction(
  reduction: Reduction,
  reads: { readonly losses: Slot; readonly weights?: Slot },
  writes: { readonly loss: Slot; readonly factor: Slot },
  device: GpuPlanner,
): Launch {
  const { factor, byWeight, sum } = reduction;
  const { acc, load, weight, loss, slope } = SUMS[sum];
  const helpers = /* wgsl */ `${squaresWgsl}
fn weight(i: u32) -> f32 { return ${reads.weights ? 'load_weights(i)' : '1.0'}; }
`;
  const kernel = {
    ...{ key: `reduce_losses.${sum}`, reads, writes },
    params: { factor: ['f32', factor], by_weight: Number(byWeight) },
    fold: { type: acc, load, acc, lift: 'v', join: 'a + b', helpers },
    body: /* wgsl */ `
  if (at.line > 0u || at.lane > 0u) { return; }
  var f = params.factor;
  if (params.by_weight == 1u) { f = select(f / total.${weight}, 0.0, total.${weight} == 0.0); }
  let loss = ${loss};
  store_loss(0u, loss);
  store_factor(0u, ${slope});`,
  } as const;
  return launchFold(kernel, { outer: 1, len: reads.losses.size, inner: 1 }, device);
}
